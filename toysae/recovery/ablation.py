"""A - aX: removes one latent from the input and encodes again.

Residual activation: how much of what it wrote the latent still reads, z_j(x - z_j d_j) / z_j(x); 0
for a tied unit-norm ReLU latent, max(0, 1 - e·d) for an untied one. Interference: how much the
others change, Σ_k |Δz_k| ‖d_k‖ / (z_j ‖d_j‖).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import pytree
from ..lazy import pd
from ..sae import SAE


@pytree.dataclass
class Ablations:
    """Running means over the samples from which each latent was removed."""

    n: Int[Array, " d_sae"]
    residual: Float[Array, " d_sae"]
    interference: Float[Array, " d_sae"]


def empty_ablations(d_sae: int) -> Ablations:
    """Returns ablations of no samples."""
    return Ablations(jnp.zeros(d_sae, jnp.int32), *(jnp.zeros(d_sae, jnp.float32) for _ in "ri"))


@partial(jax.jit, donate_argnums=0)
def add_ablations(
    seen: Ablations, sae: SAE, key: PRNGKeyArray, x: Float[Array, "batch d_in"]
) -> Ablations:
    """Returns ablations with one more batch; `seen` is donated.

    One latent that fires, chosen uniformly, is removed from each sample; samples in which none
    fires are left out.
    """
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
    """Returns one row a latent: `residual` and `interference`, means over `n` samples or NaN."""
    host = jax.device_get(seen)
    means = {"residual": host.residual, "interference": host.interference}
    means = {name: np.where(host.n > 0, mean, np.nan).astype(float) for name, mean in means.items()}
    return pd.DataFrame({"n": host.n, **means})
