"""A world: true features whose sparse, non-negative combinations are the SAE's input."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..keys import named_key
from .firing import Firing
from .magnitudes import Magnitude

_DENSE_FEATURES = 256  # up to here one dense product beats a gather for each active slot


@struct.dataclass
class Batch:
    """Samples of a world.

    Attributes:
        x: `[n, d_in]` SAE inputs.
        indices: `[n, slots]` which features are on; padded places hold value 0.
        values: `[n, slots]` their coefficients.
        n_features: how many features the world has.
    """

    x: Float[Array, "n d_in"]
    indices: Int[Array, "n slots"]
    values: Float[Array, "n slots"]
    n_features: int = struct.field(pytree_node=False)

    @property
    def feature_acts(self) -> Float[Array, "n n_features"]:
        """The dense view, made on demand: `[n, n_features]`."""
        return dense_acts(self.indices, self.values, self.n_features)

    def feature_counts(self) -> Int[Array, " n_features"]:
        """How many of the samples each feature fires in."""
        if self.n_features <= _DENSE_FEATURES:  # the dense view is at hand: no second scatter
            return (self.feature_acts != 0).sum(0, dtype=jnp.int32)
        counts = jnp.zeros(self.n_features, jnp.int32)
        return counts.at[self.indices].add((self.values != 0).astype(jnp.int32))


@struct.dataclass
class World:
    """True features, how they fire, and how they add up to an input.

    Attributes:
        directions: `[n_features, d_in]` unit rows, the truth that SAEs are scored against.
        rows: `[n_features, d_in]` what a coefficient of 1 adds to the input (before any
            rectifier). Equal to `directions` in plain worlds.
        generating_matrix: `[d_in, d_hidden]` the matrix that writes x; its left singular
            vectors live in the input space. `directions.T` in plain worlds.
        firing: which features are on.
        magnitude: how strongly.
        rectify: x = ReLU(sum) instead of the sum.
        name: as in the catalogue.
    """

    directions: Float[Array, "n_features d_in"]
    rows: Float[Array, "n_features d_in"]
    generating_matrix: Float[Array, "d_in d_hidden"]
    firing: Firing
    magnitude: Magnitude
    rectify: bool = struct.field(pytree_node=False, default=False)
    name: str = struct.field(pytree_node=False, default="")

    @property
    def n_features(self) -> int:
        return self.directions.shape[-2]

    @property
    def d_in(self) -> int:
        return self.directions.shape[-1]

    def sample(self, key: PRNGKeyArray, n: int) -> Batch:
        """Draws `n` samples; traceable, with `n` static."""
        active = self.firing.sample(named_key(key, "firing"), n)
        values = self.magnitude.sample(named_key(key, "magnitude"), active.indices)
        values = jnp.where(active.on, values, 0.0)
        values = values.at[:, 0].set(jnp.where(active.filler, 1.0, values[:, 0]))
        x = combine(active.indices, values, self.rows)
        return Batch(jax.nn.relu(x) if self.rectify else x, active.indices, values, self.n_features)

    def card(self, n_samples: int = 131_072, seed: int = 0):
        """What the generator realises on a sample, see :func:`toysae.worlds.card.world_card`."""
        from .card import world_card

        return world_card(self, n_samples, seed)


def dense_acts(
    indices: Int[Array, "n slots"], values: Float[Array, "n slots"], n_features: int
) -> Float[Array, "n n_features"]:
    """Scatters padded coefficients into `[n, n_features]`."""
    if indices.shape[1] == n_features:  # slots are the features themselves
        return values
    rows = jnp.arange(indices.shape[0])[:, None]
    return jnp.zeros((indices.shape[0], n_features), values.dtype).at[rows, indices].add(values)


def combine(
    indices: Int[Array, "n slots"],
    values: Float[Array, "n slots"],
    rows: Float[Array, "n_features d_in"],
) -> Float[Array, "n d_in"]:
    """sum_k values[:, k] * rows[indices[:, k]], without an `[n, slots, d_in]` array."""
    n_features, d_in = rows.shape
    if n_features <= _DENSE_FEATURES:
        return dense_acts(indices, values, n_features) @ rows

    def add(x, slot):
        index, value = slot
        return x + value[:, None] * rows[index], None

    start = jnp.zeros((indices.shape[0], d_in), rows.dtype)
    return jax.lax.scan(add, start, (indices.T, values.T))[0]


@partial(jax.jit, static_argnames="n")
def sample(world: World, key: PRNGKeyArray, n: int) -> Batch:
    """Compiled :meth:`World.sample`, for use outside other compiled code."""
    return world.sample(key, n)


def stack(worlds: list[World]) -> World:
    """Worlds that differ only in their arrays as one pytree with a leading world axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *worlds)
