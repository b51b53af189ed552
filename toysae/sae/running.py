"""Running statistics that several components read: batches, and when and how often latents fire."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .component import Forward, Hypers, RunningStat, Stats

FREQUENCY_RATE = 0.003
"""The rate of the moving average of the firing frequency: it remembers some 300 batches."""


def next_stats(stats: Mapping[str, RunningStat], f: Forward, run: Stats, h: Hypers) -> Stats:
    """Every statistic after one more batch, without a gradient."""
    return jax.lax.stop_gradient({n: stat.step(run[n], f, run, h) for n, stat in stats.items()})


def restarted(
    stats: Mapping[str, RunningStat], run: Stats, latents: Bool[Array, " d_sae"]
) -> Stats:
    """The statistics, with those of the chosen latents as before any step."""
    fresh = {
        name: jnp.where(latents, stat.init(latents.shape[0]), run[name])
        for name, stat in stats.items()
        if stat.per_latent
    }
    return {**run, **fresh}


@dataclass(frozen=True)
class Steps(RunningStat):
    """The number of batches, which a penalty that draws anew in each step folds into its key."""

    name: ClassVar[str] = "steps"

    def init(self, d_sae: int) -> Array:
        return jnp.zeros((), jnp.int32)

    def step(self, old: Array, f: Forward, run: Stats, h: Hypers) -> Int[Array, ""]:
        return old + 1


@dataclass(frozen=True)
class StepsSinceFired(RunningStat):
    """Batches since each latent last fired; 0 if it did in the last one."""

    name: ClassVar[str] = "steps_since_fired"
    per_latent: ClassVar[bool] = True

    def init(self, d_sae: int) -> Array:
        return jnp.zeros(d_sae, jnp.int32)

    def step(self, old: Array, f: Forward, run: Stats, h: Hypers) -> Array:
        fired = (f.z != 0).any(tuple(range(f.z.ndim - 1)))
        return jnp.where(fired, 0, old + 1)


@dataclass(frozen=True)
class RelativeFrequency(RunningStat):
    """Each latent's firing frequency in units of 1 / d_in, a moving average over batches that
    starts at 1."""

    name: ClassVar[str] = "relative_frequency"
    per_latent: ClassVar[bool] = True

    def init(self, d_sae: int) -> Array:
        return jnp.ones(d_sae, jnp.float32)

    def step(self, old: Array, f: Forward, run: Stats, h: Hypers) -> Float[Array, " d_sae"]:
        return old + FREQUENCY_RATE * (f.fire_rate * f.x.shape[-1] - old)
