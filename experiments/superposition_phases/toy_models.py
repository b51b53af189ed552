"""Toy models of superposition as autoencoders: spec and data.

x' = ReLU(W^T W x + b) is a tied encoder without bias or activation, a free decoder with one, and
an error that rectifies what is decoded; the features of x are its dimensions (Elhage et al. 2022,
see :mod:`toysae.worlds.tms.model`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from toysae import draws, pytree
from toysae.runs.cell import Data
from toysae.sae import Hypers, SAESpec
from toysae.sae.activations import Act, Activation
from toysae.sae.component import Encoding, Forward, Hyper, Stats, Weights
from toysae.sae.decoders import Free
from toysae.sae.encoders import Encoder, Shift
from toysae.sae.inits import Init, InitData
from toysae.sae.objectives import Objective
from toysae.sae.penalties import Sum
from toysae.worlds import Batch

KIND = "features that are dimensions"


@dataclass(frozen=True)
class Projection(Encoder):
    """pre_acts = x W_dec^T."""

    def init(self, key: PRNGKeyArray, enc_rows: Array, h: Hypers) -> dict[str, Array]:
        return {}

    def encode(self, w: Weights, x: Array, shift: Shift, h: Hypers) -> Encoding:
        return Encoding(w.product(x, w.W_dec.T))


@dataclass(frozen=True)
class Linear(Activation):
    """z = pre_acts."""

    def apply(self, pre_acts: Array, act: Act, run: Stats, h: Hypers) -> Array:
        return pre_acts


@dataclass(frozen=True)
class XavierNormal(Init):
    """Entries normal with variance 2 / (d_in + d_sae)."""

    def decoder_rows(self, key: PRNGKeyArray, d_sae: int, data: InitData, h: Hypers) -> Array:
        d_in = data.x.shape[1]
        return (2 / (d_in + d_sae)) ** 0.5 * jax.random.normal(key, (d_sae, d_in))


@dataclass(frozen=True)
class RectifiedError(Objective):
    """:func:`rectified_error`; the number `importance` is the last feature's."""

    hypers: ClassVar = (Hyper("importance", default=1.0, low=0.0),)

    def loss(self, key: PRNGKeyArray, x: Array, f: Forward, h: Hypers) -> Array:
        return rectified_error(x, f.x_hat, h["importance"])


def rectified_error(
    x: Float[Array, "n d_in"], x_hat: Float[Array, "n d_in"], importance: Float[Array, ""]
) -> Float[Array, ""]:
    """sum_i I_i (x_i - ReLU(x_hat_i))^2, averaged over samples. I_i is 1 but for the last."""
    square = (x - jax.nn.relu(x_hat)) ** 2
    return jnp.mean(square @ jnp.ones(x.shape[-1]).at[-1].set(importance))


def toy_model(n_features: int, d_hidden: int) -> SAESpec:
    """The spec of toy models of these sizes; W `[d_hidden, n_features]` is W_dec, b is b_dec."""
    return SAESpec(
        n_features, d_hidden, Free("post"), Projection(), Linear(), Sum(()), RectifiedError(),
        XavierNormal(),
    )  # fmt: skip


@pytree.dataclass
class Features:
    """Independent features instead of a world: each is 0 with probability 1 - density, otherwise
    U[0, 1]. Samples of one seed at several densities are coupled: the same uniforms decide which
    features are on.

    Attributes:
        density: of all features.
        n_features: how many.
        name: of a world.
    """

    density: Float[Array, "*lead"]
    n_features: int = pytree.field(pytree_node=False)
    name: str = pytree.field(pytree_node=False, default=KIND)

    @property
    def d_in(self) -> int:
        return self.n_features

    @property
    def directions(self) -> Float[Array, "*lead n_features d_in"]:
        n = self.n_features
        return jnp.broadcast_to(jnp.eye(n), (*jnp.shape(self.density), n, n))

    target = directions
    generating_matrix = directions

    def sample(self, key: PRNGKeyArray, n: int) -> Batch:
        u = draws.uniform(key, (n, self.n_features))
        x = jnp.where(u < self.density, u / self.density, 0.0)
        places = jnp.broadcast_to(jnp.arange(self.n_features, dtype=jnp.int32), x.shape)
        return Batch(x, places, x, self.n_features, in_order=True)

    def batch(self, key: PRNGKeyArray, step: Int[Array, ""], n: int) -> Batch:
        return self.sample(key, n)


@dataclass(frozen=True)
class FeatureData(Data):
    """:class:`Features` of several densities and seeds.

    Attributes:
        n_features: of all.
        densities: of each.
        seeds: of each data stream, and of the toy models' weights.
    """

    n_features: int
    densities: tuple[float, ...]
    seeds: tuple[int, ...]

    @classmethod
    def each(cls, n_features: int, densities: Sequence[float], n_seeds: int) -> "FeatureData":
        """Every density with every seed; seeds vary fastest."""
        by_seed = tuple(float(density) for density in densities for _ in range(n_seeds))
        return cls(n_features, by_seed, tuple(range(n_seeds)) * len(densities))

    @cached_property
    def worlds(self) -> Features:
        return Features(jnp.asarray(self.densities, jnp.float32), self.n_features)

    def identity(self) -> dict[str, Any]:
        return {"data": KIND, "n_features": self.n_features}

    def identity_of(self, i: int) -> dict[str, Any]:
        return {"seed": self.seeds[i], "density": self.densities[i]}

    def columns(self) -> dict[str, tuple[float, ...]]:
        return {"density": self.densities}

    def own_components(self) -> tuple[object, ...]:
        return (self.worlds,)

    def manifest(self) -> dict[str, Any]:
        densities, seeds = list(self.densities), list(self.seeds)
        return {"kind": KIND, "n_features": self.n_features, "densities": densities, "seeds": seeds}
