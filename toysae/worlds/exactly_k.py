"""Exactly k features fire in each sample.

Equal probabilities are drawn by Floyd's algorithm (Bentley and Floyd 1987). Unequal ones follow the
conditional Bernoulli (maximum entropy) law, whose marginals are exactly the given ones. It is drawn
feature by feature in O(k log n_features): the next feature after i that fires, with j still to
come, is found by bisection, since P(none of i..m) = e_j(w_m+1, ..) / e_j(w_i, ..) with e_j the
elementary symmetric polynomials of the odds w. The odds come from the marginals by the recursion
and fixed point of Chen, Dempster and Liu (1994).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .. import draws, pytree
from ..errors import require
from .firing import Active, Firing
from .independent import multiply_high
from .probabilities import checked_probabilities

_MAX_UNEQUAL = 65_536  # with more, float32 does not resolve one feature's share of the table


@pytree.dataclass
class ExactlyKEqual(Firing):
    """Every subset of k features is equally likely; O(k^2) a sample."""

    total: int = pytree.field(pytree_node=False)
    k: int = pytree.field(pytree_node=False)

    @property
    def n_features(self) -> int:
        return self.total

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        bits = draws.bits(key, (n, self.k))
        chosen = []
        for i, last in enumerate(range(self.total - self.k, self.total)):
            candidate = multiply_high(bits[:, i], last + 1)
            repeated = jnp.zeros(n, bool)
            for other in chosen:
                repeated |= candidate == other
            chosen.append(jnp.where(repeated, last, candidate))
        indices = jnp.stack(chosen, 1).astype(jnp.int32)
        return Active(indices, jnp.ones_like(indices, bool))


@pytree.dataclass
class ExactlyK(Firing):
    """k features with unequal probabilities.

    Attributes:
        log_tail: `[k, n_features + 1]`: row j - 1 holds log e_j(w_i, w_i+1, ..) / e_j(w_0, ..).
    """

    log_tail: Float[Array, "k n_features+1"]

    @property
    def n_features(self) -> int:
        return self.log_tail.shape[-1] - 1

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        k = self.log_tail.shape[-2]
        uniforms = draws.uniform(key, (n, k), minval=float(jnp.finfo(jnp.float32).tiny))
        start, chosen = jnp.zeros(n, jnp.int32), []
        for i in range(k):
            tail = self.log_tail[k - 1 - i]
            # The first place whose tail is below u times the tail at `start`.
            target = tail[start] + jnp.log(uniforms[:, i])
            place = jnp.searchsorted(-tail, -target, side="right").astype(jnp.int32)
            feature = jnp.clip(place - 1, start, self.n_features - 1)
            chosen.append(feature)
            start = feature + 1
        indices = jnp.stack(chosen, 1)
        return Active(indices, jnp.ones_like(indices, bool))


def exactly_k(probs: Float[np.ndarray, " n_features"]) -> Firing:
    """Returns firing of exactly k = sum(probs) features in each sample, with these marginals.

    Args:
        probs: marginal firing probabilities in [0, 1), or all 1; their sum must be a whole number.

    Raises:
        ToysaeError: a probability outside [0, 1), a sum that is not a whole number, or unequal
            probabilities of too many features.
    """
    probs = checked_probabilities(probs)
    k = round(probs.sum())
    whole = k >= 1 and abs(probs.sum() - k) < 1e-6 * k
    require(whole, f"l0 {probs.sum():g} must be a whole number of features for exactly-k firing")
    if np.ptp(probs) < 1e-12:
        return ExactlyKEqual(probs.size, k)
    require(
        probs.size <= _MAX_UNEQUAL,
        f"n_features {probs.size} is over {_MAX_UNEQUAL}, the most for exactly-k firing with "
        "unequal probabilities: use probs=uniform",
    )
    probs = checked_probabilities(probs, "[0, 1)")
    return ExactlyK(jnp.asarray(_log_tails(odds_for(probs, k), k), jnp.float32))


def odds_for(probs: np.ndarray, k: int, tolerance: float = 1e-12) -> np.ndarray:
    """Odds `[n_features]` whose conditional Bernoulli law has the marginals `probs`."""
    odds = probs / (1 - probs)
    for _ in range(1000):
        marginal = inclusion(odds, k)
        if np.abs(marginal - probs).max() < tolerance:
            break
        odds = odds * np.divide(probs, marginal, out=np.zeros_like(probs), where=probs > 0)
        odds /= odds.mean()
    return odds


def inclusion(odds: np.ndarray, k: int) -> np.ndarray:
    """Marginals under exactly k: pi_j = j w (1 - pi_j-1) / sum w (1 - pi_j-1), up to j = k."""
    marginal = np.zeros_like(odds)
    for j in range(1, k + 1):
        share = odds * (1 - marginal)
        marginal = np.minimum(j * share / share.sum(), 1.0)
    return marginal


def _log_tails(odds: np.ndarray, k: int) -> np.ndarray:
    """The table `[k, n_features + 1]` of :class:`ExactlyK`."""
    n = len(odds)
    log_odds = np.where(odds > 0, np.log(np.where(odds > 0, odds, 1.0)), -np.inf)
    tails = np.full((k + 1, n + 1), -np.inf)
    tails[0] = 0.0
    for i in range(n - 1, -1, -1):
        tails[1:, i] = np.logaddexp(tails[1:, i + 1], log_odds[i] + tails[:-1, i + 1])
    return tails[1:] - tails[1:, :1]
