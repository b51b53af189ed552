"""A world: true features whose sparse, non-negative combinations are the SAE's input."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import draws, pytree
from ..bits import in_32_bits
from ..checked import shown
from ..errors import require
from ..keys import named_key
from .firing import DENSE_FEATURES, Firing
from .magnitudes import Magnitude

T = TypeVar("T", bound="Drawn")
_BLOCK = 8  # slots added at once; blocks with nothing on, as in most padding, are skipped


@pytree.dataclass
class Batch:
    """Samples of a world.

    Attributes:
        x: `[n, d_in]` SAE inputs.
        indices: `[n, slots]` which features are on; padded slots have value 0.
        values: `[n, slots]` their coefficients.
        n_features: how many features the world has.
        dropped: `[n]` firings that found no slot; None where that cannot happen.
        in_order: slot i holds feature i.
    """

    x: Float[Array, "n d_in"]
    indices: Int[Array, "n slots"]
    values: Float[Array, "n slots"]
    n_features: int = pytree.field(pytree_node=False)
    dropped: Int[Array, " n"] | None = None
    in_order: bool = pytree.field(pytree_node=False, default=False)

    @property
    def feature_acts(self) -> Float[Array, "n n_features"]:
        """The dense view `[n, n_features]`, computed on demand."""
        if self.in_order:
            return self.values
        return dense_acts(self.indices, self.values, self.n_features)

    def feature_counts(self) -> Int[Array, " n_features"]:
        """Number of samples in which each feature fires."""
        if self.n_features <= DENSE_FEATURES:  # the dense view is at hand: no second scatter
            return (self.feature_acts != 0).sum(0, dtype=jnp.int32)
        counts = jnp.zeros(self.n_features, jnp.int32)
        return counts.at[self.indices].add((self.values != 0).astype(jnp.int32))

    def feature_sizes(self) -> Float[Array, " n_features"]:
        """Sum over the samples of the size of each feature's coefficient."""
        if self.n_features <= DENSE_FEATURES:
            return jnp.abs(self.feature_acts).sum(0)
        return jnp.zeros(self.n_features).at[self.indices].add(jnp.abs(self.values))


@runtime_checkable
class Drawn(Protocol):
    """What training draws from: a world, or the activations of a
    :class:`toysae.lm.saes.feed.Window`."""

    @property
    def directions(self) -> Any: ...

    @property
    def target(self) -> Any: ...

    @property
    def generating_matrix(self) -> Any: ...

    @property
    def d_in(self) -> int: ...

    @property
    def n_features(self) -> int: ...

    @property
    def name(self) -> str: ...

    def sample(self, key: PRNGKeyArray, n: int) -> Batch: ...

    def batch(self, key: PRNGKeyArray, step: Int[Array, ""], n: int) -> Batch: ...


@pytree.dataclass
class World:
    """True features, how they fire, and how they add up to an input.

    Attributes:
        directions: `[n_features, d_in]` unit rows, the true features.
        rows: `[n_features, d_in]` what a coefficient of 1 adds to the input (before any
            rectifier). Equal to `directions` in plain worlds.
        generating_matrix: `[d_in, d_hidden]` the matrix that writes x; its left singular
            vectors are in the input space. `directions.T` in plain worlds.
        firing: which features are on.
        magnitude: their coefficients.
        bias: `[d_in]` added to every input, before any rectifier; None for none.
        noise_sd: sd of the observation noise in each dimension, after any rectifier; None for none.
        rectify: x = ReLU(sum) instead of the sum.
        name: the name in the catalogue.
        truth: `[n, d_in]` unit rows that SAEs are scored against, where these are not the features
            that fire but those that the features are made of; None for `directions`.
    """

    directions: Float[Array, "n_features d_in"]
    rows: Float[Array, "n_features d_in"]
    generating_matrix: Float[Array, "d_in d_hidden"]
    firing: Firing
    magnitude: Magnitude
    bias: Float[Array, " d_in"] | None = None
    noise_sd: Float[Array, ""] | None = None
    rectify: bool = pytree.field(pytree_node=False, default=False)
    name: str = pytree.field(pytree_node=False, default="")
    truth: Float[Array, "n d_in"] | None = None

    def __repr__(self) -> str:
        sizes = "x".join(map(str, jnp.shape(self.directions)))
        laws = f"{type(self.firing).__name__}, {type(self.magnitude).__name__}"
        return f"World({self.name!r}, directions {sizes}, {laws})"

    @property
    def target(self) -> Float[Array, "*lead n d_in"]:
        """The rows that SAEs are scored against: `truth`, or else `directions`."""
        return self.directions if self.truth is None else self.truth

    @property
    def n_features(self) -> int:
        return self.directions.shape[-2]

    @property
    def d_in(self) -> int:
        return self.directions.shape[-1]

    def sample(self, key: PRNGKeyArray, n: int) -> Batch:
        """Draws `n` samples; traceable, with `n` static."""
        active = self.firing.sample(named_key(key, "firing"), n)
        values = self.magnitude.sample(named_key(key, "magnitude"), active)
        values = jnp.where(active.on, values, 0.0)
        if active.filler is not None:
            values = values.at[:, 0].set(jnp.where(active.filler, 1.0, values[:, 0]))
        x = values @ self.rows if active.in_order else combine(active.indices, values, self.rows)
        if self.bias is not None:
            x = x + self.bias
        if self.rectify:
            x = jax.nn.relu(x)
        if self.noise_sd is not None:
            x = x + self.noise_sd * draws.normal(named_key(key, "noise"), x.shape)
        return Batch(x, active.indices, values, self.n_features, active.dropped, active.in_order)

    def batch(self, key: PRNGKeyArray, step: Int[Array, ""], n: int) -> Batch:
        """Draws the samples of a training step: fresh ones at every step."""
        return self.sample(key, n)


