"""JumpReLU: a learned threshold for each latent, trained through the jump.

Rajamanoharan et al. 2024 (arXiv 2407.14435): z = pre H(pre - theta), theta > 0. The step has no
useful derivative, so a kernel K of width epsilon (the bandwidth) stands in for it (eq. 11-12):

    dz / dtheta      = -(theta / epsilon) K((pre - theta) / epsilon),     dz / dpre = H(pre - theta)
    dH / dtheta      = -(1 / epsilon)     K((pre - theta) / epsilon),     dH / dpre = 0
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import unknown
from .activations import Act, Activation
from .component import Hyper, Hypers, Stats

Surrogate = Literal["step", "tanh"]


def rectangle(u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 where |u| < 1/2, else 0: the paper's kernel."""
    return (jnp.abs(u) < 0.5).astype(u.dtype)


def bell(u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """sech^2(2u), the derivative of the smooth step (1 + tanh 2u) / 2: height and area of the
    rectangle, and tails that pull at what lies outside it."""
    return 1 - jnp.tanh(2 * u) ** 2


BANDWIDTH = Hyper("bandwidth", default=1e-3, low=1e-6)
"""epsilon: shared with the L0 penalty, as in the paper."""

KERNELS: dict[str, Callable[[Array], Array]] = {"step": rectangle, "tanh": bell}


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _step(pre, threshold, bandwidth, surrogate, to_input):
    return (pre > threshold).astype(pre.dtype)


def _step_forward(pre, threshold, bandwidth, surrogate, to_input):
    return _step(pre, threshold, bandwidth, surrogate, to_input), (pre, threshold, bandwidth)


def _step_backward(surrogate, to_input, saved, cotangent):
    pre, threshold, bandwidth = saved
    pull = cotangent * KERNELS[surrogate]((pre - threshold) / bandwidth) / bandwidth
    return pull if to_input else jnp.zeros_like(pre), -pull, jnp.zeros_like(bandwidth)


_step.defvjp(_step_forward, _step_backward)


def heaviside_ste(
    pre: Float[Array, "*batch d_sae"],
    threshold: Float[Array, " d_sae"],
    bandwidth: Float[Array, ""] | float,
    surrogate: str = "step",
    to_input: bool = False,
) -> Float[Array, "*batch d_sae"]:
    """1 where pre > threshold, else 0, with a straight-through gradient (eq. 12).

    Args:
        pre: pre-activations.
        threshold: theta, of each latent.
        bandwidth: epsilon, in units of pre; it may be traced and gets no gradient.
        surrogate: the kernel, a name in :data:`KERNELS`.
        to_input: also pass the gradient, negated, to `pre`. The paper does not.
    """
    threshold = jnp.broadcast_to(threshold, pre.shape)
    return _step(pre, threshold, jnp.asarray(bandwidth, pre.dtype), surrogate, to_input)


def jump_relu(
    pre: Float[Array, "*batch d_sae"],
    threshold: Float[Array, " d_sae"],
    bandwidth: Float[Array, ""] | float,
    surrogate: str = "step",
    to_input: bool = False,
) -> Float[Array, "*batch d_sae"]:
    """pre where pre > threshold, else 0, with a straight-through gradient (eq. 11).

    The arguments are those of :func:`heaviside_ste`.
    """
    step = heaviside_ste(pre, threshold, bandwidth, surrogate, to_input)
    fixed = jax.lax.stop_gradient(step)
    # The last term is exactly 0; its gradient is theta, the height of the jump, times the step's.
    return pre * fixed + jax.lax.stop_gradient(threshold) * (step - fixed)


@dataclass(frozen=True)
class JumpReLU(Activation):
    """z = pre H(pre - theta) with a learned theta = exp(log_threshold) for each latent.

    The paper's bandwidth and first threshold, 0.001 both, are for inputs of mean square norm 1
    and runs of 10^5 steps and more. Adam moves log_threshold by about lr a step and a latent
    learns its threshold only from samples within the bandwidth: a short run on a toy world wants
    both nearer the magnitudes of z, e.g. 0.1.

    Attributes:
        surrogate: the kernel: "step" is the paper's rectangle, "tanh" a smooth bell.
        to_input: also pass the straight-through gradient to the pre-activations.
    """

    surrogate: Surrogate = "step"
    to_input: bool = False
    hypers: ClassVar = (
        BANDWIDTH,
        Hyper("threshold_init", default=1e-3, low=1e-6),
    )
    provides: ClassVar = frozenset({"log_threshold"})

    def __post_init__(self) -> None:
        if self.surrogate not in KERNELS:
            raise unknown("surrogate", self.surrogate, KERNELS)

    def latent_axes(self) -> Mapping[str, tuple[int, ...]]:
        return {"log_threshold": (-1,)}

    def init(self, d_sae: int, h: Hypers) -> Act:
        return {"log_threshold": jnp.zeros(d_sae) + jnp.log(h["threshold_init"])}

    def apply(self, pre_acts: Array, act: Act, run: Stats, h: Hypers) -> Array:
        threshold = jnp.exp(act["log_threshold"])
        return jump_relu(pre_acts, threshold, h["bandwidth"], self.surrogate, self.to_input)

    @property
    def flat_where_off(self) -> bool:
        return type(self) is JumpReLU and self.surrogate == "step"

    def live(self, pre_acts: Array, z: Array, act: Act, h: Hypers) -> Array:
        """Where it is on, or the straight-through gradient reaches."""
        u = (pre_acts - jnp.exp(act["log_threshold"])) / h["bandwidth"]
        return jnp.where((z != 0) | (KERNELS[self.surrogate](u) != 0), 1.0, 0.0)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return batch * d_sae  # the step
