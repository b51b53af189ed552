"""Chooses the sparsity coefficient on other seeds than those reported.

The best of many L1 coefficients on the reported seed is biased upwards, and MCS alone does not
constrain L0. So for each world seed the coefficient is chosen by the *other* world seeds, among
those whose L0 is near the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toysae.aliases import OLD_COLUMNS, today
from toysae.errors import require
from toysae.recovery.intervals import alive_values, diverged, grouped, require_columns

from ..lazy import pd


def best_coefficient(
    table: pd.DataFrame,
    by: Sequence[str],
    coefficient: str = "sparsity",
    score: str = "mmcs",
    l0_factor: float = 2.0,
) -> pd.DataFrame:
    """Returns the rows at the coefficient that the other world seeds prefer (leave one seed out).

    Among rows with the same values of `by`, each `world_seed` s gets the coefficient with the best
    mean `score` (higher is better) over the other world seeds, among those whose mean `l0` there is
    within a factor `l0_factor` of their mean `true_l0`; if there is none, the one nearest in log
    ratio. Members of a world are averaged before worlds are. Candidates are the coefficients run at
    s, without those that diverged in half of the other worlds or more if any is left. Ties go to
    the smaller coefficient. Diverged rows and NaN scores do not count in the choice, but a chosen
    row may itself have diverged: it is returned, and :func:`toysae.recovery.over_seeds` drops it.

    Args:
        table: one row per member, with `world_seed`, `l0`, `true_l0` (mean active latents and
            features per sample), `coefficient`, `score`, the columns of `by` and optionally
            `diverged`.
        by: columns of settings; may be empty.
        coefficient: the column to choose in.
        score: the column to choose by.
        l0_factor: at least 1.

    Returns:
        The chosen rows in the order and with the index and columns of `table`, plus the columns
        `l0_matched` (False: no candidate was within the factor) and `selected_on_self` (True:
        without other world seeds, the reported seed chose for itself).

    Raises:
        ToysaeError: a column is missing, a row has no coefficient or seed, `by` names the
            coefficient, a score or the seed, or `l0_factor` is below 1.
    """
    by, coefficient = list(by), today(coefficient, OLD_COLUMNS, table.columns)
    require_columns(table, [*by, "world_seed", coefficient, score, "l0", "true_l0"])
    require(l0_factor >= 1, f"l0_factor = {l0_factor!r}: write 1 or more, e.g. 2.0")
    reserved = {"world_seed", coefficient, score, "l0"} & set(by)
    require(not reserved, f"by has {sorted(reserved)}: name settings, not what is chosen over")

    for name in (coefficient, "world_seed"):
        empty = int(np.sum(table[name].isna()))
        require(empty == 0, f"{name} is empty in {empty} rows: leave those rows out")

    for name in (score, "l0", "true_l0"):
        alive_values(table, name)  # refuses values that are not numbers

    # Positions, not labels: the index of a concatenated table need not be unique.
    frame = table.reset_index(drop=True)
    alive: Any = frame.loc[~diverged(frame) & frame[score].notna()]
    positions, matched, on_self = [], [], []
    for _, members in grouped(frame, by):
        voters = alive[alive.index.isin(members.index)]
        for seed, own in members.groupby("world_seed"):
            runs = own[coefficient].unique()
            candidates = voters[voters[coefficient].isin(runs)]
            others = candidates[candidates["world_seed"] != seed]
            self_selected = others.empty
            if self_selected:
                others = candidates[candidates["world_seed"] == seed]
            others = _mostly_alive(others, members, coefficient)
            if others.empty:  # nothing survived: the failure is reported
                choice, near = min(runs), False
            else:
                choice, near = _choose(others, coefficient, score, l0_factor)
            chosen = own.index[own[coefficient] == choice]
            positions.extend(chosen)
            matched.extend([near] * len(chosen))
            on_self.extend([self_selected] * len(chosen))
    order = np.argsort(positions, kind="stable")
    rows = table.iloc[np.asarray(positions, dtype=int)[order]]
    return rows.assign(
        l0_matched=np.asarray(matched, dtype=bool)[order],
        selected_on_self=np.asarray(on_self, dtype=bool)[order],
    )


def _mostly_alive(alive: Any, members: Any, coefficient: str) -> Any:
    """Returns the rows of coefficients that survived in more than half of the worlds with living
    rows, or all rows if there is no such coefficient."""
    worlds = members["world_seed"].isin(alive["world_seed"].unique())
    ran = members[worlds].groupby(coefficient)["world_seed"].nunique()
    lived = alive.groupby(coefficient)["world_seed"].nunique()
    good = lived.index[2 * lived > ran.reindex(lived.index)]
    return alive[alive[coefficient].isin(good)] if len(good) else alive


def _choose(rows: Any, coefficient: str, score: str, l0_factor: float) -> tuple[object, bool]:
    columns = [score, "l0", "true_l0"]
    per_world = rows.groupby([coefficient, "world_seed"])[columns].mean()
    means = per_world.groupby(level=coefficient).mean()  # sorted, so idxmax takes the smaller
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(means["l0"] / means["true_l0"])).fillna(np.inf)
    near = distance <= np.log(l0_factor) + 1e-12
    if near.any():
        return means.loc[near, score].idxmax(), True
    return means.loc[distance == distance.min(), score].idxmax(), False
