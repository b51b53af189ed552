"""Scores of a dictionary and its encoder that need neither truth nor data.

Rows of length 0 have cosine 0. Matrices d_sae x d_sae are never held whole: rows go 512 at a time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float

from ..sae import SAE
from ..sae.encoders import Tied, TiedGain
from ..worlds.dictionaries import safe_unit_rows
from .mcs import cosines

_ROWS = 512


@jax.jit
def pairwise_cosines(
    W_dec: Float[Array, "d_sae d_in"], alive: Bool[Array, " d_sae"] | None = None
) -> dict[str, Array]:
    """Decoder coherence: the mean and the largest |cos| over all pairs of different rows.

    The mean is smallest at the true L0 in Sparse but Wrong (arXiv 2508.16560).

    Args:
        W_dec: decoder rows.
        alive: which count; all if not given.

    Returns:
        `mean_abs_cos`, `max_abs_cos`: scalars in [0, 1]; NaN where fewer than two count.
    """
    counts = jnp.ones(W_dec.shape[0], bool) if alive is None else alive
    rows, n = W_dec * counts[:, None], counts.sum()

    def of_row(index: Array) -> tuple[Array, Array]:
        size = jnp.abs(cosines(rows[index][None], rows)[0]).at[index].set(0)
        return size.sum(), size.max()

    total, nearest = jax.lax.map(of_row, jnp.arange(len(rows)), batch_size=_ROWS)
    pairs = jnp.where(n > 1, n * (n - 1.0), jnp.nan)
    return {"mean_abs_cos": total.sum() / pairs, "max_abs_cos": nearest.max() + 0 * pairs}


@jax.jit
def frame_error(
    W_dec: Float[Array, "d_sae d_in"], alive: Bool[Array, " d_sae"] | None = None
) -> Float[Array, ""]:
    """‖DᵀD - (n / d_in) I‖ / ‖(n / d_in) I‖ of the n unit rows D that count (Frobenius).

    It is 0 for a tight frame, such as orthonormal rows at n = d_in; at n < d_in it is at least
    sqrt(d_in / n - 1). NaN where none counts.

    Args:
        W_dec: decoder rows.
        alive: which count; all if not given.
    """
    counts = jnp.ones(W_dec.shape[0], bool) if alive is None else alive
    rows, d = safe_unit_rows(W_dec * counts[:, None]), W_dec.shape[1]
    even = counts.sum() / d * jnp.eye(d)
    return jnp.linalg.norm(rows.T @ rows - even) / jnp.linalg.norm(even)


def basis_alignment(W_dec: Float[Array, "d_sae d_in"]) -> Float[Array, " d_sae"]:
    """Largest |cos| of each latent with a standard basis vector (a "neuron")."""
    return jnp.max(jnp.abs(safe_unit_rows(W_dec)), axis=1)


def random_basis_alignment(d_in: int) -> float:
    """Expected :func:`basis_alignment` of a uniformly random direction.

    With g standard normal, max |g_i| / ‖g‖ and ‖g‖ are independent, so that it is
    E max |g_i| / E ‖g‖, whose numerator is taken by quadrature.
    """
    t = np.linspace(0, 12, 24_001)
    largest = np.trapezoid(1 - scipy.special.erf(t / 2**0.5) ** d_in, t)
    length = 2**0.5 * np.exp(
        scipy.special.gammaln((d_in + 1) / 2) - scipy.special.gammaln(d_in / 2)
    )
    return float(largest / length)


def encoder_rows(sae: SAE) -> Float[Array, "d_sae d_in"] | None:
    """Returns the encoder direction of each latent, as a row; None for encoders without one.

    A tied encoder's is its decoder row, times the gain if there is one. Deeper encoders with a
    linear layer (MLP, LISTA) have none: the latent reads more than that layer.
    """
    encoder, enc = sae.spec.encoder, sae.weights.enc
    if isinstance(encoder, Tied):
        return sae.W_dec
    if isinstance(encoder, TiedGain):
        return jnp.exp(enc["log_gain"])[:, None] * sae.W_dec
    return enc["W_enc"].T if "W_enc" in encoder.provides else None


def gains(sae: SAE) -> Float[np.ndarray, " d_sae"]:
    """Returns e·d, the share of what it writes that each latent reads; NaN without directions.

    It is 1 for a tied encoder with unit rows. A ReLU latent whose reconstruction z d is removed
    from the input still reads max(0, 1 - e·d) of z.
    """
    rows = encoder_rows(sae)
    if rows is None:
        return np.full(sae.W_dec.shape[0], np.nan)
    return np.asarray(jnp.sum(rows * sae.W_dec, axis=1), np.float64)
