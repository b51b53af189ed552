"""Not recovered: the objective's fault or the optimiser's?

An SAE that missed the true features is held against SAEs of the same recipe, numbers and world
that know them: started at the truth and trained (`init` "truth"), or with the decoder held there
while the rest trains ("at-truth"). If its loss is the higher one, the truth was better and not
found: a bad minimum. If it is not, the objective itself prefers something else, absorption say,
and no optimiser will help.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from toysae.aliases import COLUMNS, today
from toysae.errors import require
from toysae.recovery.intervals import (
    alive_values,
    clopper_pearson,
    diverged,
    grouped,
    require_columns,
)

TRUTH, AT_TRUTH = "truth", "at-truth"
RECOVERED, OPTIMISER, OBJECTIVE = VERDICTS = "recovered", "optimiser", "objective"
_CELL = ["world", "d_in", "n_features", "ratio", "d_sae", "recipe", "world_seed"]
_SETTING = "setting"  # of a cell too, in tables of sweeps over more than that


def verdicts(
    table: pd.DataFrame,
    margin: float = 0.01,
    recovered: float = 0.9,
    score: str = "mcs_above_0.9",
    coefficient: str = "sparsity",
) -> pd.DataFrame:
    """Each trained SAE beside the truth of its own recipe, coefficient and world.

    The truth's loss is the least among the truth arms that ended at the truth (`score` of at
    least `recovered`), or among all of them where none did.

    Args:
        table: a sweep's, with `init`, `eval_loss`, `score`, `coefficient` and what names a cell.
        margin: by which a loss must be higher, relative to the truth's, to be higher at all.
        recovered: the least score that counts as the truth found.
        score: the column that says so, higher is better. Not `mmcs`: absorbing one feature of
            four still has .93.
        coefficient: the column of the sparsity coefficient.

    Returns:
        The rows that are no truth arms, with their index and columns, and `truth_loss`;
        `loss_gap`, (eval_loss - truth_loss) / \\|truth_loss\\|; `verdict`, "recovered", "optimiser"
        (not recovered, the loss higher) or "objective" (not recovered, the loss no higher), None
        where the SAE diverged or has no truth beside it; and `left_truth`, the share of the
        truth-initialised SAEs that ended below `recovered` (NaN without any): what training
        leaves is no minimum that it could have found.

    Raises:
        ToysaeError: a column is missing, there is no truth arm at all, or `margin` is negative.
    """
    coefficient = today(coefficient, COLUMNS, table.columns)
    cell = [*_CELL, *([_SETTING] if _SETTING in table else []), coefficient]
    require_columns(table, [*cell, "init", "eval_loss", score])
    require(margin >= 0, f"margin = {margin!r}: write 0 or more, e.g. 0.01")
    for name in ("eval_loss", score):
        alive_values(table, name)  # refuses what are no numbers
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
    beside = best.reindex(pd.MultiIndex.from_frame(trained[cell])).set_index(trained.index)
    truth_loss = beside["stayed"].fillna(beside["all"])
    gap = (trained["eval_loss"] - truth_loss) / truth_loss.abs()
    verdict = np.where(
        trained[score] >= recovered, RECOVERED, np.where(gap > margin, OPTIMISER, OBJECTIVE)
    )
    known = ~diverged(trained) & gap.notna() & trained[score].notna()
    return trained.assign(
        truth_loss=truth_loss,
        loss_gap=gap,
        verdict=pd.Series(verdict, trained.index, dtype=object).where(known, None),
        left_truth=beside["left_truth"],
    )


def bad_minima(table: pd.DataFrame, by: Sequence[str], confidence: float = 0.95) -> pd.DataFrame:
    """How often each verdict comes, over world seeds.

    The members of a world are averaged first, so that a world may count in part for several
    verdicts; the Clopper-Pearson interval is then that of the sum of these shares.

    Args:
        table: from :func:`verdicts`.
        by: columns that name a group; may be empty.
        confidence: two-sided coverage.

    Returns:
        Three rows per group, in sorted order: the columns of `by`, then `verdict`, `share` in
        [0, 1], `low`, `high` and `n` (worlds with a verdict). NaN where n is 0.

    Raises:
        ToysaeError: a column is missing, or `by` names a seed or an output column.
    """
    by = list(by)
    require_columns(table, [*by, "verdict", "world_seed"])
    reserved = {"world_seed", "sae_seed", "verdict", "share", "low", "high", "n"} & set(by)
    require(not reserved, f"by has {sorted(reserved)}: group by settings, not seeds or results")
    rows = []
    for names, group in grouped(table, by):
        known = group[group["verdict"].notna()]
        for verdict in VERDICTS:
            shares = (known["verdict"] == verdict).groupby(known["world_seed"]).mean()
            interval = clopper_pearson(float(shares.sum()), len(shares), confidence)
            share = float(shares.mean()) if len(shares) else np.nan
            rows.append((*names, verdict, share, *interval, len(shares)))
    columns = [*by, "verdict", "share", "low", "high", "n"]
    return pd.DataFrame(rows, columns=pd.Index(columns))
