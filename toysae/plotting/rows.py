"""What the figures read, and which rows of it share a panel.

A figure's panels are laid out by three things. The **arm** is a recipe with an init. The
**column** is what the sweep varies: the ratio, or `d_sae / n_features` when there is one
ratio only. The **case** is the world, followed by whatever else varies at one world and
column (steps, true L0, ...), so that a panel never averages over a setting unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from toysae.recovery.intervals import over_seeds, student_t
from toysae.recovery.minima import AT_TRUTH, TRUTH
from toysae.recovery.selection import best_coefficient
from toysae.runs.results import Results as Stored
from toysae.sweeps.curves import ORACLES, oracle_curves

from ..lazy import pd

CEILINGS = {TRUTH: "truth init (ceiling)", AT_TRUTH: "held at the truth (ceiling)"}
"""The inits of rows that are a ceiling and not an arm, and what they are called."""

ARM = ["recipe", "init"]
CELL = ["world", "setting", *ARM, "ratio", "d_sae", "d_in", "n_steps", "batch_size"]
COLUMN_LABELS = {"size": "d_sae / n_features", "ratio": "ratio (n_features / d_in)"}
_CASE = ["ratio", "size", "d_in", "n_steps", "batch_size"]


@runtime_checkable
class Results(Protocol):
    """A finished sweep: one row per trained SAE (member), arrays by cell."""

    @property
    def name(self) -> str: ...

    @property
    def table(self) -> pd.DataFrame: ...

    def arrays(self, cell: str, /) -> dict[str, np.ndarray]: ...


def oracle_rows(results: Results, methods: Sequence[str] = ORACLES) -> pd.DataFrame | None:
    """The oracle curves of the worlds, see :mod:`toysae.sweeps.curves`; None of results that are
    not on disk, whose worlds cannot be made again."""
    return oracle_curves(results, methods) if isinstance(results, Stored) else None


def members(results: Results) -> tuple[pd.DataFrame, str]:
    """The table with `size`, `case` and `l0_ratio` added, and the name of the column axis."""
    table = results.table.copy()
    table["size"] = (table["d_sae"] / table["n_features"]).round(4)
    table["diverged"] = table["diverged"].astype(bool)
    table["l0_ratio"] = table["l0"] / table["true_l0"]
    table["setting"] = table.get("setting", "-")
    one_ratio = table["ratio"].nunique() <= 1
    column = "size" if one_ratio and table["size"].nunique() > 1 else "ratio"
    return with_case(table, ["world", column]), column


def short_label(column: str) -> str:
    """What a column is called, without the explanation in brackets."""
    return COLUMN_LABELS.get(column, column).split(" (")[0]


def column_titles(table: pd.DataFrame, column: str) -> dict[float, str]:
    """Each value of a column in rising order, with the title of its column of panels."""
    values = sorted(table[column].unique())
    return {value: f"{short_label(column)} {value:g}" for value in values}


def case_without(table: pd.DataFrame, *names: str) -> pd.Series:
    """The world and what the points set, without some names."""
    rest = table["setting"].str.replace(rf"(^|, )({'|'.join(names)}) [^,]+", "", regex=True)
    rest = rest.str.strip(", -")
    return table["world"] + (", " + rest if rest.nunique() > 1 else "")


def with_case(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Adds `case`: the world, what the points set, and whatever else varies among rows with the
    same values of `by`."""
    cells = table.groupby([*by, "setting"])
    varied = [c for c in _CASE if c not in by and (cells[c].nunique() > 1).any()]
    case = table["world"].astype(str)
    if table["setting"].nunique() > 1:
        case = case + ", " + table["setting"]
    for c in varied:
        case = case + f", {short_label(c)} " + table[c].map("{:g}".format)
    return table.assign(case=case)


def by_ratio(table: pd.DataFrame) -> pd.Series:
    """The case where neither ratio nor size is an axis: the world with the ratio, and with size and
    setting where they vary."""
    case = table["world"].astype(str) + ", ratio " + table["ratio"].map("{:g}".format)
    if table["size"].nunique() > 1:
        case = case + ", size " + table["size"].map("{:g}".format)
    if table["setting"].nunique() > 1:
        case = case + ", " + table["setting"]
    return case


