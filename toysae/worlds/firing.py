"""Which features fire in a sample: padded indices, never a dense array of features.

Independent firing is drawn in O(active): a Poisson process whose arrivals carry marks in
proportion to the hazards h_i = -log(1 - p_i) hits feature i at least once with probability
exactly p_i, independently of all others. Marks come from Walker's alias table (Vose 1991),
built in float64; the coin that is held against it has 24 bits, an absolute error of 6e-8 of the
mean hazard (0.3 % of p for the rarest of 20,000 features under a Zipf exponent of 2).
"""

from abc import abstractmethod

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from scipy import stats

from ..errors import require
from ..keys import named_key

_TAIL = 1e-12  # probability that a sample would need more slots than it has


@struct.dataclass
class Active:
    """The features on in each of `n` samples, in `slots` padded places.

    Attributes:
        indices: `[n, slots]` int32; padded places hold a valid index and are off.
        on: `[n, slots]` bool; a feature is on in at most one slot.
        filler: `[n]` bool; slot 0 holds a feature put there with coefficient 1 because
            nothing fired (only the interim report's replication does this).
    """

    indices: Int[Array, "n slots"]
    on: Bool[Array, "n slots"]
    filler: Bool[Array, " n"]


class Firing:
    """How features fire. `sample` is traceable; `slots` is static."""

    @abstractmethod
    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        """Draws which features are on in `n` samples."""


@struct.dataclass
class Bernoulli(Firing):
    """Independent firing, one uniform for each feature: small or dense worlds, any p in [0, 1]."""

    probs: Float[Array, " n_features"]

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        n_features = self.probs.shape[0]
        on = jax.random.uniform(key, (n, n_features)) < self.probs
        indices = jnp.broadcast_to(jnp.arange(n_features, dtype=jnp.int32), on.shape)
        return Active(indices, on, jnp.zeros(n, bool))


@struct.dataclass
class Arrivals(Firing):
    """Independent firing in O(active): Poisson arrivals marked through an alias table."""

    accept: Float[Array, " n_features"]
    alias: Int[Array, " n_features"]
    count_cdf: Float[Array, " slots"]

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        slots, n_features = self.count_cdf.shape[0], self.accept.shape[0]
        count = jax.random.uniform(named_key(key, "count"), (n, 1)) >= self.count_cdf
        # count[:, j] says that more than j features arrived, so it is also the slot mask.
        bits = jax.random.bits(named_key(key, "mark"), (2, n, slots), jnp.uint32)
        column = _multiply_high(bits[0], n_features)
        coin = (bits[1] >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)
        indices = jnp.where(coin < self.accept[column], column, self.alias[column])
        same = indices[:, :, None] == indices[:, None, :]
        earlier = jnp.tril(jnp.ones((slots, slots), bool), -1)
        repeated = (same & earlier).any(-1)
        return Active(indices, count & ~repeated, jnp.zeros(n, bool))


def _multiply_high(bits: Array, n: int) -> Array:
    """floor(bits * n / 2**32) in 32-bit arithmetic: a uniform integer below n."""
    low, high = bits & 0xFFFF, bits >> 16
    n_low, n_high = n & 0xFFFF, n >> 16
    middle = high * n_low + ((low * n_low) >> 16)
    carry = (middle & 0xFFFF) + low * n_high
    return (high * n_high + (middle >> 16) + (carry >> 16)).astype(jnp.int32)


def independent(probs: np.ndarray) -> Firing:
    """Independent firing with the given probabilities, by whichever exact way is cheaper.

    Args:
        probs: `[n_features]` firing probabilities in [0, 1].

    Raises:
        ToysaeError: a probability outside [0, 1], or none.
    """
    probs = np.asarray(probs, np.float64)
    require(probs.ndim == 1 and probs.size > 0, "firing probabilities must be a non-empty vector")
    bad = probs[~((probs >= 0) & (probs <= 1))]
    require(bad.size == 0, f"firing probability {bad[:1]} is outside [0, 1]: rescale them")
    if probs.max() > 0.9 or probs.max() == 0:
        return Bernoulli(jnp.asarray(probs, jnp.float32))
    hazards = -np.log1p(-probs)
    total = hazards.sum()
    slots = int(stats.poisson.isf(_TAIL, total)) + 1
    if slots >= probs.size:
        return Bernoulli(jnp.asarray(probs, jnp.float32))
    accept, alias = alias_table(hazards / total)
    cdf = stats.poisson.cdf(np.arange(slots), total)
    return Arrivals(
        jnp.asarray(accept, jnp.float32),
        jnp.asarray(alias, jnp.int32),
        jnp.asarray(cdf, jnp.float32),
    )


def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vose's alias table: acceptance `[n]` and alias `[n]` for weights `[n]` that sum to 1."""
    scaled = np.asarray(weights, np.float64) * len(weights)
    accept, alias = np.ones(len(weights)), np.arange(len(weights))
    small = list(np.flatnonzero(scaled < 1))
    large = list(np.flatnonzero(scaled >= 1))
    while small and large:
        below, above = small.pop(), large[-1]
        accept[below], alias[below] = scaled[below], above
        scaled[above] -= 1 - scaled[below]
        if scaled[above] < 1:
            small.append(large.pop())
    return accept, alias


def compact(fires: Bool[Array, "n n_features"], slots: int) -> tuple[Array, Array]:
    """The first `slots` set positions of each row: indices and a mask, both `[n, slots]`."""
    rank = jnp.cumsum(fires, axis=1, dtype=jnp.int32)
    wanted = jnp.arange(1, slots + 1, dtype=jnp.int32)
    indices = jax.vmap(lambda row: jnp.searchsorted(row, wanted))(rank)
    return jnp.minimum(indices, fires.shape[1] - 1), wanted <= rank[:, -1:]


def slots_for(mean_active: float, n_features: int) -> int:
    """Slots enough for independent firings with this mean: a Poisson tail bounds theirs."""
    return min(n_features, int(stats.poisson.isf(_TAIL, mean_active)) + 1)
