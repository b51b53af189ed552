"""One-to-one matching of features and latents, on the host.

MCS lets one latent stand for many features; matching does not. Near-duplicate features pass
``mcs > .9`` with a single latent between them, so show the distinct matches beside it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toysae.errors import require


def _checked(cos: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(cos, dtype=np.float64)
    require(
        values.ndim == 2 and values.size > 0,
        f"cos has shape {values.shape}: give a non-empty matrix [n_features, d_sae]",
    )
    return values


def partners(cos: ArrayLike, absolute: bool = False) -> NDArray[np.int64]:
    """The latent of each feature under the best one-to-one (Hungarian) matching.

    Args:
        cos: signed cosines ``[n_features, d_sae]``, from :func:`toysae.recovery.cosines`.
        absolute: match |cos|.

    Returns:
        ``[n_features]``, -1 for the features that are left over where d_sae < n_features.

    Raises:
        ToysaeError: `cos` is not a non-empty matrix, or has a NaN.
    """
    values = _checked(cos)
    require(not np.isnan(values).any(), "cos has NaN: a diverged SAE matches nothing")
    from scipy.optimize import linear_sum_assignment  # .15 s

    rows, columns = linear_sum_assignment(np.abs(values) if absolute else values, maximize=True)
    found = np.full(len(values), -1)
    found[rows] = columns
    return found


def mcc(cos: ArrayLike, absolute: bool = False) -> float:
    """Mean cosine under the best one-to-one (Hungarian) matching.

    The mean is over the ``min(n_features, d_sae)`` matched pairs, whatever is left unmatched:
    at ``d_sae < n_features`` it says nothing of the features without a latent, so report both
    sizes with it.

    Args:
        cos: signed cosines ``[n_features, d_sae]``, from :func:`toysae.recovery.cosines`.
        absolute: match and average |cos|, as SAELens reports; blind to sign.

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
    """How many features can have a latent of their own above a threshold.

    The size of the largest one-to-one matching whose every pair has a signed cosine strictly
    above `threshold`. Unlike the count of ``mcs > threshold``, two features never share a latent.

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
