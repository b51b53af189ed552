"""Compares arms: differences on the same worlds, what they can resolve, and sources of spread.

Worlds differ more than arms do, so two arms are compared on the *same* world seeds, and n counts
worlds, see :mod:`.intervals`.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import cast

import numpy as np
import scipy

from toysae.door import OrNaN
from toysae.errors import require, unknown
from toysae.recovery.intervals import alive_values, checked_settings, student_t, summary_by

from ..lazy import pd

_SETTINGS = (
    "sparsity", "l1_coeff", "k", "l0_coeff", "l0_target", "setting", "world", "ratio", "d_in",
    "n_features", "d_sae", "n_steps", "batch_size", "lr", "recipe", "init",
)  # fmt: skip
"""Settings that may not vary among the rows that are averaged."""


def paired(
    table: pd.DataFrame,
    by: Sequence[str],
    arm: str,
    a: Hashable,
    b: Hashable,
    value: str,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Student-t intervals over world seeds of one arm minus another on the same world seed.

    Members of a world are averaged first. Worlds are left out in which an arm is missing or has
    only diverged rows and NaN.

    Args:
        table: one row per member, with `world_seed`, `value`, the columns of `by` and `arm`, and
            optionally `diverged`.
        by: columns of settings, e.g. ``["ratio"]``; may be empty.
        arm: the column of the arms, e.g. ``"recipe"``.
        a: the arm to subtract from.
        b: the arm that is subtracted.
        value: the numeric column to compare.
        confidence: two-sided coverage, strictly between 0 and 1.

    Returns:
        One row for each combination of values of `by`, sorted: the columns of `by`, then `mean` and
        `half_width` of a - b, `n` (worlds), `p_value` of no difference (two-sided paired t-test),
        and `resolvable`, the smallest true difference that as many worlds of this spread detect in
        four of five studies (:func:`resolvable`, at this confidence). NaN where n is too small.

    Raises:
        ToysaeError: a column is missing; `arm` lacks `a` or `b`; `a` is `b`; a setting that is not
            in `by` (a coefficient, a size, ...) varies within an arm of a world; or `by` names the
            arm, a seed, `value` or an output column.
    """
    outputs = ["mean", "half_width", "n", "p_value", "resolvable"]
    by = checked_settings(table, by, [arm, value], outputs)
    for name in (a, b):
        if name not in set(table[arm]):
            raise unknown(arm, str(name), map(str, table[arm].unique()))
    require(a != b, f"{arm} {a!r} is compared with itself: give another")
    chosen = table.loc[table[arm].isin([a, b])]
    for name in _SETTINGS:
        if name in table and name not in (*by, arm, value):
            cells = chosen.groupby([*by, arm, "world_seed"], dropna=False)[name]
            require(
                cells.nunique(dropna=False).max() == 1,
                f"{name} varies within an arm of a world, so that its values would be averaged: "
                f"choose among them first (best_coefficient), or add {name!r} to by",
            )
    frame = table.assign(**{value: alive_values(table, value)}).loc[table[arm].isin([a, b])]
    each = frame.groupby([*by, "world_seed", arm], dropna=False)[value].mean().unstack(arm)
    difference = (each[a] - each[b]).rename("difference").reset_index()
    compared = summary_by(difference, by, outputs, lambda rows: _compared(rows, confidence))
    if len(compared) and (compared["n"] < 2).all():
        warnings.warn(
            "both arms are there on one world seed at most, so that there is no interval: train on "
            "several worlds (train with another world and data_seed each, or an Experiment)",
            stacklevel=2,
        )
    return compared


def _compared(rows: pd.DataFrame, confidence: float) -> tuple[float, float, int, float, float]:
    """The outputs of :func:`paired` for one `difference` a world."""
    differences = rows["difference"].dropna().to_numpy(float)
    interval = student_t(differences, confidence)
    n = interval.n
    sd = float(differences.std(ddof=1)) if n > 1 else np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(interval.mean) / np.divide(sd, np.sqrt(n))
    p_value = float(2 * scipy.special.stdtr(n - 1, -t)) if n > 1 else np.nan
    least = resolvable(sd, n, confidence=confidence)
    return interval.mean, interval.half_width, n, p_value, least


