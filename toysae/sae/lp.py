"""Lp penalties, and p-annealing from L1 towards L0."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from .component import Forward, Hyper, Hypers, RunningStat, Spec, Stats
from .penalties import (
    BOUNDED,
    LatentPenalty,
    coefficient,
    coefficient_now,
    mean_over_samples,
    sparse_acts,
)

LEAST_SCALE = 1e-3
"""Of the activation: |z|^p is (|z| + floor)^p - floor^p, so that its slope at 0, infinite for
p < 1, is p floor^(p - 1). At p = 1 it is |z| exactly."""


def powers(acts: Float[Array, "*batch d_sae"], p: Float[Array, ""]) -> Float[Array, "*batch d_sae"]:
    """|z|^p with a finite slope at 0."""
    return (acts + LEAST_SCALE) ** p - LEAST_SCALE**p


@dataclass(frozen=True)
class Lp(LatentPenalty):
    """l1_coeff * sum |z|^p, with `p` a number of the member."""

    hypers: ClassVar = (*coefficient("l1"), Hyper("p", low=0.05, high=2.0))

    def check(self, spec: Spec) -> None:
        self.needs("bounded_decoder", BOUNDED, spec)

    def per_latent(self, f: Forward, run: Stats, h: Hypers) -> Array:
        return coefficient_now("l1", run, h) * mean_over_samples(powers(sparse_acts(f), h["p"]))


def annealed_p(run: Stats, h: Hypers) -> Float[Array, ""]:
    """p now: 1 until the fraction `p_start` of training, then linear down to `p_end`."""
    span = jnp.maximum(1 - h["p_start"], 1e-9)
    return 1 + (h["p_end"] - 1) * jnp.clip((run["progress"] - h["p_start"]) / span, 0.0, 1.0)


@dataclass(frozen=True)
class LpScale(RunningStat):
    """The coefficient's factor that keeps the penalty's size as p falls (Karvonen et al. 2024):

        factor(p_next) = factor(p) * sum |z|^p / sum |z|^p_next,

    over the current batch. Holds (p, log factor).
    """

    name: ClassVar[str] = "lp_scale"

    def init(self, d_sae: int) -> Array:
        return jnp.array([1.0, 0.0], jnp.float32)

    def step(self, old: Array, f: Forward, run: Stats, h: Hypers) -> Float[Array, "2"]:
        acts, p = sparse_acts(f), annealed_p(run, h)
        before, now = powers(acts, old[0]).sum(), powers(acts, p).sum()
        fires = (before > 0) & (now > 0)
        ratio = jnp.where(fires, before, 1.0) / jnp.where(fires, now, 1.0)
        return jnp.stack([p, old[1] + jnp.log(ratio)])


@dataclass(frozen=True)
class AnnealedLp(LatentPenalty):
    """l1_coeff * factor * sum |z|^p with p falling from 1 to `p_end` (Karvonen et al. 2024).

    The factor, without a gradient, makes up for the growth of the sum as p falls.
    """

    hypers: ClassVar = (
        *coefficient("l1"),
        Hyper("p_end", default=0.2, low=0.05, high=1.0),
        Hyper("p_start", default=0.0, low=0.0, high=1.0),
    )
    stats: ClassVar[tuple[RunningStat, ...]] = (LpScale(),)

    def check(self, spec: Spec) -> None:
        self.needs("bounded_decoder", BOUNDED, spec)

    def per_latent(self, f: Forward, run: Stats, h: Hypers) -> Array:
        scale = stop_gradient(LpScale().step(run["lp_scale"], f, run, h))
        raised = mean_over_samples(powers(sparse_acts(f), scale[0]))
        return coefficient_now("l1", run, h) * jnp.exp(scale[1]) * raised
