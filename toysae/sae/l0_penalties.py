"""Penalties on the number of active latents: the step, its smooth stand-in, and the cost that
brings a latent which never fires back into reach."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .component import Forward, Hyper, Hypers, Spec, Stats
from .jumprelu import JumpReLU, heaviside_ste
from .penalties import (
    TRAINABLE,
    LatentPenalty,
    coefficient,
    coefficient_now,
    mean_over_samples,
    row_norms,
    sparse_acts,
)


@dataclass(frozen=True)
class L0Step(LatentPenalty):
    """l0_coeff * sum H(pre_acts - threshold) (Rajamanoharan et al. 2024, JumpReLU, eq. 9).

    The step's gradient is the straight-through estimate of their eq. 12, with the rectangle of
    the activation's bandwidth, and goes to the threshold alone.
    """

    hypers: ClassVar = (*coefficient("l0"), JumpReLU.hypers[0])

    def check(self, spec: Spec) -> None:
        self.needs("log_threshold", "use activation=JumpReLU(), or penalty=Tanh()", spec)

    def per_latent(self, f: Forward, run: Stats, h: Hypers) -> Array:
        threshold = jnp.exp(f.w.act["log_threshold"])
        fires = heaviside_ste(f.pre_acts, threshold, h["bandwidth"])
        return coefficient_now("l0", run, h) * mean_over_samples(fires)


@dataclass(frozen=True)
class Tanh(LatentPenalty):
    """l0_coeff * sum tanh(tanh_scale |z_i| ||W_dec_i||) (Anthropic, January 2025 update).

    Nearly the number of active latents, with an ordinary gradient.
    """

    hypers: ClassVar = (*coefficient("l0"), Hyper("tanh_scale", default=4.0, low=0.0))

    def per_latent(self, f: Forward, run: Stats, h: Hypers) -> Array:
        sizes = h["tanh_scale"] * sparse_acts(f) * row_norms(f.w.W_dec)
        return coefficient_now("l0", run, h) * mean_over_samples(jnp.tanh(sizes))


@dataclass(frozen=True)
class PreAct(LatentPenalty):
    """pre_act_coeff * sum ReLU(threshold_i - pre_acts_i) ||W_dec_i|| (Anthropic, January 2025).

    Raises every pre-activation below its threshold (0 without a learned one) by a little, so
    that a dead latent meets the data again. Its size must stay far below the sparsity cost's.
    """

    hypers: ClassVar = (Hyper("pre_act_coeff", default=3e-6, low=0.0),)

    def check(self, spec: Spec) -> None:
        self.needs("pre_acts", TRAINABLE, spec)

    def per_latent(self, f: Forward, run: Stats, h: Hypers) -> Array:
        learned = f.w.act.get("log_threshold")
        threshold = 0.0 if learned is None else jnp.exp(learned)
        short = jax.nn.relu(threshold - f.pre_acts)
        return h["pre_act_coeff"] * mean_over_samples(short) * row_norms(f.w.W_dec)
