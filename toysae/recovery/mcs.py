"""Max cosine similarity (MCS) between true features and learned latents.

``mcs[g] = max_j cos(directions[g], W_dec[j])`` and ``mmcs`` is its mean over features (Sharkey,
Braun and Millidge 2022). The cosine is *signed*: with antipodal features |cos| would count a
feature as found when only its opposite was, so the unsigned variant has ``abs`` in its name.
``*_latents`` is the other direction: for each latent, the best feature.

A zero row has cosine 0 with everything (a dead row found nothing). A NaN row makes every score that
reads it NaN, so that a diverged SAE has no score. Exclude features without a definite direction
before scoring. All functions can be jitted and vmapped.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from toysae.errors import require
from toysae.worlds.dictionaries import safe_unit_rows

EDGES = np.linspace(0.0, 1.0, 41)
"""Bin edges of histograms of MCS, one of them at .9; negative MCS count in the first bin."""


@jax.jit
def cosines(
    directions: Float[Array, "n_features d_in"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, "n_features d_sae"]:
    """Returns the signed cosine of every feature with every latent.

    Args:
        directions: true features ``[n_features, d_in]``, of any length.
        W_dec: learned dictionary ``[d_sae, d_in]``, of any row length.

    Returns:
        Cosines in [-1, 1], ``[n_features, d_sae]``; 0 for a zero row, NaN for a NaN row.
    """
    # Full precision: an accelerator's default (TF32, bfloat16) is off in the third decimal.
    features, latents = safe_unit_rows(directions), safe_unit_rows(W_dec)
    return jnp.matmul(features, latents.T, precision=lax.Precision.HIGHEST)


def _some_cosines(directions: Array, W_dec: Array) -> Array:
    """Returns the cosines, or refuses dictionaries without rows."""
    require(len(directions) > 0 and len(W_dec) > 0, "a dictionary without rows has no scores")
    return cosines(directions, W_dec)


def mcs(
    directions: Float[Array, "n_features d_in"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, " n_features"]:
    """Largest signed cosine of each feature over latents, ``[n_features]`` in [-1, 1]."""
    return jnp.max(_some_cosines(directions, W_dec), axis=1)


def mcs_latents(
    directions: Float[Array, "n_features d_in"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, " d_sae"]:
    """Largest signed cosine of each latent over features, ``[d_sae]`` in [-1, 1]."""
    return jnp.max(_some_cosines(directions, W_dec), axis=0)


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
    return jnp.mean(jnp.max(jnp.abs(_some_cosines(directions, W_dec)), axis=1))


def enc_dec_cosines(
    W_enc: Float[Array, "d_in d_sae"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, " d_sae"]:
    """Cosine of each latent's encoder direction with its decoder row, in [-1, 1].

    It is well below 1 where a latent reads something other than it writes, as under absorption; 0
    for a zero direction, NaN for a NaN one.
    """
    return jnp.sum(safe_unit_rows(W_enc.T) * safe_unit_rows(W_dec), axis=-1)


def histogram(scores: Float[Array, " n"]) -> Int[Array, " bins"]:
    """Counts MCS in the bins of :data:`EDGES`, 1 in the last bin and NaN in none."""
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
        Shares in [0, 1] over the last axis; NaN where any score is NaN.
    """
    share = jnp.mean(scores > threshold, axis=-1)
    return jnp.where(jnp.any(jnp.isnan(scores), axis=-1), jnp.nan, share)


def polarisation(
    scores: Float[Array, "*batch n_features"], floor: float | Float[Array, ""]
) -> Float[Array, "*batch"]:
    """Tells a mean over many half-found features (0) from one over found and missed features (1).

    It is the variance of MCS over features, as a share of the largest at its mean m between the
    floor and 1: Var / ((m - floor) (1 - m)).

    Args:
        scores: the result of :func:`mcs`, ``[..., n_features]``.
        floor: score of a feature that is not found, e.g. the random floor.

    Returns:
        One number for each mean, a little above 1 where missed features are below the floor; NaN
        unless floor < m < 1.
    """
    mean = jnp.mean(scores, axis=-1)
    most = (mean - floor) * (1 - mean)
    return jnp.where(most > 0, jnp.var(scores, axis=-1) / jnp.where(most > 0, most, 1), jnp.nan)
