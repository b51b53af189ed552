"""The receiver operating characteristic of labelled scores; for latents, streamed, see
:mod:`.auroc`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..errors import require
from ..lazy import pd


def roc(scores: ArrayLike, labels: ArrayLike) -> tuple[pd.DataFrame, float]:
    """Returns the curve over all thresholds, and the area under it.

    Args:
        scores: `[n]`, larger meaning more likely positive; NaN is left out.
        labels: `[n]`, true for positives.

    Returns:
        A table of `threshold`, `false_positives`, `true_positives` (rates in [0, 1]) from (0, 0) to
        (1, 1), where scores from the threshold up are called positive; and the AUROC, ties counting
        half, NaN without positives or without negatives.

    Raises:
        ToysaeError: lengths that differ.
    """
    values, positive = np.asarray(scores, float).ravel(), np.asarray(labels, bool).ravel()
    require(len(values) == len(positive), f"{len(values)} scores and {len(positive)} labels: give "
            "one label a score")  # fmt: skip
    known = ~np.isnan(values)
    values, positive = values[known], positive[known]
    order = np.argsort(-values, kind="stable")
    values, positive = values[order], positive[order]
    last = np.flatnonzero(np.diff(values, append=-np.inf)) if len(values) else np.array([], int)
    n_positive, n_negative = positive.sum(), (~positive).sum()
    with np.errstate(invalid="ignore"):
        hit = np.append(0, np.cumsum(positive)[last]) / n_positive
        wrong = np.append(0, np.cumsum(~positive)[last]) / n_negative
    thresholds = np.append(np.inf, values[last])
    curve = pd.DataFrame({"threshold": thresholds, "false_positives": wrong, "true_positives": hit})
    both = n_positive > 0 and n_negative > 0
    return curve, float(np.trapezoid(hit, wrong)) if both else np.nan
