"""Penalties: what is added to the reconstruction loss. Sums over latents, mean over samples."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .component import Component, Forward, Hyper, Hypers, Spec, Stats


@dataclass(frozen=True)
class Penalty(Component, ABC):
    """Base of penalties."""

    axis: ClassVar = "penalty"

    @abstractmethod
    def cost(self, f: Forward, run: Stats, h: Hypers) -> Float[Array, ""]:
        """The cost, averaged over samples."""


@dataclass(frozen=True)
class LatentPenalty(Penalty, ABC):
    """Base of penalties that are a sum over latents, so that each latent can be weighted."""

    @abstractmethod
    def per_latent(self, f: Forward, run: Stats, h: Hypers) -> Float[Array, " d_sae"]:
        """Each latent's cost, averaged over samples."""

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        return self.per_latent(f, run, h).sum()


@dataclass(frozen=True)
class Sum(Penalty):
    """Penalties that add up; none is allowed."""

    parts: tuple[Penalty, ...] = ()

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        return sum((penalty.cost(f, run, h) for penalty in self.parts), start=jnp.float32(0))


def coefficient(name: str) -> tuple[Hyper, Hyper]:
    """The numbers `{name}_coeff`, and `{name}_warmup`, the fraction of training it rises over."""
    return Hyper(f"{name}_coeff", low=0.0), Hyper(f"{name}_warmup", default=0.0, low=0.0, high=1.0)


def coefficient_now(name: str, run: Stats, h: Hypers) -> Float[Array, ""]:
    """The coefficient at this point of its warm-up."""
    warmup = jnp.maximum(h[f"{name}_warmup"], 1e-9)
    return h[f"{name}_coeff"] * jnp.minimum(1.0, run["progress"] / warmup)


def sparse_acts(f: Forward) -> Float[Array, "*batch d_sae"]:
    """The values that a sparsity cost acts on: |z|, or a gated encoder's rectified gate."""
    return jnp.abs(f.z) if f.gate_acts is None else jax.nn.relu(f.gate_acts)


def mean_over_samples(values: Float[Array, "*batch d_sae"]) -> Float[Array, " d_sae"]:
    """The mean over all leading axes."""
    return values.mean(tuple(range(values.ndim - 1)))


def row_norms(W: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Row lengths, with a zero gradient at a zero row."""
    square = jnp.sum(W**2, -1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


BOUNDED = "use decoder=UnitNorm(), or penalty=L1DecoderNorm() with a free one"
"""The remedy where a cost of z alone needs a bounded decoder: else shrinking z and growing the
decoder is free."""

TRAINABLE = "use encoder=Untied(): codes of silent latents are 0, with nothing to train"
"""The remedy where a cost needs pre-activations of latents that do not fire."""


@dataclass(frozen=True)
class L1(LatentPenalty):
    """l1_coeff * sum |z|. Needs a decoder whose scale is held, or shrinking z is free."""

    hypers: ClassVar = coefficient("l1")

    def check(self, spec: Spec) -> None:
        self.needs("bounded_decoder", BOUNDED, spec)

    def per_latent(self, f: Forward, run: Stats, h: Hypers) -> Array:
        return coefficient_now("l1", run, h) * mean_over_samples(sparse_acts(f))


@dataclass(frozen=True)
class CodesL1(Penalty):
    """l1_coeff * sum |z| of an encoder that itself minimises it, as FISTA does, so that the loss is
    what the codes minimise. It trains nothing: such codes carry no gradient."""

    hypers: ClassVar = (Hyper("l1_coeff", low=0.0),)

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        return h["l1_coeff"] * mean_over_samples(jnp.abs(f.z)).sum()


@dataclass(frozen=True)
class L1DecoderNorm(LatentPenalty):
    """l1_coeff * sum |z_i| ||W_dec_i|| (Anthropic, April 2024 update)."""

    hypers: ClassVar = coefficient("l1")

    def per_latent(self, f: Forward, run: Stats, h: Hypers) -> Array:
        now = coefficient_now("l1", run, h)
        return now * mean_over_samples(sparse_acts(f)) * row_norms(f.w.W_dec)


@dataclass(frozen=True)
class GatedAux(Penalty):
    """||x - decode(ReLU(gate))||^2 with the decoder's gradient stopped (Gated SAE, eq. 8)."""

    provides: ClassVar = frozenset({"gate_loss"})

    def check(self, spec: Spec) -> None:
        self.needs("gate", "use encoder=Gated(), or drop GatedAux()", spec)

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        W_dec, b_dec = jax.lax.stop_gradient((f.w.W_dec, f.w.b_dec))
        assert f.gate_acts is not None  # see check
        through = f.w.reconstruction(jax.nn.relu(f.gate_acts), W_dec)
        through = through if b_dec is None else through + b_dec
        return jnp.sum((f.x - through) ** 2, -1).mean()

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return batch * (d_sae + d_in)
