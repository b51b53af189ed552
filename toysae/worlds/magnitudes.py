"""How strongly a feature fires once it is on: coefficients, all non-negative."""

from abc import abstractmethod

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..errors import unknown


class Magnitude:
    """A law of coefficients; `sample` is traceable and sees which feature each slot holds."""

    @abstractmethod
    def sample(self, key: PRNGKeyArray, indices: Int[Array, "n slots"]) -> Float[Array, "n slots"]:
        """One coefficient for each slot."""


@struct.dataclass
class Constant(Magnitude):
    """Every active feature has the same coefficient."""

    value: float = 1.0

    def sample(self, key: PRNGKeyArray, indices: Array) -> Array:
        return jnp.full(indices.shape, self.value, jnp.float32)


@struct.dataclass
class Uniform(Magnitude):
    """U[low, high): the interim report's coefficients at 0 and 1."""

    low: float = 0.0
    high: float = 1.0

    def sample(self, key: PRNGKeyArray, indices: Array) -> Array:
        return self.low + (self.high - self.low) * jax.random.uniform(key, indices.shape)


@struct.dataclass
class HalfNormal(Magnitude):
    """|N(0, scale^2)|."""

    scale: float = 1.0

    def sample(self, key: PRNGKeyArray, indices: Array) -> Array:
        return self.scale * jnp.abs(jax.random.normal(key, indices.shape))


MAGNITUDES = {"uniform": Uniform, "constant": Constant, "half-normal": HalfNormal}


def magnitude(name: str) -> Magnitude:
    """The named law at its default parameters.

    Raises:
        ToysaeError: no law of that name.
    """
    if name not in MAGNITUDES:
        raise unknown("magnitude", name, MAGNITUDES)
    return MAGNITUDES[name]()
