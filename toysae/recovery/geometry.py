"""Scores of a dictionary and its encoder that need neither truth nor data.

Rows of length 0 (dead from the start) count with cosine 0; leave dead latents out beforehand where
they should not count. Squares of d_sae x d_sae are never held whole: rows go 512 at a time.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..sae import SAE
from ..sae.encoders import Tied, TiedGain
from .mcs import cosines, unit_rows

_ROWS = 512


@jax.jit
def pairwise_cosines(W_dec: Float[Array, "d_sae d_in"]) -> dict[str, Array]:
    """Decoder coherence: over all pairs of different rows, the mean and the largest |cos|.

    The mean is smallest at the true L0 in Sparse but Wrong (arXiv 2508.16560).

    Returns:
        `mean_abs_cos`, `max_abs_cos`: scalars in [0, 1], NaN for a single row;
        `nearest_abs_cos` ``[d_sae]``: of each row, the largest with another.
    """
    n = W_dec.shape[0]

    def of_row(index: Array) -> tuple[Array, Array]:
        size = jnp.abs(cosines(W_dec[index][None], W_dec)[0]).at[index].set(0)
        return size.sum(), size.max()

    total, nearest = jax.lax.map(of_row, jnp.arange(n), batch_size=_ROWS)
    alone = jnp.where(n > 1, 1.0, jnp.nan)
    return {
        "mean_abs_cos": alone * total.mean() / max(n - 1, 1),
        "max_abs_cos": alone * nearest.max(),
        "nearest_abs_cos": alone * nearest,
    }


@jax.jit
def frame_error(W_dec: Float[Array, "d_sae d_in"]) -> Float[Array, ""]:
    """‖DᵀD - (d_sae / d_in) I‖ / ‖(d_sae / d_in) I‖ of the unit rows D (Frobenius).

    0 for a tight frame, which orthonormal rows are at d_sae = d_in; at d_sae < d_in it is at least
    sqrt(d_in / d_sae - 1).
    """
    n, d = W_dec.shape
    rows = unit_rows(W_dec)
    even = n / d * jnp.eye(d)
    return jnp.linalg.norm(rows.T @ rows - even) / jnp.linalg.norm(even)


def basis_alignment(W_dec: Float[Array, "d_sae d_in"]) -> Float[Array, " d_sae"]:
    """Of each latent, the largest |cos| with a standard basis vector (a "neuron")."""
    return jnp.max(jnp.abs(unit_rows(W_dec)), axis=1)


def encoder_rows(sae: SAE) -> Float[Array, "d_sae d_in"] | None:
    """What each latent reads: its encoder direction, as a row. None for encoders without one.

    A tied encoder's is its decoder row, times the gain where there is one. Deeper encoders with a
    linear part (MLP, LISTA) have none: the latent reads more than that part.
    """
    encoder, enc = sae.spec.encoder, sae.weights.enc
    if isinstance(encoder, Tied):
        return sae.W_dec
    if isinstance(encoder, TiedGain):
        return jnp.exp(enc["log_gain"])[:, None] * sae.W_dec
    return enc["W_enc"].T if "W_enc" in encoder.provides else None


def gains(sae: SAE) -> Float[np.ndarray, " d_sae"]:
    """Of each latent e·d, what it reads of what it writes; NaN for encoders without directions.

    1 for a tied encoder with unit rows. A ReLU latent whose reconstruction z d is taken out of the
    input still reads max(0, 1 - e·d) of z.
    """
    rows = encoder_rows(sae)
    if rows is None:
        return np.full(sae.W_dec.shape[0], np.nan)
    return np.asarray(jnp.sum(rows * sae.W_dec, axis=1), np.float64)
