"""Bursts along a sequence: the rows of a draw are neighbouring tokens, not independent samples."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .. import draws, pytree
from ..errors import require
from ..keys import named_key
from .firing import Active, Firing, all_in_order
from .probabilities import checked_probabilities


@pytree.dataclass
class Bursts(Firing):
    """Each feature is a two-state Markov chain along the rows of a draw.

    At each row a feature keeps its state with probability `persistence` and is otherwise drawn
    anew. Its marginal is therefore p, its autocorrelation `persistence`^lag, and P(on | on before)
    is persistence + (1 - persistence) p. A sample costs O(n_features).
    """

    probs: Float[Array, " n_features"]
    persistence: Float[Array, ""]

    @property
    def n_features(self) -> int:
        return self.probs.shape[-1]

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        shape = (n, self.n_features)
        rows = jnp.arange(n, dtype=jnp.int32)[:, None]
        anew = draws.uniform(named_key(key, "anew"), shape) >= self.persistence
        drawn = draws.uniform(named_key(key, "fire"), shape) < self.probs
        since = lax.cummax(jnp.where(anew, rows, 0), axis=0)  # the first row is always anew
        return all_in_order(jnp.take_along_axis(drawn, since, axis=0))


def bursts(probs: Float[np.ndarray, " n_features"], persistence: float) -> Bursts:
    """Returns Markov firing along the sequence with the marginals `probs`.

    Raises:
        ToysaeError: a probability outside [0, 1], or persistence outside [0, 1).
    """
    require(0 <= persistence < 1, f"persistence {persistence} must be in [0, 1)")
    probs = checked_probabilities(probs)
    return Bursts(jnp.asarray(probs, jnp.float32), jnp.float32(persistence))
