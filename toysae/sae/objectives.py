"""Objectives: the reconstruction loss. In all of them the squared error is summed over d_in and
averaged over samples."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .. import draws
from ..keys import named_key
from .component import Component, Forward, Hyper, Hypers


@dataclass(frozen=True)
class Objective(Component, ABC):
    """Base of objectives."""

    axis: ClassVar = "objective"

    def corrupt(self, key: PRNGKeyArray, x: Array, h: Hypers) -> Float[Array, "*batch d_in"]:
        """What the encoder sees instead of x during training."""
        return x

    @abstractmethod
    def loss(self, key: PRNGKeyArray, x: Array, f: Forward, h: Hypers) -> Float[Array, ""]:
        """The reconstruction loss of the clean x."""


@dataclass(frozen=True)
class Plain(Objective):
    """||x - x_hat||^2."""

    def loss(self, key: PRNGKeyArray, x: Array, f: Forward, h: Hypers) -> Array:
        return jnp.sum((x - f.x_hat) ** 2, -1).mean()


@dataclass(frozen=True)
class Denoising(Objective):
    """Another objective's loss of the clean x, from x + `noise` * N(0, I) (Vincent et al. 2008).

    All members on a world see the same noise, each at its own size; none outside training.
    """

    objective: Objective = Plain()
    hypers: ClassVar = (Hyper("noise", low=0.0),)

    def corrupt(self, key: PRNGKeyArray, x: Array, h: Hypers) -> Array:
        x = self.objective.corrupt(key, x, h)
        return x + h["noise"] * draws.normal(named_key(key, "denoising"), x.shape)

    def loss(self, key: PRNGKeyArray, x: Array, f: Forward, h: Hypers) -> Array:
        return self.objective.loss(key, x, f, h)
