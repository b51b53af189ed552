"""Which features fire in a sample: padded indices, never a dense array of features.

Each way of firing has a file of its own (`independent`, `exactly_k`, `copula`, `groups`,
`forest`, `bursts`, `interim_firing`) and draws an :class:`Active`.
"""

from abc import abstractmethod

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .. import pytree

TAIL = 1e-12  # probability that a sample would need more slots than it has
DENSE_FEATURES = 256  # up to this number, a slot for every feature is faster than a few slots


@pytree.dataclass
class Active:
    """The features that are on in each of `n` samples, in padded slots.

    Attributes:
        indices: `[n, slots]` int32; padded slots hold a valid index and are off.
        on: `[n, slots]` bool; a feature is on in at most one slot.
        dropped: `[n]` int32, firings that found no slot; None where that cannot happen.
        parent: `[n, slots]` int32, the slot of each slot's parent feature, -1 without one; None
            where no feature has a parent. Parents are in earlier slots.
        depth: the most parents above a slot; needed with `parent`.
        filler: `[n]` bool; slot 0 holds a feature put there with coefficient 1 because nothing
            fired. None except in the interim report's replication.
        in_order: slot i holds feature i, for every feature.
        unit: `[n, slots]` draws from U[0, 1) that firing leaves unused where the slot is on; None
            where it leaves none.
    """

    indices: Int[Array, "n slots"]
    on: Bool[Array, "n slots"]
    dropped: Int[Array, " n"] | None = None
    parent: Int[Array, "n slots"] | None = None
    filler: Bool[Array, " n"] | None = None
    depth: int = pytree.field(pytree_node=False, default=0)
    in_order: bool = pytree.field(pytree_node=False, default=False)
    unit: Float[Array, "n slots"] | None = None


class FiringPart:
    """A table inside a way of firing; world files hold subclasses of it too."""


class Firing(FiringPart):
    """How features fire. `sample` is traceable.

    Row i of a draw depends on the key and i alone, so that a longer draw begins with the shorter
    one and a draw can be sharded over rows.
    """

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of features."""

    @abstractmethod
    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        """Draws which features are on in `n` samples."""


def all_in_order(on: Bool[Array, "n n_features"], unit: Array | None = None) -> Active:
    """Returns firings in which every feature has its own slot."""
    indices = jnp.broadcast_to(jnp.arange(on.shape[1], dtype=jnp.int32), on.shape)
    return Active(indices, on, in_order=True, unit=unit)


def compact(fires: Bool[Array, "n n_features"], slots: int) -> tuple[Array, Array]:
    """Returns the first `slots` set positions of each row: indices and mask, both `[n, slots]`."""
    rank = jnp.cumsum(fires, axis=1, dtype=jnp.int32)
    wanted = jnp.arange(1, slots + 1, dtype=jnp.int32)
    indices = jax.vmap(lambda row: jnp.searchsorted(row, wanted))(rank)
    return jnp.minimum(indices, fires.shape[1] - 1), wanted <= rank[:, -1:]


def slots_for(mean_active: float, n_features: int) -> int:
    """Returns enough slots for independent firings of this mean: a Poisson tail bounds theirs."""
    return min(n_features, poisson_slots(mean_active))


def poisson_slots(mean: float) -> int:
    """One more than the number that Poisson events of this mean exceed with probability <= TAIL.

    The same as ``scipy.stats.poisson.isf`` + 1, without the half second of its import.
    """
    numbers = np.arange(int(mean + 12 * np.sqrt(mean)) + 80)
    return int(np.argmax(scipy.special.pdtrc(numbers, mean) <= TAIL)) + 1
