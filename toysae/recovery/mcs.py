"""Max cosine similarity (MCS) between true features and learned latents.

``mcs[g] = max_j cos(directions[g], W_dec[j])`` and ``mmcs`` is its mean over features
(Sharkey, Braun and Millidge 2022). The cosine is *signed*: with antipodal features |cos| calls
a feature found when only its opposite was, so the unsigned variant bears ``abs`` in its name.
``*_latents`` is the other direction: per latent, the best feature.

A zero row has cosine 0 with everything (a dead row found nothing). A NaN row makes every score
that reads it NaN, so that a diverged SAE never passes for a measured one. Exclude features
without a definite direction before scoring. All functions can be jitted and vmapped.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from toysae.errors import require

EDGES = np.linspace(0.0, 1.0, 41)
"""Of histograms of MCS: a bin edge lies on .9; negative MCS count in the first bin."""


def unit_rows(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    # Dividing by the largest entry first keeps very small and very large rows from under- or
    # overflowing when squared. `== 0` is False for NaN, which therefore stays NaN.
    scale = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    rows = rows / jnp.where(scale == 0, 1, scale)
    squared = jnp.sum(rows**2, axis=-1, keepdims=True)
    return rows / jnp.sqrt(jnp.where(squared == 0, 1, squared))


@jax.jit
def cosines(
    directions: Float[Array, "n_features d_in"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, "n_features d_sae"]:
    """Signed cosine of every feature with every latent.

    Args:
        directions: true features ``[n_features, d_in]``, of any length.
        W_dec: learned dictionary ``[d_sae, d_in]``, of any row length.

    Returns:
        Cosines in [-1, 1], ``[n_features, d_sae]``; 0 for a zero row, NaN for a NaN row.
    """
    # Full precision: an accelerator's default (TF32, bfloat16) is off in the third decimal.
    return jnp.matmul(unit_rows(directions), unit_rows(W_dec).T, precision=lax.Precision.HIGHEST)


def _some(directions: Array, W_dec: Array) -> Array:
    """The cosines, of which there must be one for a largest one."""
    require(len(directions) > 0 and len(W_dec) > 0, "a dictionary without rows has no scores")
    return cosines(directions, W_dec)


def mcs(
    directions: Float[Array, "n_features d_in"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, " n_features"]:
    """Per feature, the largest signed cosine over latents, ``[n_features]`` in [-1, 1]."""
    return jnp.max(_some(directions, W_dec), axis=1)


def mcs_latents(
    directions: Float[Array, "n_features d_in"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, " d_sae"]:
    """Per latent, the largest signed cosine over features, ``[d_sae]`` in [-1, 1]."""
    return jnp.max(_some(directions, W_dec), axis=0)


def mmcs(
    directions: Float[Array, "n_features d_in"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, ""]:
    """Mean over features of :func:`mcs`, in [-1, 1] (Sharkey et al. 2022)."""
    return jnp.mean(mcs(directions, W_dec))


def mmcs_latents(
    directions: Float[Array, "n_features d_in"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, ""]:
    """Mean over latents of :func:`mcs_latents`, in [-1, 1]; zero rows count as 0."""
    return jnp.mean(mcs_latents(directions, W_dec))


def mmcs_abs(
    directions: Float[Array, "n_features d_in"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, ""]:
    """Mean over features of the largest |cosine|, in [0, 1]; blind to sign, see the module."""
    return jnp.mean(jnp.max(jnp.abs(_some(directions, W_dec)), axis=1))


def enc_dec_cosines(
    W_enc: Float[Array, "d_in d_sae"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, " d_sae"]:
    """Per latent, the cosine of its encoder direction with its decoder row, in [-1, 1].

    Well below 1 where a latent reads something other than it writes, as under absorption. 0 for a
    zero direction, NaN for a NaN one.
    """
    return jnp.sum(unit_rows(W_enc.T) * unit_rows(W_dec), axis=-1)


def histogram(scores: Float[Array, " n"]) -> Int[Array, " bins"]:
    """How many of these MCS lie in each bin of :data:`EDGES`, 1 in the last; NaN in none."""
    counts, _ = jnp.histogram(jnp.clip(scores, 0, 1), EDGES)
    return counts.astype(jnp.int32)


def fraction_above(
    scores: Float[Array, "*batch n"], threshold: float | Float[Array, ""]
) -> Float[Array, "*batch"]:
    """Share of scores strictly above a threshold.

    Args:
        scores: e.g. the result of :func:`mcs`, ``[..., n]``.
        threshold: cosine, usually .8, .9 or .95.

    Returns:
        Shares in [0, 1], one per leading axis; NaN where any score is NaN.
    """
    share = jnp.mean(scores > threshold, axis=-1)
    return jnp.where(jnp.any(jnp.isnan(scores), axis=-1), jnp.nan, share)


def polarisation(
    scores: Float[Array, "*batch n_features"], floor: float | Float[Array, ""]
) -> Float[Array, "*batch"]:
    """Is a middling mean of many half-found features, or of found ones and missed ones?

    The variance of MCS over features, as a share of the largest it can have at its mean m between
    the floor and 1: Var / ((m - floor) (1 - m)). 0 where all features are found equally, partly;
    1 where each is found fully or not at all.

    Args:
        scores: the result of :func:`mcs`, ``[..., n_features]``.
        floor: what a feature that is not found scores, e.g. the random floor.

    Returns:
        One number per leading axis, a little above 1 where missed features lie below the floor;
        NaN unless floor < m < 1.
    """
    mean = jnp.mean(scores, axis=-1)
    most = (mean - floor) * (1 - mean)
    return jnp.where(most > 0, jnp.var(scores, axis=-1) / jnp.where(most > 0, most, 1), jnp.nan)
