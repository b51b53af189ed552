"""The threshold at which a score detects a feature best, from streamed histograms.

A score is any real number for each sample and feature; the feature is called on where the score
exceeds the threshold. Histograms are those of :mod:`.auroc`, whose bins are 3 to 6 % wide, which is
the accuracy of a threshold. Of several equally good ones, as in a gap between the scores of on- and
off-samples, the middle one is taken.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .auroc import N_BINS, ZERO_BIN, auroc, bin_of, edge_of

Counts = Int[Array, "2 n_features bins"]
"""Scores by bin: of the samples with the feature off, then of those with it on."""


def empty_counts(n_features: int) -> Counts:
    """Returns counts of no samples, ``8 * N_BINS * n_features`` bytes (134 MB for 16,384)."""
    return jnp.zeros((2, n_features, N_BINS), jnp.int32)


def add_scores(
    counts: Counts, scores: Float[Array, "batch n_features"], on: Bool[Array, "batch n_features"]
) -> Counts:
    """Returns counts with one more batch."""
    features = jnp.arange(counts.shape[1])[None]
    return counts.at[on.astype(jnp.int32), features, bin_of(scores)].add(1)


@jax.jit
def f1_by_bin(counts: Counts) -> Float[Array, "n_features bins"]:
    """F1 of calling a feature on from each bin upward; NaN for a feature that was never on."""
    off, on = jnp.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    n_on = on[:, :1]
    return jnp.where(n_on > 0, 2 * on / jnp.maximum(on + off + n_on, 1), jnp.nan)


def best_thresholds(counts: Counts) -> Float[np.ndarray, " n_features"]:
    """Returns each feature's threshold of the largest F1; +inf for a feature that was never on."""
    f1 = np.asarray(f1_by_bin(counts))
    known = ~np.isnan(f1[:, 0])
    return np.where(known, edge_of(_middle_of_best(np.nan_to_num(f1))), np.inf)


def shared_threshold(counts: Counts) -> float:
    """Returns the threshold >= 0 of the largest mean F1 over features that were ever on."""
    f1 = np.asarray(f1_by_bin(counts))[:, ZERO_BIN + 1 :]
    mean = f1[~np.isnan(f1[:, 0])].mean(0, dtype=np.float64)[None]
    return float(edge_of(_middle_of_best(mean) + ZERO_BIN + 1)[0])


def _middle_of_best(f1: Float[np.ndarray, "n bins"]) -> Int[np.ndarray, " n"]:
    """Returns the middle of each row's first run of bins with the largest value."""
    first = f1.argmax(1)
    lower = (f1 < f1.max(1, keepdims=True)) & (np.arange(f1.shape[1]) > first[:, None])
    after = np.where(lower.any(1), lower.argmax(1), f1.shape[1])
    return (first + after - 1) // 2


@jax.jit
def aurocs_of(counts: Counts) -> Float[Array, " n_features"]:
    """Returns each feature's AUROC, up to the error in :mod:`.auroc`; 256 features at a time."""
    return jax.lax.map(lambda c: auroc(c[1], c[0])[0], counts.swapaxes(0, 1), batch_size=256)
