"""Matryoshka objectives: the first m latents must reconstruct x by themselves, for several m."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..keys import named_key
from .component import Forward, Hyper, Hypers, Spec
from .objectives import Objective


@dataclass(frozen=True)
class Matryoshka(Objective):
    """sum_m weight_m ||x - z[:m] W_dec[:m] - b_dec||^2 (Bussmann et al. 2025, eq. 5).

    Attributes:
        widths: the prefixes' lengths m, increasing, the last is d_sae.
        weights: of each prefix's loss; by default 1 each.
        detach: each prefix's loss trains only the latents that the shorter ones lack, and b_dec.
    """

    widths: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    detach: bool = False

    def loss(self, key: PRNGKeyArray, x: Array, f: Forward, h: Hypers) -> Array:
        bias = 0.0 if f.w.b_dec is None else f.w.b_dec
        so_far, total = jnp.zeros_like(x), jnp.float32(0)
        for (low, high), weight in zip(
            pairwise((0, *self.widths)), self.weights or (1.0,) * len(self.widths), strict=True
        ):
            earlier = jax.lax.stop_gradient(so_far) if self.detach else so_far
            live = None if f.live is None else f.live[..., low:high]
            so_far = earlier + f.w.reconstruction(f.z[..., low:high], f.w.W_dec[low:high], live)
            total += weight * jnp.sum((x - bias - so_far) ** 2, -1).mean()
        return total

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return batch * (d_sae + 2 * d_in)  # the slices' gradients, joined

    def check(self, spec: Spec) -> None:
        widths, weights, d_sae = self.widths, self.weights, spec.d_sae
        reason = f"widths {widths} must end at d_sae = {d_sae}: append it"
        self.demand(widths and widths[-1] == d_sae, reason, spec)
        increase = all(low < high for low, high in pairwise((0, *widths)))
        self.demand(increase, f"widths {widths} must be positive and increase: sort them", spec)
        if weights is not None:
            reason = f"{len(weights)} weights for {len(widths)} widths: give one for each"
            self.demand(len(weights) == len(widths), reason, spec)


@dataclass(frozen=True)
class MatryoshkaRandom(Objective):
    """The sum of the prefix losses over `n_prefixes` lengths, drawn anew for each batch.

    One length is always d_sae; each other is m in 1..d_sae with probability proportional to
    m^-(1 + prefix_alpha), a truncated Pareto law (Nabeshima 2024: 10 lengths, alpha 1/2). All
    members on a world draw the same uniforms. Costs `n_prefixes` decodings.
    """

    n_prefixes: int = 10
    hypers: ClassVar = (Hyper("prefix_alpha", default=0.5, low=0.0),)

    def widths(self, key: PRNGKeyArray, d_sae: int, h: Hypers) -> Int[Array, " n_prefixes"]:
        """This batch's lengths, in 1..d_sae; the last is d_sae."""
        law = jnp.cumsum(jnp.arange(1, d_sae + 1, dtype=jnp.float32) ** -(1 + h["prefix_alpha"]))
        u = jax.random.uniform(named_key(key, "prefixes"), (self.n_prefixes - 1,)) * law[-1]
        drawn = 1 + jnp.searchsorted(law, u, side="right")
        return jnp.append(jnp.minimum(drawn, d_sae), d_sae)

    def loss(self, key: PRNGKeyArray, x: Array, f: Forward, h: Hypers) -> Float[Array, ""]:
        d_sae = f.z.shape[-1]
        bias = 0.0 if f.w.b_dec is None else f.w.b_dec

        def prefix_loss(width: Array) -> Array:
            # The decoder is masked, not z: [d_sae, d_in] a prefix instead of [batch, d_sae].
            W = jnp.where(jnp.arange(d_sae)[:, None] < width, f.w.W_dec, 0.0)
            return jnp.sum((x - bias - f.w.reconstruction(f.z, W, f.live)) ** 2, -1).mean()

        return jax.vmap(prefix_loss)(self.widths(key, d_sae, h)).sum()

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        # Masked decoders; reconstructions, errors and their gradients, as XLA lays them out.
        return self.n_prefixes * d_in * (3 * d_sae // 2 + 5 * batch)

    def check(self, spec: Spec) -> None:
        self.demand(self.n_prefixes >= 1, f"n_prefixes {self.n_prefixes} must be at least 1", spec)
