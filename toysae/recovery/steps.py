"""Number of steps until a score reaches a threshold, with censoring."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toysae.errors import require


def checked_curves(
    curve_steps: ArrayLike, name: str, curves: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns steps `[T]` and curves `[rows, T]` in float64, or refuses other shapes."""
    at, values = np.asarray(curve_steps, np.float64), np.asarray(curves, np.float64)
    fits = at.ndim == 1 and values.ndim == 2 and values.shape[1] == at.size > 0
    require(fits, f"{name} has shape {values.shape} and curve_steps {at.shape}: give [rows, T] and "
            "[T]")  # fmt: skip
    return at, values


def steps_to(
    curve_steps: ArrayLike, curve: ArrayLike, threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns the first step at which each curve reaches a threshold.

    The crossing is interpolated linearly, in steps, between the logged point that first reaches
    the threshold and the one before it.

    Args:
        curve_steps: steps at which the score was logged, strictly increasing, ``[T]``.
        curve: one score curve per row, higher is better, ``[rows, T]``.
        threshold: in the units of `curve`.

    Returns:
        ``(steps, censored)``, each ``[rows]``. A curve that never reaches the threshold, or
        turns NaN before it does, is censored: `censored` is True and `steps` is the last
        logged step, a lower bound. Do not average it with steps that were reached.

    Raises:
        ToysaeError: shapes disagree, nothing was logged, or steps do not increase.
    """
    at, scores = checked_curves(curve_steps, "curve", curve)
    require(bool(np.all(np.diff(at) > 0)), "curve_steps must increase strictly")

    reached = scores >= threshold
    lost = np.maximum.accumulate(np.isnan(scores), axis=1)
    reached &= ~lost
    censored = ~reached.any(axis=1)
    last = reached.argmax(axis=1)
    before = np.maximum(last - 1, 0)
    rows = np.arange(scores.shape[0])
    low, high = scores[rows, before], scores[rows, last]
    # Without two finite points there is no slope: the crossing is then the logged point itself.
    sloped = (last > 0) & ~censored & np.isfinite(low) & np.isfinite(high)
    share = np.ones(scores.shape[0])
    share[sloped] = (threshold - low[sloped]) / (high[sloped] - low[sloped])
    steps = at[before] + share * (at[last] - at[before])
    return np.where(censored, at[-1], steps), np.asarray(censored)