def resolvable(sd: OrNaN, n: int, power: float = 0.8, confidence: float = 0.95) -> float:
    """The smallest true mean difference that n paired seeds detect.

    Under a true difference δ the paired t statistic is noncentral t with n - 1 degrees of freedom
    and noncentrality δ √n / sd; this is the δ at which \\|t\\| exceeds its critical value with
    probability `power`. The normal approximation would be off by a factor of 2 at n = 3.

    Args:
        sd: of the paired differences over worlds, known or from a pilot (ddof 1).
        n: number of worlds.
        power: probability of detection, strictly between `1 - confidence` and 1.
        confidence: of the two-sided test.

    Returns:
        A difference, in the units of `sd`; NaN below two worlds or without an sd.

    Raises:
        ToysaeError: a probability out of range, or a negative sd.
    """
    require(0 < confidence < 1, f"confidence = {confidence!r}: write a share such as 0.95")
    within = 1 - confidence < power < 1
    require(within, f"power = {power!r}: write a share above {1 - confidence:g}, e.g. 0.8")
    require(not sd < 0, f"sd = {sd!r} must be at least 0")
    if n < 2 or np.isnan(sd):
        return float("nan")
    return float(sd * _noncentrality(int(n), power, confidence) / np.sqrt(n))


@lru_cache(maxsize=1024)
def _noncentrality(n: int, power: float, confidence: float) -> float:
    critical = scipy.special.stdtrit(n - 1, (1 + confidence) / 2)

    def excess(shift: float) -> float:
        above = scipy.stats.nct.sf(critical, n - 1, shift)
        below = scipy.stats.nct.sf(critical, n - 1, -shift)  # P(t < -critical), by symmetry
        return float(above + below - power)

    # At the upper bound below, Z and the sample's sd miss together at most 1 - power of the time.
    missed = (1 - power) / 2
    largest_sd = np.sqrt(scipy.stats.chi2.isf(missed, n - 1) / (n - 1))
    return cast(
        float,
        scipy.optimize.brentq(excess, 0.0, critical * largest_sd + scipy.stats.norm.isf(missed)),
    )


def seed_spread(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Splits a score's spread into that of worlds and that of SAE seeds on one world.

    One-way random-effects analysis of variance of an unbalanced design: with MSB and MSW the mean
    squares between and within worlds, the variance between worlds is (MSB - MSW) / n0, where
    n0 = (N - Σ n_i² / N) / (worlds - 1) (Searle, Casella and McCulloch 1992, Variance Components,
    chapter 3).

    Args:
        table: one row per member, with `world_seed`, `value`, the columns of `by` and optionally
            `diverged`. Diverged rows and NaN are left out. Rows of one world with the same values
            of `by` must differ in their SAE seed alone.
        by: columns of settings; may be empty.
        value: the numeric column.

    Returns:
        One row for each combination of values of `by`, sorted: the columns of `by`, then
        `sd_worlds` and `sd_saes` (units of `value`), `clipped` (True: the estimate between worlds
        was negative, so that sd_worlds is 0), `n_worlds` and `n_saes` (in total). sd_saes is NaN
        where no world has two SAEs; sd_worlds is NaN there, and with fewer than two worlds.

    Raises:
        ToysaeError: a column is missing, or `by` names a seed, `value` or an output column.
    """
    outputs = ["sd_worlds", "sd_saes", "clipped", "n_worlds", "n_saes"]
    by = checked_settings(table, by, [value], outputs)
    alive = table.assign(**{value: alive_values(table, value)})

    def spread(rows: pd.DataFrame) -> tuple[float, float, bool, int, int]:
        by_world = rows[rows[value].notna()].groupby("world_seed")[value]
        return _variance_components([scores.to_numpy(float) for _, scores in by_world])

    return summary_by(alive, by, outputs, spread)


def _variance_components(worlds: list[np.ndarray]) -> tuple[float, float, bool, int, int]:
    sizes = np.array([len(world) for world in worlds])
    n_worlds, n_saes = len(worlds), int(sizes.sum())
    if n_saes <= n_worlds:
        return np.nan, np.nan, False, n_worlds, n_saes
    means = np.array([world.mean() for world in worlds])
    squares = sum(((world - world.mean()) ** 2).sum() for world in worlds)
    within = float(squares / (n_saes - n_worlds))
    if n_worlds < 2:
        return np.nan, np.sqrt(within), False, n_worlds, n_saes
    grand = sizes @ means / n_saes
    between = sizes @ (means - grand) ** 2 / (n_worlds - 1)
    per_world = (n_saes - (sizes**2).sum() / n_saes) / (n_worlds - 1)
    variance = float((between - within) / per_world)
    return np.sqrt(max(variance, 0.0)), np.sqrt(within), variance < 0, n_worlds, n_saes
