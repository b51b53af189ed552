"""Resampling: which latents start afresh, and when. How: :mod:`toysae.training.resampling`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .component import Component, Hyper, Hypers, Spec, Stats
from .running import RelativeFrequency, StepsSinceFired


@dataclass(frozen=True)
class Resampling(Component, ABC):
    """Base of the rules that say which latents training starts afresh."""

    axis: ClassVar = "resample"


@dataclass(frozen=True)
class Never(Resampling):
    """No latent ever starts afresh."""


@dataclass(frozen=True)
class AtTimes(Resampling, ABC):
    """Base of rules that act at fixed times (Towards Monosemanticity 2023, "Neuron Resampling").

    Each chosen latent gets as its decoder row a normalised input, drawn with probability
    proportional to the square of its loss; as its encoder the same direction, at `resample_scale`
    times the mean length of the others' (a tied encoder keeps the decoder's unit length); all else
    as at the start; and no moments.

    Attributes:
        at: the fractions of training after which it happens. By default the paper's 25k, 50k, 75k
            and 100k of 200k steps, scaled, or a toy run would end before the first.
        n_inputs: inputs that are drawn from (the paper: 819,200; a toy world has fewer kinds).
    """

    at: tuple[float, ...] = (1 / 8, 2 / 8, 3 / 8, 4 / 8)
    n_inputs: int = 8192
    hypers: ClassVar = (Hyper("resample_scale", default=0.2, low=0.0),)

    @abstractmethod
    def chosen(
        self, run: Stats, h: Hypers, n_steps: Float[Array, ""], d_in: int
    ) -> Bool[Array, " d_sae"]:
        """The latents that start afresh."""

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return self.n_inputs * (d_sae + d_in)  # z, and x or x_hat: never all three are held

    def check(self, spec: Spec) -> None:
        in_training = all(0 < time < 1 for time in self.at)
        reason = f"times {self.at} must be fractions of training in (0, 1)"
        self.demand(self.at and in_training, reason, spec)
        self.demand(self.n_inputs >= 1, f"n_inputs {self.n_inputs} must be at least 1", spec)
        reason = (
            f"{type(spec.decoder).__name__} ties its rows to each other or to the start, so none "
            "can be replaced: use decoder=UnitNorm()"
        )
        self.demand("free_rows" in spec.decoder.provides, reason, spec)
        axes = spec.encoder.latent_axes().items()
        mixed = ", ".join(name for name, over in axes if len(over) > 1)
        reason = (
            f"{type(spec.encoder).__name__} mixes latents in {mixed}, so none can start afresh "
            "alone: use encoder=Untied()"
        )
        self.demand(not mixed, reason, spec)


@dataclass(frozen=True)
class ResampleDead(AtTimes):
    """Chooses latents without a firing in the last `resample_window` of training (the paper's
    12,500 of 200,000 steps: 1/16)."""

    hypers: ClassVar = (
        *AtTimes.hypers,
        Hyper("resample_window", default=1 / 16, low=0.0, high=1.0),
    )
    stats: ClassVar = (StepsSinceFired(),)

    def chosen(self, run: Stats, h: Hypers, n_steps: Array, d_in: int) -> Array:
        return run["steps_since_fired"] >= jnp.maximum(h["resample_window"] * n_steps, 1.0)


@dataclass(frozen=True)
class ResampleRare(AtTimes):
    """Chooses latents that fire in less than `min_rate` of the samples, by a running mean over
    some 300 batches that starts at 1 / d_in (so it takes 300 ln(1 / (d_in min_rate)) steps until
    one that never fires is seen)."""

    hypers: ClassVar = (*AtTimes.hypers, Hyper("min_rate", low=0.0, high=1.0))
    stats: ClassVar = (RelativeFrequency(),)

    def chosen(self, run: Stats, h: Hypers, n_steps: Array, d_in: int) -> Array:
        return run["relative_frequency"] < h["min_rate"] * d_in
