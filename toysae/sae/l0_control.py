"""Control of the sparsity coefficient, so that members are compared at an equal L0."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .component import Forward, Hyper, Hypers, RunningStat, Stats, components_of
from .penalties import CodesL1, Penalty, Sum

COEFFICIENTS = ("l1_coeff", "l0_coeff")  # of the penalties that can be driven to an L0
L0_RATE = 0.05  # of the running mean of L0: about 20 batches
MAX_ERROR = 0.5  # of ln(L0 / target) in one step: the first steps' L0 says little
MAX_LOG = 6.0  # of the multiplier's logarithm: a factor of 400 either way


@dataclass(frozen=True)
class L0Multiplier(RunningStat):
    """Integral control: ln m <- ln m + l0_gain * ln(mean L0 / l0_target), both clipped.

    Holds (ln m, biased running mean of L0, its weight). L0 counts the active latents per sample.
    The defaults settle in about 2,000 steps at lr 1e-3 to 3e-3; a longer run may halve the gain.
    """

    name: ClassVar[str] = "l0_multiplier"

    def init(self, d_sae: int) -> Array:
        return jnp.zeros(3, jnp.float32)

    def step(self, old: Array, f: Forward, run: Stats, h: Hypers) -> Float[Array, "3"]:
        log_multiplier, mean, weight = old
        mean = mean + L0_RATE * (f.fire_rate.sum() - mean)
        weight = weight + L0_RATE * (1 - weight)
        error = jnp.log(jnp.maximum(mean / weight, 1e-3) / h["l0_target"])
        moved = log_multiplier + h["l0_gain"] * jnp.clip(error, -MAX_ERROR, MAX_ERROR)
        return jnp.stack([jnp.clip(moved, -MAX_LOG, MAX_LOG), mean, weight])


@dataclass(frozen=True)
class ToL0(Penalty):
    """m * penalty, with m steered so that the mean L0 reaches `l0_target`.

    The inner penalty's own coefficient only says where m = 1 starts from. Give it within a factor
    of a hundred: m cannot leave [1/400, 400].
    """

    penalty: Penalty
    hypers: ClassVar = (
        Hyper("l0_target", low=1e-3),
        Hyper("l0_gain", default=0.005, low=0.0, high=1.0),
    )
    stats: ClassVar[tuple[RunningStat, ...]] = (L0Multiplier(),)

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        multiplier = jnp.exp(jax.lax.stop_gradient(run["l0_multiplier"][0]))
        return multiplier * self.penalty.cost(f, run, h)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return batch * d_sae  # z, which the control reads


def controlled(penalty: Penalty) -> Penalty | None:
    """The penalty with its sparsity cost, the component that reads `l1_coeff` or `l0_coeff`, driven
    to a target L0; None if there is none. A penalty already under control stays as it is."""
    if any(isinstance(component, ToL0) for component in components_of(penalty)):
        return penalty
    if isinstance(penalty, Sum):
        steered = tuple(controlled(cost) or cost for cost in penalty.parts)
        return Sum(steered) if steered != penalty.parts else None
    if isinstance(penalty, CodesL1):  # the encoder reads the number too, and is not driven
        return None
    reads = {hyper.name for inner in components_of(penalty) for hyper in inner.hypers}
    return ToL0(penalty) if reads & set(COEFFICIENTS) else None
