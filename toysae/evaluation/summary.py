"""The tables that a run prints: each arm at its best sparsity with intervals, floor and ceiling,
and whether the objective or the optimiser is at fault for the features that it missed."""

from __future__ import annotations

from ..lazy import pd
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
"""Those of :data:`_SHOWN` that are shares of the features."""


def summarise_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Summarises each arm at its best sparsity in one line: mean ± half-width (n) over n worlds.

    The sparsity of each world seed is chosen on the other seeds, among those whose L0 is within a
    factor of 2 of the truth; an arm without one is marked "no L0 match". `init` "truth" is the
    ceiling, started at the true features and then trained; with "at-truth" the decoder was held
    there.
    """
    table = _with_setting(table)
    require_columns(
        table, [*_BY, *_SHOWN, "world_seed", "sparsity", "true_l0", "floor", "diverged"]
    )
    best = best_coefficient(table, _BY)
    lines = []
    for _, rows in best.groupby(_BY, sort=True):
        converged = rows[~rows["diverged"].astype(bool)]
        line = _head(rows)
        for column, (title, digits) in _SHOWN.items():
            worlds = converged.groupby("world_seed")[column].mean().to_numpy()
            n_features = int(rows["n_features"].iloc[0])
            is_share = column in _SHARES
            interval = share_interval(worlds, n_features) if is_share else student_t(worlds)
            line[title] = format(interval, digits)
        line["true l0"] = f"{rows['true_l0'].mean():.2f}"
        line["floor"] = f"{rows['floor'].iloc[0]:.3f}"
        line["note"] = _note(rows, table)
        lines.append(line)
    return pd.DataFrame(lines)


def summarise_minima(table: pd.DataFrame) -> pd.DataFrame:
    """Summarises each arm at its best sparsity in one line: the share of world seeds with each
    verdict, see :mod:`toysae.recovery.minima`. Empty if no SAE was started or held at the truth.
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
    """The first columns of a line: the world, the sizes, the arm and its sparsity."""
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
    diverged = table.loc[table["cell"] == rows["cell"].iloc[0], "diverged"]
    if diverged.any():
        notes.append(f"{int(diverged.sum())} of {len(diverged)} diverged")
    return ", ".join(notes)
