"""Penalties: what is added to the reconstruction loss. Sums over latents, mean over samples."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .part import Forward, Hyper, Hypers, Part, Stats


@dataclass(frozen=True)
class Penalty(Part):
    """Base of penalties."""

    @abstractmethod
    def cost(self, f: Forward, run: Stats, h: Hypers) -> Float[Array, ""]:
        """The cost, averaged over samples."""


@dataclass(frozen=True)
class Sum(Penalty):
    """Penalties that add up; none is allowed."""

    parts: tuple[Penalty, ...] = ()

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        return sum((part.cost(f, run, h) for part in self.parts), start=jnp.float32(0))


_L1_HYPERS = (Hyper("l1_coeff", low=0.0), Hyper("l1_warmup", default=0.0, low=0.0, high=1.0))


def _l1_coeff(run: Stats, h: Hypers) -> Array:
    """The coefficient now: `l1_warmup` is the fraction of training it rises over."""
    return h["l1_coeff"] * jnp.minimum(1.0, run["progress"] / jnp.maximum(h["l1_warmup"], 1e-9))


def _sparse(f: Forward) -> Array:
    """What L1 acts on: z, or a gated encoder's rectified gate."""
    return jnp.abs(f.z) if f.gate_acts is None else jax.nn.relu(f.gate_acts)


@dataclass(frozen=True)
class L1(Penalty):
    """l1_coeff * sum |z|. Needs a decoder whose scale is held, or shrinking z is free."""

    hypers: ClassVar = _L1_HYPERS
    requires: ClassVar = {
        "bounded_decoder": "use decoder=UnitNorm(), or penalty=L1DecoderNorm() with a free one"
    }

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        return _l1_coeff(run, h) * _sparse(f).sum(-1).mean()


@dataclass(frozen=True)
class L1DecoderNorm(Penalty):
    """l1_coeff * sum |z_i| ||W_dec_i|| (Anthropic, April 2024 update)."""

    hypers: ClassVar = _L1_HYPERS

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        square = jnp.sum(f.w.W_dec**2, -1)
        norms = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        return _l1_coeff(run, h) * (_sparse(f) @ norms).mean()


@dataclass(frozen=True)
class GatedAux(Penalty):
    """||x - decode(ReLU(gate))||^2 with the decoder's gradient stopped (Gated SAE, eq. 8)."""

    provides: ClassVar = frozenset({"gate_loss"})
    requires: ClassVar = {"gate": "use encoder=Gated(), or drop GatedAux()"}

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        W_dec, b_dec = jax.lax.stop_gradient((f.w.W_dec, f.w.b_dec))
        assert f.gate_acts is not None  # spec's legality check
        through = jax.nn.relu(f.gate_acts) @ W_dec
        through = through if b_dec is None else through + b_dec
        return jnp.sum((f.x - through) ** 2, -1).mean()
