"""The table that a run prints: each arm at its best L1, with interval, floor and ceiling."""

import pandas as pd

from ..recovery import best_coefficient, student_t

_BY = ["world", "ratio", "n_features", "d_in", "d_sae", "recipe", "init"]
_SHOWN = {
    "mmcs": ("mmcs", ".3f"),
    "mcs_above_0.9": ("MCS > .9", ".3f"),
    "mcc": ("mcc", ".3f"),
    "l0": ("l0", ".2f"),
    "ev": ("ev", ".3f"),
}
"""Column -> its title, and the format of its interval."""


def summarise_runs(table: pd.DataFrame) -> pd.DataFrame:
    """One line an arm: mean ± half-width (n) over n world seeds at the best L1.

    The L1 of each world seed is chosen on the other seeds, among those whose L0 is within a
    factor of 2 of the truth; an arm without one is marked "no L0 match". `init` "truth" is the
    ceiling: started at the true features, then trained.
    """
    best = best_coefficient(table, _BY)
    lines = []
    for _, rows in best.groupby(_BY, sort=True):
        first = rows.iloc[0]
        kept = rows[~rows["diverged"].astype(bool)]
        line = {
            "world": first["world"],
            "d_in": first["d_in"],
            "ratio": f"{first['ratio']:g}",
            "size": f"{first['d_sae'] / first['n_features']:g}",
            "SAE": f"{first['recipe']}, {first['init']}",
            "L1": " ".join(f"{v:.3g}" for v in sorted(rows["l1"].unique())),
        }
        for column, (title, digits) in _SHOWN.items():
            interval = student_t(kept.groupby("world_seed")[column].mean().to_numpy())
            line[title] = format(interval, digits)
        line["true l0"] = f"{rows['true_l0'].mean():.2f}"
        line["floor"] = f"{first['floor']:.3f}"
        line["note"] = _note(rows, table)
        lines.append(line)
    return pd.DataFrame(lines)


def _note(rows: pd.DataFrame, table: pd.DataFrame) -> str:
    notes = [] if rows["l0_matched"].all() else ["no L0 match"]
    same = table[table["group"] == rows["group"].iloc[0]]
    if same["diverged"].any():
        notes.append(f"{int(same['diverged'].sum())} of {len(same)} diverged")
    return ", ".join(notes)
