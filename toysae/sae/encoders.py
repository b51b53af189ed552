"""Encoders: from x to pre-activations `[*batch, d_sae]`.

Where the decoder's bias is "pre", `shift` is that bias: the encoder sees x - shift.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..checked import integer
from .component import Component, Encoding, Hyper, Hypers, Spec, Weights
from .fista import fista, quick_lipschitz

Shift = Float[Array, " d_in"] | None

PRE_ACTS = frozenset({"pre_acts"})
"""What an encoder provides whose pre-activations say how near a silent latent is to firing, and
can be trained: sparse coders return codes, which are 0 there."""


def affine(
    w: Weights,
    x: Float[Array, "*batch d_in"],
    shift: Shift,
    W: Float[Array, "d_in d_sae"],
    bias: Float[Array, " d_sae"] | float = 0.0,
) -> Float[Array, "*batch d_sae"]:
    """(x - shift) W + bias, with the shift folded into the bias.

    The gradient of the shift is then a vector times W^T instead of a sixth product of the size
    of the whole batch, and all members of an ensemble multiply the same x. Where factors are
    rounded the shift is taken out first, or what is left of x would be rounded as coarsely as x.
    """
    if shift is None:
        return w.pre_acts(x, W) + bias
    if w.arithmetic == "bfloat16":
        known = jax.lax.stop_gradient(shift)
        x, shift = x - known, shift - known  # the gradient is that of what is folded
    return w.pre_acts(x, W) + (bias - shift @ W)


@dataclass(frozen=True)
class Encoder(Component, ABC):
    """Base of encoders."""

    axis: ClassVar = "encoder"
    affine: ClassVar[bool] = False
    """Whether pre-activations are those of :func:`affine` and have a gradient through it alone."""

    @abstractmethod
    def init(
        self, key: PRNGKeyArray, enc_rows: Float[Array, "d_sae d_in"], h: Hypers
    ) -> dict[str, Array]:
        """The encoder's own arrays, from the initial encoder directions (one row a latent)."""

    @abstractmethod
    def encode(
        self, w: Weights, x: Float[Array, "*batch d_in"], shift: Shift, h: Hypers
    ) -> Encoding:
        """Pre-activations of x - shift."""


@dataclass(frozen=True)
class Untied(Encoder):
    """pre_acts = x W_enc + b_enc."""

    provides: ClassVar = PRE_ACTS | {"W_enc"}
    affine: ClassVar = True

    def latent_axes(self) -> Mapping[str, tuple[int, ...]]:
        return {"W_enc": (-1,), "b_enc": (-1,)}

    def init(self, key: PRNGKeyArray, enc_rows: Array, h: Hypers) -> dict[str, Array]:
        return {"W_enc": enc_rows.T, "b_enc": jnp.zeros(enc_rows.shape[0])}

    def encode(self, w: Weights, x: Array, shift: Shift, h: Hypers) -> Encoding:
        return Encoding(affine(w, x, shift, w.enc["W_enc"], w.enc["b_enc"]))


@dataclass(frozen=True)
class Tied(Encoder):
    """pre_acts = x W_dec^T + b_enc: the encoder is the (resolved) decoder's transpose."""

    provides: ClassVar = PRE_ACTS
    affine: ClassVar = True

    def latent_axes(self) -> Mapping[str, tuple[int, ...]]:
        return {"b_enc": (-1,)}

    def init(self, key: PRNGKeyArray, enc_rows: Array, h: Hypers) -> dict[str, Array]:
        return {"b_enc": jnp.zeros(enc_rows.shape[0])}

    def encode(self, w: Weights, x: Array, shift: Shift, h: Hypers) -> Encoding:
        return Encoding(affine(w, x, shift, w.W_dec.T, w.enc["b_enc"]))


@dataclass(frozen=True)
class TiedGain(Encoder):
    """pre_acts = exp(log_gain) * (x W_dec^T) + b_enc: the decoder's direction, a free length.

    A tied encoder whose scale is free, so that the shrinkage of L1 can be undone latent by latent
    (Wright and Sharkey 2024); the gain starts at 1.
    """

    provides: ClassVar = PRE_ACTS
    affine: ClassVar = True

    def check(self, spec: Spec) -> None:
        remedy = "use decoder=UnitNorm(): with a free one the gain has two names"
        self.needs("bounded_decoder", remedy, spec)

    def latent_axes(self) -> Mapping[str, tuple[int, ...]]:
        return {"b_enc": (-1,), "log_gain": (-1,)}

    def init(self, key: PRNGKeyArray, enc_rows: Array, h: Hypers) -> dict[str, Array]:
        zeros = jnp.zeros(enc_rows.shape[0])
        return {"b_enc": zeros, "log_gain": zeros}

    def encode(self, w: Weights, x: Array, shift: Shift, h: Hypers) -> Encoding:
        shared = affine(w, x, shift, w.W_dec.T)
        return Encoding(jnp.exp(w.enc["log_gain"]) * shared + w.enc["b_enc"])

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return batch * d_sae  # before the gain, for its gradient


@dataclass(frozen=True)
class Gated(Encoder):
    """Gate and magnitude share directions (Rajamanoharan et al. 2024, eq. 5-6).

    gate = x W_enc + b_gate decides which latents fire; exp(r_mag) x W_enc + b_mag how much.
    """

    provides: ClassVar = PRE_ACTS | {"gate", "W_enc"}
    affine: ClassVar = True

    def check(self, spec: Spec) -> None:
        remedy = "add GatedAux() to the penalty, or the gate is not trained"
        self.needs("gate_loss", remedy, spec)
        remedy = "use activation=ReLU(): the gate chooses already which latents fire"
        self.needs("all_positive", remedy, spec)

    def latent_axes(self) -> Mapping[str, tuple[int, ...]]:
        return {"W_enc": (-1,), "b_gate": (-1,), "b_mag": (-1,), "r_mag": (-1,)}

    def init(self, key: PRNGKeyArray, enc_rows: Array, h: Hypers) -> dict[str, Array]:
        zeros = jnp.zeros(enc_rows.shape[0])
        return {"W_enc": enc_rows.T, "b_gate": zeros, "b_mag": zeros, "r_mag": zeros}

    def encode(self, w: Weights, x: Array, shift: Shift, h: Hypers) -> Encoding:
        shared = affine(w, x, shift, w.enc["W_enc"])
        magnitude = jnp.exp(w.enc["r_mag"]) * shared + w.enc["b_mag"]
        return Encoding(magnitude, shared + w.enc["b_gate"])

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return batch * d_sae  # the gate


@dataclass(frozen=True)
class FISTA(Encoder):
    """Non-negative FISTA codes of x in W_dec for ||x - zD||^2 + l1_coeff ||z||_1 (Beck and
    Teboulle 2009). Nothing is learned in the encoder; the codes carry no gradient. With
    penalty=CodesL1() the loss is what they minimise."""

    n_iterations: int = 30
    hypers: ClassVar = (Hyper("l1_coeff", low=0.0),)

    def __post_init__(self) -> None:
        integer("FISTA n_iterations", self.n_iterations, 1, 100_000)

    def init(self, key: PRNGKeyArray, enc_rows: Array, h: Hypers) -> dict[str, Array]:
        return {}

    def encode(self, w: Weights, x: Array, shift: Shift, h: Hypers) -> Encoding:
        D, x = jax.lax.stop_gradient((w.W_dec, x if shift is None else x - shift))
        return Encoding(fista(x, D, h["l1_coeff"], quick_lipschitz(D), self.n_iterations))

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return batch * d_sae + min(d_in, d_sae) ** 2  # a second iterate and the Gram matrix
