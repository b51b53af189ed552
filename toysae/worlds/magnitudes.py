"""How strongly a feature fires when it is on.

Each parameter of a law is one number, or one for each feature `[n_features]`.
"""

from abc import abstractmethod
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import draws, pytree
from ..checked import shown
from ..errors import require, unknown
from ..keys import named_key
from .firing import Active

Number = float | Float[Array, "..."]


class Magnitude:
    """A law of coefficients; `sample` is traceable and sees which feature each slot holds."""

    @abstractmethod
    def sample(self, key: PRNGKeyArray, active: Active) -> Float[Array, "n slots"]:
        """Draws a coefficient for each slot; those of slots that are off are not used."""


def each(value: Number, indices: Int[Array, "n slots"]) -> Array:
    """Returns the parameter of each slot's feature."""
    value = jnp.asarray(value, jnp.float32)
    return value[indices] if value.ndim else value


def unit(key: PRNGKeyArray, active: Active) -> Float[Array, "n slots"]:
    """Returns U[0, 1) for each slot: what firing left over, or fresh draws."""
    return draws.uniform(key, active.indices.shape) if active.unit is None else active.unit


@pytree.dataclass
class Constant(Magnitude):
    """Always the same coefficient."""

    value: Number = 1.0

    def sample(self, key: PRNGKeyArray, active: Active) -> Array:
        return jnp.broadcast_to(each(self.value, active.indices), active.indices.shape)


@pytree.dataclass
class Uniform(Magnitude):
    """U[low, high): the interim report's coefficients at 0 and 1."""

    low: Number = 0.0
    high: Number = 1.0

    def sample(self, key: PRNGKeyArray, active: Active) -> Array:
        low, high = each(self.low, active.indices), each(self.high, active.indices)
        return low + (high - low) * unit(key, active)


@pytree.dataclass
class FoldedNormal(Magnitude):
    """|N(mean, sd^2)|; the half-normal at mean 0."""

    mean: Number = 0.0
    sd: Number = 1.0

    def sample(self, key: PRNGKeyArray, active: Active) -> Array:
        return jnp.abs(_normal(key, active, self.mean, self.sd))


@pytree.dataclass
class RectifiedNormal(Magnitude):
    """ReLU(N(mean, sd^2)), as SAELens' generator draws them; 0 counts as not firing."""

    mean: Number = 1.0
    sd: Number = 0.25

    def sample(self, key: PRNGKeyArray, active: Active) -> Array:
        return jax.nn.relu(_normal(key, active, self.mean, self.sd))


@pytree.dataclass
class LogNormal(Magnitude):
    """exp(N(mu, sigma^2)); median exp(mu)."""

    mu: Number = 0.0
    sigma: Number = 0.25

    def sample(self, key: PRNGKeyArray, active: Active) -> Array:
        return jnp.exp(_normal(key, active, self.mu, self.sigma))


@pytree.dataclass
class Exponential(Magnitude):
    """Exponential with the given mean."""

    mean: Number = 1.0

    def sample(self, key: PRNGKeyArray, active: Active) -> Array:
        return each(self.mean, active.indices) * -jnp.log1p(-unit(key, active))


@pytree.dataclass
class Scaled(Magnitude):
    """Another law's coefficients times a factor of each feature."""

    law: Magnitude
    scale: Number

    def sample(self, key: PRNGKeyArray, active: Active) -> Array:
        return each(self.scale, active.indices) * self.law.sample(key, active)


@pytree.dataclass
class Circle(Magnitude):
    """Features 2i and 2i + 1 share a radius, by `law`, and a uniform angle: they span a circle.

    :class:`toysae.worlds.groups.Together` fires them together. Coefficients are r cos and r sin,
    of either sign (Engels et al. 2024, "Not all features are linear").
    """

    law: Magnitude

    def sample(self, key: PRNGKeyArray, active: Active) -> Array:
        circle = Active(active.indices[:, ::2] // 2, active.on[:, ::2])
        radius = self.law.sample(named_key(key, "radius"), circle)
        angle = draws.uniform(named_key(key, "angle"), radius.shape, maxval=2 * jnp.pi)
        pair = jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], -1)
        return pair.reshape(active.indices.shape)


def _normal(key: PRNGKeyArray, active: Active, mean: Number, sd: Number) -> Array:
    left = active.unit
    noise = draws.normal(key, active.indices.shape) if left is None else draws.normal_of(left)
    return each(mean, active.indices) + each(sd, active.indices) * noise


MAGNITUDES: dict[str, Callable[[int, float], Magnitude]] = {
    "uniform": lambda n, spread: Uniform(0.0, 1.0),
    "constant": lambda n, spread: Constant(1.0),
    "half-normal": lambda n, spread: FoldedNormal(0.0, 1.0),
    "folded-normal": lambda n, spread: FoldedNormal(1.0, spread),
    "normal": lambda n, spread: RectifiedNormal(1.0, spread),
    "log-normal": lambda n, spread: LogNormal(0.0, spread),
    "exponential": lambda n, spread: Exponential(1.0),
    "linear": lambda n, spread: RectifiedNormal(
        jnp.asarray(np.linspace(1.0, 0.5, n), jnp.float32), spread
    ),
}
"""Laws by name: functions of the number of features and the spread (sd; log-normal: sigma)."""


def magnitude(name: str, n_features: int, spread: float = 0.25) -> Magnitude:
    """Returns a named law.

    Args:
        name: a row of :data:`MAGNITUDES`; "linear" has means that fall from 1 to .5 by rank.
        n_features: number of features of the world.
        spread: sd, for laws that have one; at least 0.

    Raises:
        ToysaeError: an unknown name, a negative spread, or one at which more than 1 % of the
            coefficients are 0.
    """
    if name not in MAGNITUDES:
        raise unknown("magnitude", name, MAGNITUDES)
    require(spread >= 0, f"magnitude_spread {spread} must be at least 0")
    law = MAGNITUDES[name](n_features, spread)
    require(isinstance(law, Magnitude), f"MAGNITUDES[{name!r}] gives {shown(law)}, not a Magnitude")
    silent = silent_share(law)
    require(
        silent <= 0.01,  # of the firings that l0 asks for
        f"magnitude {name!r} with magnitude_spread {spread:g} is 0 in {silent:.1%} of firings, so "
        "that fewer features would be active than l0 says: use a smaller spread, or "
        "'folded-normal', which is never 0",
    )
    return law


def silent_share(law: Magnitude) -> float:
    """Share of a feature's firings in which its coefficient is 0, averaged over features."""
    if isinstance(law, RectifiedNormal):
        mean, sd = np.asarray(law.mean, np.float64), np.asarray(law.sd, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(sd > 0, scipy.special.ndtr(-mean / sd), mean <= 0)
        return float(share.mean())
    return 0.0