@partial(jax.jit, static_argnames="n_features")
def dense_acts(
    indices: Int[Array, "n slots"], values: Float[Array, "n slots"], n_features: int
) -> Float[Array, "n n_features"]:
    """Scatters padded coefficients into `[n, n_features]`."""
    rows = jnp.arange(indices.shape[0])[:, None]
    return jnp.zeros((indices.shape[0], n_features), values.dtype).at[rows, indices].add(values)


def combine(
    indices: Int[Array, "n slots"],
    values: Float[Array, "n slots"],
    rows: Float[Array, "n_features d_in"],
) -> Float[Array, "n d_in"]:
    """Returns sum_k values[:, k] * rows[indices[:, k]] without an `[n, slots, d_in]` array."""
    n_features, d_in = rows.shape
    if n_features <= DENSE_FEATURES:
        return dense_acts(indices, values, n_features) @ rows

    n, padding = indices.shape[0], -indices.shape[1] % _BLOCK

    def blocks(slots: Array) -> Array:
        padded = jnp.pad(slots, ((0, 0), (0, padding)))
        return padded.reshape(n, -1, _BLOCK).transpose(1, 2, 0)

    def add(x, block):
        index, value = block

        def go(x):
            for k in range(_BLOCK):
                x = x + value[k][:, None] * rows[index[k]]
            return x

        return jax.lax.cond((value != 0).any(), go, lambda x: x, x), None

    start = jnp.zeros((n, d_in), rows.dtype)
    return jax.lax.scan(add, start, (blocks(indices), blocks(values)))[0]


@in_32_bits
@partial(jax.jit, static_argnames="n")
def sample(world: Drawn, key: PRNGKeyArray, n: int) -> Batch:
    """Draws `n` samples by a compiled :meth:`World.sample`, outside other compiled code."""
    require(n >= 1, f"n {n} must be at least 1")
    return world.sample(key, n)


def batches(world: World, key: PRNGKeyArray, n: int, size: int = 1024) -> Iterator[Batch]:
    """Yields at least `n` samples, `size` at a time: batch i is drawn with ``fold_in(key, i)``."""
    require(size >= 1, f"size {size} must be at least 1")
    for i in range(-(-n // size)):
        yield sample(world, jax.random.fold_in(key, i), size)


def stack(worlds: list[T]) -> T:
    """Stacks worlds that differ only in their arrays into one with a leading world axis.

    Raises:
        ToysaeError: worlds of different shapes.
    """
    require(worlds, "there is no world to stack: give a list of them")
    for world in worlds:
        require(isinstance(world, Drawn), f"{shown(world)} is not a world: stack worlds alone")
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(world)] for world in worlds]
    require(
        all(shape == shapes[0] for shape in shapes),
        f"worlds {worlds[0].name!r} of these seeds differ in shape (as toy models that embed "
        "different numbers of features do): give one world seed at a time",
    )
    # By NumPy, as a program of jax would be compiled for each number of worlds.
    return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *worlds))
