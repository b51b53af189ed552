"""The tables that a run prints: each arm at its best L1, with interval, floor and ceiling; and
whether what it missed is the objective's fault or the optimiser's."""

import pandas as pd

from ..recovery import bad_minima, best_coefficient, share_interval, student_t, verdicts
from ..recovery.intervals import require_columns
from ..recovery.minima import AT_TRUTH, TRUTH

_BY = ["world", "setting", "ratio", "n_features", "d_in", "d_sae", "recipe", "init"]
_SHOWN = {
    "mmcs": ("mmcs", ".3f"),
    "mcs_above_0.9": ("MCS > .9", ".3f"),
    "mcc": ("mcc", ".3f"),
    "l0": ("l0", ".2f"),
    "ev": ("ev", ".3f"),
}
"""Column -> its title, and the format of its interval."""
_SHARES = ("mcs_above_0.9",)
"""Of these, shares of the features."""


def summarise_runs(table: pd.DataFrame) -> pd.DataFrame:
    """One line an arm: mean ± half-width (n) over n world seeds at the best L1.

    The L1 of each world seed is chosen on the other seeds, among those whose L0 is within a
    factor of 2 of the truth; an arm without one is marked "no L0 match". `init` "truth" is the
    ceiling: started at the true features, then trained; with "at-truth" the decoder was held
    there.
    """
    table = _with_setting(table)
    require_columns(
        table, [*_BY, *_SHOWN, "world_seed", "sparsity", "true_l0", "floor", "diverged"]
    )
    best = best_coefficient(table, _BY)
    lines = []
    for _, rows in best.groupby(_BY, sort=True):
        kept = rows[~rows["diverged"].astype(bool)]
        line = _head(rows)
        for column, (title, digits) in _SHOWN.items():
            worlds = kept.groupby("world_seed")[column].mean().to_numpy()
            share = column in _SHARES
            n_features = int(rows["n_features"].iloc[0])
            interval = share_interval(worlds, n_features) if share else student_t(worlds)
            line[title] = format(interval, digits)
        line["true l0"] = f"{rows['true_l0'].mean():.2f}"
        line["floor"] = f"{rows['floor'].iloc[0]:.3f}"
        line["note"] = _note(rows, table)
        lines.append(line)
    return pd.DataFrame(lines)


def summarise_minima(table: pd.DataFrame) -> pd.DataFrame:
    """One line an arm at its best L1: the share of world seeds with each verdict, see
    :mod:`toysae.recovery.minima`. No line where no arm has a truth beside it.
    """
    table = _with_setting(table.reset_index(drop=True))
    require_columns(table, [*_BY, "world_seed"])
    if not table["init"].isin([TRUTH, AT_TRUTH]).any():
        return pd.DataFrame()
    judged = verdicts(table)
    best = judged.loc[judged.index.intersection(best_coefficient(table, _BY).index)]
    lines = []
    for _, rows in best[best["verdict"].notna()].groupby(_BY, sort=True):
        line = _head(rows)
        shares = bad_minima(rows, []).itertuples()
        line |= {s.verdict: f"{s.share:.2f} [{s.low:.2f}, {s.high:.2f}]" for s in shares}
        worlds = rows.groupby("world_seed")[["loss_gap", "left_truth"]].mean()
        line["loss over the truth's, %"] = format(student_t(100 * worlds["loss_gap"]), ".1f")
        line["truth left"] = f"{worlds['left_truth'].mean():.2f}"
        lines.append(line)
    return pd.DataFrame(lines)


def _with_setting(table: pd.DataFrame) -> pd.DataFrame:
    return table if "setting" in table else table.assign(setting="-")


def _head(rows: pd.DataFrame) -> dict[str, object]:
    """What a line begins with: the world, the sizes, the arm and its L1."""
    first = rows.iloc[0]
    init = "held at the truth" if first["init"] == AT_TRUTH else first["init"]
    return {
        "world": first["world"],
        "setting": first["setting"],
        "d_in": first["d_in"],
        "ratio": f"{first['ratio']:g}",
        "size": f"{first['d_sae'] / first['n_features']:g}",
        "SAE": f"{first['recipe']}, {init}",
        "sparsity": " ".join(f"{v:.3g}" for v in sorted(rows["sparsity"].unique())),
    }


def _note(rows: pd.DataFrame, table: pd.DataFrame) -> str:
    notes = [] if rows["l0_matched"].all() else ["no L0 match"]
    same = table[table["cell"] == rows["cell"].iloc[0]]
    if same["diverged"].any():
        notes.append(f"{int(same['diverged'].sum())} of {len(same)} diverged")
    return ", ".join(notes)
