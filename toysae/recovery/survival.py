"""How long until a feature is recovered, when some never are: survival curves with censoring."""

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from toysae.errors import require


def steps_by_feature(
    curve_steps: ArrayLike, recovered: ArrayLike, n_features: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """When the k-th of an SAE's features was recovered, for every k.

    From counts, which do not say which feature it was: the k-th event is the first logged step at
    which k features were recovered at once. Where no feature is lost again these are the times of
    the features themselves.

    Args:
        curve_steps: steps at which counts were logged, increasing, ``[T]``.
        recovered: features recovered at each, one SAE per row, ``[rows, T]``.
        n_features: of the world.

    Returns:
        ``(steps, censored)``, each ``[rows, n_features]``; a feature that was never recovered is
        censored at the last step.

    Raises:
        ToysaeError: shapes disagree.
    """
    at, counts = np.asarray(curve_steps, np.float64), np.asarray(recovered)
    require(
        at.ndim == 1 and counts.ndim == 2 and counts.shape[1] == at.size > 0,
        f"recovered has shape {counts.shape} and curve_steps {at.shape}: give [rows, T] and [T]",
    )
    require(n_features >= 1, f"n_features {n_features} must be at least 1")
    most = np.maximum.accumulate(counts, axis=1)
    first = np.stack([(most < k).sum(axis=1) for k in range(1, n_features + 1)], axis=1)
    censored = first == at.size
    return at[np.minimum(first, at.size - 1)], np.asarray(censored)


def survival(steps: ArrayLike, censored: ArrayLike, at: ArrayLike) -> NDArray[np.float64]:
    """Share not yet recovered after each step (Kaplan and Meier 1958).

    Args:
        steps: of recovery, or the last step seen, any shape.
        censored: which of `steps` are the latter, the same shape.
        at: steps to evaluate at, ``[T]``.

    Returns:
        Shares in [0, 1], ``[T]``.

    Raises:
        ToysaeError: no steps, steps that are not finite, or shapes that differ.
    """
    events, unseen = np.ravel(np.asarray(steps)), np.ravel(np.asarray(censored, bool))
    require(
        events.size == unseen.size > 0 and bool(np.isfinite(events).all()),
        f"steps of shape {np.shape(steps)} and censored {np.shape(censored)}: give as many of "
        "each, and finite steps",
    )
    found = scipy.stats.ecdf(scipy.stats.CensoredData.right_censored(events, unseen)).sf
    return np.asarray(found.evaluate(np.asarray(at, np.float64)), np.float64)
