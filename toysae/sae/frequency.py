"""Frequency-aware sparsity: a latent that fires rarely costs as much as naming it does.

Latent i's cost is weighted by ln(max(d_in, 1 / f_i)): the price in an ideal code of one of 1 / f_i
alternatives, and never less than that of one of d_in axes. f_i is a running firing frequency
without a gradient. It starts at 1 / d_in, where the weight is least, and is floored at `freq_floor`
(in units of 1 / d_in), or a dead latent would cost infinity. Where all latents fire more often
than 1 / d_in all weights are ln d_in: the plain penalty with a larger coefficient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .activations import Act, Activation, TopK, check_k, largest
from .component import Forward, Hyper, Hypers, Stats
from .penalties import LatentPenalty
from .running import RelativeFrequency

FREQ_FLOOR = Hyper("freq_floor", default=1e-3, low=1e-9, high=1.0)


def rarity(run: Stats, h: Hypers) -> Float[Array, " d_sae"]:
    """ln(max(d_in, 1 / f_i)) - ln d_in: the cost of rare firing above the least, at least 0."""
    relative = jnp.maximum(run["relative_frequency"], h["freq_floor"])
    return jax.lax.stop_gradient(-jnp.minimum(jnp.log(relative), 0.0))


@dataclass(frozen=True)
class FrequencyAware(LatentPenalty):
    """sum_i ln(max(d_in, 1 / f_i)) cost_i, of L1 or of the L0 step, say."""

    penalty: LatentPenalty
    hypers: ClassVar = (FREQ_FLOOR,)
    stats: ClassVar = (RelativeFrequency(),)

    def per_latent(self, f: Forward, run: Stats, h: Hypers) -> Array:
        weights = jnp.log(jnp.float32(f.x.shape[-1])) + rarity(run, h)
        return weights * self.penalty.per_latent(f, run, h)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return batch * d_sae  # z, whose frequency is read


@dataclass(frozen=True)
class FrequencyTopK(Activation):
    """ReLU, then the k largest of z_i - cost_i, as z_i.

    cost_i = freq_coeff * ln(max(d_in, 1 / f_i)). Sources leave the TopK case open; this defines
    it. Only positive z_i are candidates, and one below its own cost may still be chosen: the cost
    says which latents come first, k how many. Where none fires more rarely than 1 / d_in this is
    TopK.
    """

    hypers: ClassVar = (*TopK.hypers, Hyper("freq_coeff", low=0.0), FREQ_FLOOR)
    stats: ClassVar = (RelativeFrequency(),)

    selects = True

    def apply(
        self, pre_acts: Float[Array, "*batch d_sae"], act: Act, run: Stats, h: Hypers
    ) -> Array:
        z = jax.nn.relu(pre_acts)
        cost = h["freq_coeff"] * rarity(run, h)  # less ln d_in, which does not change the order
        # largest takes no negative numbers: a shift that all latents share keeps the order.
        score = jnp.where(z > 0, z - cost + cost.max(), 0.0)
        return jnp.where(largest(score, h["k"]), z, 0.0)

    def check_numbers(self, d_sae: int, h: Mapping[str, float]) -> None:
        check_k(self, d_sae, h["k"])
