"""Objectives: what reconstruction means. One convention everywhere: the squared error is summed
over d_in and averaged over samples."""

from abc import abstractmethod
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .part import Forward, Hypers, Part


@dataclass(frozen=True)
class Objective(Part):
    """Base of objectives."""

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
