"""One-to-one matching of features and latents, on the host.

MCS lets one latent stand for many features; matching does not. Near-duplicate features can have
``mcs > .9`` with a single latent between them, so report the distinct matches too.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toysae.errors import require


def _checked(cos: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(cos, dtype=np.float64)
    is_matrix = values.ndim == 2 and values.size > 0
    require(is_matrix, f"cos has shape {values.shape}: give a non-empty matrix [n_features, d_sae]")
    return values


def partners(cos: ArrayLike, absolute: bool = False) -> NDArray[np.int64]:
    """Returns the latent of each feature under the best one-to-one (Hungarian) matching.

    Args:
        cos: signed cosines ``[n_features, d_sae]``, from :func:`toysae.recovery.cosines`.
        absolute: whether to match by |cos|.

    Returns:
        ``[n_features]``, -1 for features without a latent where d_sae < n_features.

    Raises:
        ToysaeError: `cos` is not a non-empty matrix, or has a NaN.
    """
    values = _checked(cos)
    require(not np.isnan(values).any(), "cos has NaN: a diverged SAE matches nothing")
    from scipy.optimize import linear_sum_assignment  # .15 s

    rows, columns = linear_sum_assignment(np.abs(values) if absolute else values, maximize=True)
    latents = np.full(len(values), -1)
    latents[rows] = columns
    return latents


def mcc(cos: ArrayLike, absolute: bool = False) -> float:
    """Mean cosine under the best one-to-one (Hungarian) matching.

    The mean is over the ``min(n_features, d_sae)`` matched pairs: at ``d_sae < n_features`` it does
    not show the features without a latent, so report both sizes with it.

    Args:
        cos: signed cosines ``[n_features, d_sae]``, from :func:`toysae.recovery.cosines`.
        absolute: whether to match and average |cos|, as SAELens does.

    Returns:
        The mean, in [-1, 1]; NaN if any cosine is NaN.

    Raises:
        ToysaeError: `cos` is not a non-empty matrix.
    """
    values = _checked(cos)
    if np.isnan(values).any():
        return float("nan")
    partner = partners(values, absolute)
    matched = values[partner >= 0, partner[partner >= 0]]
    return float((np.abs(matched) if absolute else matched).mean())


def distinct_matches(cos: ArrayLike, threshold: float) -> int:
    """Number of features that can each have their own latent above a threshold.

    It is the size of the largest one-to-one matching of pairs whose signed cosines are all strictly
    above `threshold`. Unlike in the count of ``mcs > threshold``, features never share a latent.

    Args:
        cos: signed cosines ``[n_features, d_sae]``; pass ``abs(cos)`` to ignore sign. A NaN
            matches nothing.
        threshold: cosine, e.g. .9.

    Returns:
        A count from 0 to ``min(n_features, d_sae)``.

    Raises:
        ToysaeError: `cos` is not a non-empty matrix.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    matched = maximum_bipartite_matching(csr_array(_checked(cos) > threshold), perm_type="column")
    return int(np.sum(matched >= 0))
