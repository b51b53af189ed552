"""Decoders: the constraint on the dictionary W_dec, and where the bias acts.

Four hooks: `start` on the initial rows, `resolve` in each forward pass, `project` on the gradient
before Adam, `retract` on the parameters after the step. They provide "bounded_decoder" if z fixes
the scale of a latent, and "free_rows" if single rows can be replaced.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..linalg import polar
from ..worlds.dictionaries import unit_rows
from .component import Component, Spec
from .fista import spectral_square

Bias = Literal["none", "pre", "post"]
BiasStart = Literal["zero", "mean", "geometric_median"]


@dataclass(frozen=True)
class Decoder(Component, ABC):
    """Base of decoders.

    Attributes:
        bias: "pre" subtracts b_dec before the encoder and adds it after the decoder, "post"
            only adds it, "none" has none.
        bias_start: where b_dec starts.
    """

    bias: Bias = "pre"
    bias_start: BiasStart = "zero"
    axis: ClassVar = "decoder"

    def latent_axes(self) -> Mapping[str, tuple[int, ...]]:
        return {"W_dec": (-2,)}

    def resolve(self, W: Float[Array, "d_sae d_in"]) -> Float[Array, "d_sae d_in"]:
        """The dictionary that the forward pass uses."""
        return W

    def project(self, W: Array, grad: Array) -> Float[Array, "d_sae d_in"]:
        """The gradient that the optimiser sees."""
        return grad

    def retract(self, W: Float[Array, "d_sae d_in"]) -> Float[Array, "d_sae d_in"]:
        """The parameters after a step, back on the constraint."""
        return W

    @abstractmethod
    def start(self, W: Float[Array, "d_sae d_in"]) -> Float[Array, "d_sae d_in"]:
        """An initial dictionary put on the constraint."""


@dataclass(frozen=True)
class Free(Decoder):
    """No constraint (Anthropic, April 2024 update)."""

    provides: ClassVar = frozenset({"free_rows"})

    def start(self, W: Array) -> Array:
        return W


@dataclass(frozen=True)
class UnitNorm(Decoder):
    """Unit rows; the gradient's part along each row is removed before Adam, rows are
    renormalised after it (Towards Monosemanticity, 2023)."""

    provides: ClassVar = frozenset({"bounded_decoder", "free_rows"})

    def project(self, W: Array, grad: Array) -> Array:
        return grad - jnp.sum(grad * W, axis=-1, keepdims=True) * W

    def retract(self, W: Array) -> Array:
        return unit_rows(W)

    def start(self, W: Array) -> Array:
        return unit_rows(W)


@dataclass(frozen=True)
class Normalised(Decoder):
    """Free parameters whose rows are normalised in each forward pass (Cunningham et al. 2023;
    Sharkey et al. 2022)."""

    provides: ClassVar = frozenset({"bounded_decoder", "free_rows"})

    def resolve(self, W: Array) -> Array:
        return unit_rows(W)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return d_in * d_sae  # the unit rows

    def start(self, W: Array) -> Array:
        return unit_rows(W)


@dataclass(frozen=True)
class Orthonormal(Decoder):
    """Rows held orthonormal, W W^T = I, so d_sae <= d_in. Newton-Schulz after each step."""

    provides: ClassVar = frozenset({"bounded_decoder"})

    def check(self, spec: Spec) -> None:
        reason = f"at most d_in = {spec.d_in} rows can be orthonormal: use decoder=TightFrame()"
        self.demand(spec.d_sae <= spec.d_in, reason, spec)

    def project(self, W: Array, grad: Array) -> Array:
        inner = grad @ W.T
        return grad - (inner + inner.T) @ W / 2

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return d_in * d_sae  # W before and after a step of Newton-Schulz

    def retract(self, W: Array) -> Array:
        return newton_schulz(W)

    def start(self, W: Array) -> Array:
        return polar(W)


@dataclass(frozen=True)
class TightFrame(Decoder):
    """Columns held orthogonal, W^T W = (d_sae / d_in) I, so d_sae >= d_in. The rows' mean
    square norm is 1; single rows may differ from it."""

    provides: ClassVar = frozenset({"bounded_decoder"})

    def check(self, spec: Spec) -> None:
        reason = f"a tight frame needs d_sae >= d_in = {spec.d_in}: use decoder=Orthonormal()"
        self.demand(spec.d_sae >= spec.d_in, reason, spec)

    def project(self, W: Array, grad: Array) -> Array:
        inner = W.T @ grad * (W.shape[1] / W.shape[0])
        return grad - W @ (inner + inner.T) / 2

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return d_in * d_sae  # W before and after a step of Newton-Schulz

    def retract(self, W: Array) -> Array:
        scale = (W.shape[0] / W.shape[1]) ** 0.5
        return scale * newton_schulz(W / scale)

    def start(self, W: Array) -> Array:
        return polar(W) * (W.shape[0] / W.shape[1]) ** 0.5


def newton_schulz(W: Float[Array, "n d"], steps: int = 3) -> Float[Array, "n d"]:
    """The polar factor of a nearly orthonormal matrix.

    It converges from singular values in (0, sqrt 3). After a step so large that they are
    outside, the matrix is first scaled down: then it is only brought nearer, but stays finite.
    """
    rows = W if W.shape[0] <= W.shape[1] else W.T
    size = jnp.abs(rows).max() + 1e-30  # before squaring, which may overflow
    top = size * jnp.sqrt(spectral_square((rows / size) @ (rows / size).T, 8))
    W = W / jnp.maximum(1.0, top / 1.4)
    for _ in range(steps):
        if W.shape[0] <= W.shape[1]:
            W = 1.5 * W - 0.5 * (W @ W.T) @ W
        else:
            W = 1.5 * W - 0.5 * W @ (W.T @ W)
    return W