def best(table: pd.DataFrame) -> pd.DataFrame:
    """Members at the sparsity that the *other* world seeds chose, those that did not diverge.

    A seed whose run diverged at that sparsity is lost, not given another one: `n_lost` counts them.
    """
    chosen = best_coefficient(table, by=CELL)
    alive = chosen[~chosen["diverged"] & chosen["mmcs"].notna()]
    return alive.assign(n_lost=len(chosen) - len(alive))


def arms(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The (recipe, init) pairs, by recipe, each recipe's ceilings last."""
    pairs = {(str(r), str(i)) for r, i in table[ARM].itertuples(index=False)}
    return sorted(pairs, key=lambda arm: (arm[0], arm[1] in CEILINGS, arm[1]))


def without_ceilings(table: pd.DataFrame, chosen: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """Both tables without their ceilings, unless the first has nothing else."""
    ceiling = table["init"].isin(CEILINGS)
    if ceiling.all():
        return table, chosen
    return table[~ceiling], chosen[~ceiling.loc[chosen.index]]


def of_arm(table: pd.DataFrame, arm: tuple[str, str]) -> pd.DataFrame:
    """The rows of one (recipe, init)."""
    return table[(table["recipe"] == arm[0]) & (table["init"] == arm[1])]


def mean_over_seeds(table: pd.DataFrame, by: list[str], value: str) -> tuple[float, float]:
    """(mean, half width of the 95 % interval) of a table whose rows have the same values of `by`;
    NaN if it is empty."""
    alive = table[table[value].notna()]
    if alive.empty:
        return np.nan, np.nan
    row = over_seeds(alive, by, value).iloc[0]
    return float(row["mean"]), float(row["half_width"])


def interval_frame(table: pd.DataFrame, by: list[str], values: Iterable[str]) -> pd.DataFrame:
    """One row for each combination of `by`: the mean `floor`, and each value with its `_half_width`
    and `_n`."""
    values = list(values)
    if table.empty:
        stats = [f"{v}{end}" for v in values for end in ("", "_half_width", "_n")]
        return pd.DataFrame(columns=[*by, "floor", *stats])
    frame = table.groupby(by)[["floor"]].mean().reset_index()
    for value in values:
        alive = table[table[value].notna()]
        names = {"mean": value, "half_width": f"{value}_half_width", "n": f"{value}_n"}
        if alive.empty:
            frame = frame.assign(**{n: np.nan for n in names.values()})
            continue
        part = over_seeds(alive, by, value)[[*by, *names]].rename(columns=names)
        frame = frame.merge(part, on=by, how="left")
    return frame


def over_worlds(curves: np.ndarray) -> dict[str, np.ndarray]:
    """The mean `share` at each point of curves `[n_worlds, T]`, its `half_width` and `n`."""
    intervals = [student_t(column) for column in curves.T]
    columns = {"share": "mean", "half_width": "half_width", "n": "n"}
    return {new: np.array([getattr(i, old) for i in intervals]) for new, old in columns.items()}


def interval_remark(table: pd.DataFrame) -> str:
    """What the error bars are, or why there are none."""
    if table["world_seed"].nunique() < 2:
        return "one world seed: no intervals"
    return "intervals: 95 %, Student's t over world seeds"


def choice_remark(chosen: pd.DataFrame) -> str:
    """What to distrust in the choice of the sparsity: none that fits the L0, or no other seed."""
    if chosen.empty:
        return ""
    parts = []
    unmatched = int((~chosen["l0_matched"].astype(bool)).sum())
    if unmatched:
        parts.append(
            f"{unmatched} of {len(chosen)} chosen runs: no sparsity had L0 within 2× of the truth"
        )
    if chosen["selected_on_self"].astype(bool).any():
        parts.append("a lone seed chose its own sparsity")
    if chosen["n_lost"].iloc[0]:
        parts.append(f"{chosen['n_lost'].iloc[0]} runs lost that diverged at the chosen sparsity")
    return "; ".join(parts)


def remarks(table: pd.DataFrame, chosen: pd.DataFrame) -> str:
    """The footnote's end: what the intervals are, then what to distrust."""
    return "; ".join(filter(None, [interval_remark(table), choice_remark(chosen)]))


def with_arrays(
    results: Results, table: pd.DataFrame
) -> Iterator[tuple[pd.DataFrame, dict[str, np.ndarray]]]:
    """(rows of one cell, that cell's arrays), each cell read once."""
    for cell, rows in table.groupby("cell", sort=True):
        yield rows, results.arrays(str(cell))
