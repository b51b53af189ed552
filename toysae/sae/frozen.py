"""Decoders that training may not move, or not far: controls for what a decoder learns.

With a random or data-sample init they show how much of a score the encoder alone can reach
(Sanity Checks for SAEs, arXiv 2602.14111).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..worlds.dictionaries import unit_rows
from .component import Spec
from .decoders import Decoder


@dataclass(frozen=True)
class Frozen(Decoder):
    """Unit rows that stay where the init put them; biases still learn."""

    provides: ClassVar = frozenset({"bounded_decoder"})

    def project(self, W: Array, grad: Array) -> Float[Array, "d_sae d_in"]:
        return jnp.zeros_like(grad)

    def start(self, W: Array) -> Float[Array, "d_sae d_in"]:
        return unit_rows(W)


@dataclass(frozen=True)
class SoftFrozen(Decoder):
    """Unit rows held within cosine `min_cos` of where they started.

    The parameter is `[2 d_sae, d_in]`: the rows, then their starts. A row that a step takes
    further is put back onto the cone, in the plane of the row and its start. Resampling, which
    writes into single rows of the parameter, does not go with it.
    """

    min_cos: float = 0.8
    provides: ClassVar = frozenset({"bounded_decoder"})

    def check(self, spec: Spec) -> None:
        self.demand(abs(self.min_cos) <= 1, f"min_cos {self.min_cos:g} must be in [-1, 1]", spec)

    def latent_axes(self) -> Mapping[str, tuple[int, ...]]:
        return {"W_dec": ()}  # rows and starts: no axis runs over the latents once

    def resolve(self, W: Float[Array, "both d_in"]) -> Float[Array, "d_sae d_in"]:
        return W[: W.shape[0] // 2]

    def project(self, W: Array, grad: Array) -> Float[Array, "both d_in"]:
        rows, n = self.resolve(W), W.shape[0] // 2
        tangent = grad[:n] - jnp.sum(grad[:n] * rows, -1, keepdims=True) * rows
        return jnp.concatenate([tangent, jnp.zeros_like(tangent)])

    def retract(self, W: Array) -> Float[Array, "both d_in"]:
        rows, anchors = jnp.split(W, 2)
        rows = unit_rows(rows)
        cos = jnp.sum(rows * anchors, -1, keepdims=True)
        sideways = unit_rows(rows - cos * anchors)
        edge = unit_rows(self.min_cos * anchors + (1 - self.min_cos**2) ** 0.5 * sideways)
        return jnp.concatenate([jnp.where(cos < self.min_cos, edge, rows), anchors])

    def start(self, W: Array) -> Float[Array, "both d_in"]:
        return jnp.concatenate([unit_rows(W)] * 2)
