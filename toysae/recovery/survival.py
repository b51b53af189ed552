"""Time until a feature is recovered, where some never are: survival curves with censoring."""

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from toysae.errors import require
from toysae.recovery.steps import checked_curves


def steps_by_feature(
    curve_steps: ArrayLike, recovered: ArrayLike, n_features: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns the step at which the k-th of an SAE's features was recovered, for every k.

    It is the first logged step at which k features were recovered at once, since counts do not tell
    which features they are. Where no feature is lost again these are the steps of the features.

    Args:
        curve_steps: steps at which counts were logged, increasing, ``[T]``.
        recovered: number of features recovered at each, one SAE per row, ``[rows, T]``.
        n_features: of the world.

    Returns:
        ``(steps, censored)``, each ``[rows, n_features]``; a feature that was never recovered is
        censored at the last step.

    Raises:
        ToysaeError: shapes disagree.
    """
    at, counts = checked_curves(curve_steps, "recovered", recovered)
    require(n_features >= 1, f"n_features {n_features} must be at least 1")
    most = np.maximum.accumulate(counts, axis=1)
    first = np.stack([(most < k).sum(axis=1) for k in range(1, n_features + 1)], axis=1)
    censored = first == at.size
    return at[np.minimum(first, at.size - 1)], np.asarray(censored)


def survival(steps: ArrayLike, censored: ArrayLike, at: ArrayLike) -> NDArray[np.float64]:
    """Share not yet recovered after each step (Kaplan and Meier 1958).

    Args:
        steps: of recovery, or else the last step seen, any shape.
        censored: whether each of `steps` is only the last step seen, the same shape.
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
    curve = scipy.stats.ecdf(scipy.stats.CensoredData.right_censored(events, unseen)).sf
    return np.asarray(curve.evaluate(np.asarray(at, np.float64)), np.float64)
