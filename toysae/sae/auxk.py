"""Dead latents learn to reconstruct what the living ones leave over: AuxK, ghost gradients."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .activations import largest
from .component import Forward, Hyper, Hypers, Spec, Stats
from .penalties import TRAINABLE, Penalty
from .running import StepsSinceFired

DEAD_WINDOW = Hyper("dead_window", default=200.0, low=1.0)
"""Batches without a firing after which a latent counts as dead."""


@dataclass(frozen=True)
class AuxK(Penalty):
    """aux_coeff ||e - e_hat||^2, e = x - x_hat, e_hat = z_aux W_dec (Gao et al. 2024, A.2).

    z_aux keeps, of the rectified pre-activations of the dead latents alone, the k_aux largest of
    each sample. Dead: no firing in the last `dead_window` batches. k_aux = aux_fraction * d_in
    (the paper: near d_in / 2; aux_coeff 1/32). The error e is a target without a gradient. Costs
    nothing while no latent is dead.

    Attributes:
        raw: as SAELens 6.54 does it: pre-activations are not rectified, k_aux is rounded down, and
            the cost is scaled by n_dead / k_aux where fewer are dead.
    """

    raw: bool = False
    hypers: ClassVar = (
        Hyper("aux_coeff", default=1 / 32, low=0.0),
        Hyper("aux_fraction", default=0.5, low=0.0),
        DEAD_WINDOW,
    )
    stats: ClassVar = (StepsSinceFired(),)

    def check(self, spec: Spec) -> None:
        self.needs("pre_acts", TRAINABLE, spec)

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        dead = run["steps_since_fired"] >= h["dead_window"]
        left_over = jax.lax.stop_gradient(f.x - f.x_hat)
        k_aux = jnp.maximum(h["aux_fraction"] * f.x.shape[-1], 1.0)
        z = jnp.where(dead, f.pre_acts if self.raw else jax.nn.relu(f.pre_acts), 0.0)
        share, order = 1.0, z
        if self.raw:
            k_aux = jnp.floor(k_aux)
            share = jnp.minimum(dead.sum() / k_aux, 1.0)
            # A shift that all latents share keeps their order, and makes them candidates.
            order = jnp.where(dead, z - z.min(-1, keepdims=True) + 1, 0.0)
        z = jnp.where(largest(order, k_aux), z, 0.0)
        error = jnp.sum((left_over - f.w.reconstruction(z, f.w.W_dec)) ** 2, -1).mean()
        return jnp.where(dead.any(), share * h["aux_coeff"] * error, 0.0)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return batch * (d_sae + d_in)


@dataclass(frozen=True)
class GhostGradients(Penalty):
    """Dead latents fit the error through exp(pre_acts) (Anthropic, January 2024 update).

    g = exp(pre_acts) W_dec over the dead latents alone, scaled to half of ||e||, e = x - x_hat;
    the cost ||e - g||^2 is scaled to the size of the mean ||e||^2. The scales and e have no
    gradient. Costs nothing while no latent is dead.
    """

    hypers: ClassVar = (DEAD_WINDOW,)
    stats: ClassVar = (StepsSinceFired(),)

    def check(self, spec: Spec) -> None:
        self.needs("pre_acts", TRAINABLE, spec)

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        dead = run["steps_since_fired"] >= h["dead_window"]
        error = jax.lax.stop_gradient(f.x - f.x_hat)
        # The inner where keeps a living latent's exp, which may overflow, out of the gradient.
        ghost = jnp.where(dead, jnp.exp(jnp.where(dead, f.pre_acts, 0.0)), 0.0) @ f.w.W_dec
        half = 0.5 * _length(error) / jnp.maximum(_length(ghost), 1e-12)
        cost = jnp.sum((error - jax.lax.stop_gradient(half) * ghost) ** 2, -1).mean()
        size = jnp.sum(error**2, -1).mean() / jnp.maximum(cost, 1e-12)
        return jnp.where(dead.any(), jax.lax.stop_gradient(size) * cost, 0.0)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return batch * (2 * d_sae + 2 * d_in)


def _length(rows: Float[Array, "*batch d"]) -> Float[Array, "*batch 1"]:
    return jnp.sqrt(jnp.sum(jax.lax.stop_gradient(rows) ** 2, -1, keepdims=True))
