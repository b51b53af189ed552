"""A - aX: take one latent out of the input, encode again, and see what is left and what moves.

Residual activation: what the latent still reads of what it wrote, z_j(x - z_j d_j) / z_j(x); 0 for
a tied unit-norm ReLU latent, max(0, 1 - e·d) for an untied one. Interference: how much the others
move, Σ_k |Δz_k| ‖d_k‖ / (z_j ‖d_j‖).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import pytree
from ..sae import SAE


@pytree.dataclass
class Ablations:
    """Running means over samples in which each latent was the one taken out."""

    n: Int[Array, " d_sae"]
    residual: Float[Array, " d_sae"]
    interference: Float[Array, " d_sae"]


def empty_ablations(d_sae: int) -> Ablations:
    """Of no samples."""
    return Ablations(jnp.zeros(d_sae, jnp.int32), *(jnp.zeros(d_sae, jnp.float32) for _ in "ri"))


@partial(jax.jit, donate_argnums=0)
def add_ablations(
    seen: Ablations, sae: SAE, key: PRNGKeyArray, x: Float[Array, "batch d_in"]
) -> Ablations:
    """With one more batch. Of each sample one latent that fires is taken out, all equally likely;
    samples in which none fires are left out. `seen` is donated."""
    z = sae(x).z
    lengths = jnp.sqrt(jnp.sum(sae.W_dec**2, -1))
    chosen = jnp.where(z != 0, jax.random.uniform(key, z.shape), -1).argmax(-1)
    picked = jnp.arange(z.shape[0]), chosen
    act = z[picked]
    again = sae(x - act[:, None] * sae.W_dec[chosen]).z
    some = jnp.where(act != 0, act, 1)
    moved = (jnp.abs(again - z) * lengths).at[picked].set(0).sum(-1)
    length = jnp.where(lengths[chosen] > 0, lengths[chosen], jnp.inf)
    weight = (act != 0).astype(jnp.float32)
    n_new = jnp.zeros_like(seen.n).at[chosen].add(weight.astype(jnp.int32))
    n = seen.n + n_new

    def mean(old: Array, values: Array) -> Array:
        excess = weight * (values - old[chosen])
        return old + jnp.zeros_like(old).at[chosen].add(excess) / jnp.maximum(n, 1)

    return Ablations(
        n,
        mean(seen.residual, again[picked] / some),
        mean(seen.interference, moved / (jnp.abs(some) * length)),
    )


def ablation(seen: Ablations) -> pd.DataFrame:
    """One row a latent: `residual` and `interference`, means over `n` samples; NaN without any."""
    host = jax.device_get(seen)
    known = host.n > 0
    return pd.DataFrame(
        {
            "n": host.n,
            "residual": np.where(known, host.residual, np.nan).astype(float),
            "interference": np.where(known, host.interference, np.nan).astype(float),
        }
    )
