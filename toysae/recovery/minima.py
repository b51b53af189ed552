"""Tells whether the objective or the optimiser is to blame for missed features.

An SAE that missed true features is compared with SAEs of the same recipe, numbers and world that
start at the truth and train (`init` "truth"), or whose decoder stays there while the rest trains
("at-truth"). If its loss is higher, the truth was better and was not found: a bad minimum. If not,
the objective prefers something else, such as absorption, and no optimiser will help.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toysae.aliases import OLD_COLUMNS, today
from toysae.errors import require
from toysae.lazy import pd
from toysae.recovery.intervals import (
    alive_values,
    checked_settings,
    clopper_pearson,
    diverged,
    grouped,
    require_columns,
)

TRUTH, AT_TRUTH = "truth", "at-truth"
RECOVERED, OPTIMISER, OBJECTIVE = VERDICTS = "recovered", "optimiser", "objective"
_CELL = ["world", "d_in", "n_features", "ratio", "d_sae", "recipe", "world_seed"]
_SETTING = "setting"  # also names a cell, in tables of sweeps over further settings


def verdicts(
    table: pd.DataFrame,
    margin: float = 0.01,
    recovered: float = 0.9,
    score: str = "mcs_above_0.9",
    coefficient: str = "sparsity",
) -> pd.DataFrame:
    """Compares each trained SAE with the truth of its own recipe, coefficient and world.

    The truth's loss is the least among the truth arms that ended at the truth (`score` of at
    least `recovered`), or among all truth arms where none did.

    Args:
        table: of a sweep, with `init`, `eval_loss`, `score`, `coefficient` and the columns of a
            cell.
        margin: least excess over the truth's loss, relative to it, that counts as higher.
        recovered: least score that counts as recovery.
        score: the column of the score, higher is better. Not `mmcs`: it is still .93 where one
            feature of four is absorbed.
        coefficient: the column of the sparsity coefficient.

    Returns:
        The rows that are not truth arms, with their index and columns, and `truth_loss`;
        `loss_gap`, (eval_loss - truth_loss) / \\|truth_loss\\|; `verdict`, "recovered", "optimiser"
        (not recovered, the loss higher) or "objective" (not recovered, the loss not higher), None
        where the SAE diverged or has no truth arm; and `left_truth`, the share of truth-initialised
        SAEs that ended below `recovered` (NaN without any): training leaves the truth there, so
        that it is not a minimum to be found.

    Raises:
        ToysaeError: a column is missing, there is no truth arm at all, or `margin` is negative.
    """
    coefficient = today(coefficient, OLD_COLUMNS, table.columns)
    cell = [*_CELL, *([_SETTING] if _SETTING in table else []), coefficient]
    require_columns(table, [*cell, "init", "eval_loss", score])
    require(margin >= 0, f"margin = {margin!r}: write 0 or more, e.g. 0.01")
    for name in ("eval_loss", score):
        alive_values(table, name)  # refuses values that are not numbers
    is_truth = table["init"].isin([TRUTH, AT_TRUTH])
    require(is_truth.any(), f"no row has init {TRUTH!r} or {AT_TRUTH!r}: run with ceiling or "
            "at_truth")  # fmt: skip
    truth = table[is_truth & ~diverged(table) & table["eval_loss"].notna()]
    stayed = truth[score] >= recovered
    best = pd.DataFrame(
        {
            "all": truth.groupby(cell)["eval_loss"].min(),
            "stayed": truth[stayed].groupby(cell)["eval_loss"].min(),
            "left_truth": (~stayed[truth["init"] == TRUTH])
            .groupby([truth[c] for c in cell])
            .mean(),
        }
    )
    trained: Any = table[~is_truth]
    truth = best.reindex(pd.MultiIndex.from_frame(trained[cell])).set_index(trained.index)
    truth_loss = truth["stayed"].fillna(truth["all"])
    gap = (trained["eval_loss"] - truth_loss) / truth_loss.abs()
    verdict = np.where(
        trained[score] >= recovered, RECOVERED, np.where(gap > margin, OPTIMISER, OBJECTIVE)
    )
    known = ~diverged(trained) & gap.notna() & trained[score].notna()
    return trained.assign(
        truth_loss=truth_loss,
        loss_gap=gap,
        verdict=pd.Series(verdict, trained.index, dtype=object).where(known, None),
        left_truth=truth["left_truth"],
    )


def bad_minima(table: pd.DataFrame, by: Sequence[str], confidence: float = 0.95) -> pd.DataFrame:
    """Share of each verdict over world seeds.

    The members of a world are averaged first, so that a world may count in part for several
    verdicts; the Clopper-Pearson interval is that of the sum of these shares.

    Args:
        table: from :func:`verdicts`.
        by: columns of settings; may be empty.
        confidence: two-sided coverage.

    Returns:
        Three rows for each combination of values of `by`, sorted: the columns of `by`, then
        `verdict`, `share` in [0, 1], `low`, `high` and `n` (worlds with a verdict). NaN where n is
        0.

    Raises:
        ToysaeError: a column is missing, or `by` names a seed or an output column.
    """
    outputs = ["share", "low", "high", "n"]
    by = checked_settings(table, by, ["verdict"], outputs)
    rows = []
    for values, members in grouped(table, by):
        known = members[members["verdict"].notna()]
        for verdict in VERDICTS:
            shares = (known["verdict"] == verdict).groupby(known["world_seed"]).mean()
            interval = clopper_pearson(float(shares.sum()), len(shares), confidence)
            share = float(shares.mean()) if len(shares) else np.nan
            rows.append((*values, verdict, share, *interval, len(shares)))
    return pd.DataFrame(rows, columns=pd.Index([*by, "verdict", *outputs]))
