"""Frontiers: what each arm reaches at each L0, compared with the world's oracles and its floor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st
from toysae.plotting.rows import ARM, oracle_rows

from ..lazy import pd

_SCORES = {"ev": "EV", "mmcs": "mmcs", "mcs_above_0.9": "share MCS > .9", "f1": "F1"}
_DICTIONARY = ("mmcs", "mcs_above_0.9")  # 1 for every oracle: they hold the truth
_ORACLE_LOOKS: dict[str, Mapping[str, Any]] = {
    "truth-fista": {"linestyle": "-", "label": "truth, FISTA codes"},
    "truth-omp": {"linestyle": (0, (4, 1.5)), "label": "truth, OMP codes"},
    "truth-encoder": {"linestyle": (0, (1, 1)), "label": "truth, linear-ReLU encoder trained"},
}
_ORACLE = {"color": "0.45", "linewidth": 1.1, "zorder": 1}


def frontier(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """EV and recovery against L0 over each arm's whole grid, a row of panels for each world and
    size.

    Where the results can give them (`ceilings()`), the EV and F1 of the true dictionary with FISTA
    codes, OMP codes and a trained linear-ReLU encoder are drawn too, on the first world seed. The
    random floor of mmcs is dotted, the true L0 a vertical line.

    Returns:
        The figure, and a frame with one row per case, arm and grid point (`sparsity`) and for each
        oracle (`recipe` its name, `init` "oracle") and point: each score and `l0`, with half
        widths (95 % Student-t over world seeds) and `_n`.
    """
    table, _ = sw.members(results)
    table = table.assign(case=sw.by_ratio(table))
    alive = table[~table["diverged"]]
    scores = [name for name in _SCORES if name in table and table[name].notna().any()]
    scores = scores or ["ev"]
    by = ["case", *ARM, "sparsity"]
    frame = sw.interval_frame(alive[alive["l0"].notna()], by, ["l0", *scores])
    oracles = _oracles(results, table, scores)
    cases = {case: case.replace(", ", "\n") for case in sorted(table["case"].unique())}
    titles = {score: _SCORES[score] for score in scores}
    with st.style():
        fig, panels = st.panel_grid(cases, titles, (2.4, 1.9), "L0", extra=1.3)
        for ax, case, score in panels:
            rows, here = (part[part["case"] == case] for part in (table, frame))
            for arm in sw.arms(rows):
                look = {**st.arm_style(*arm), "label": st.arm_label(*arm)}
                l0_curve(ax, sw.of_arm(here, arm), score, look)
            _references(ax, score, rows, oracles[oracles["case"] == case])
            l0_axis(ax, l0_limits(here), float(rows["true_l0"].mean()))
            ax.set_ylim(*_limits(here, score))
        remark = sw.interval_remark(table) + ("; oracles: first world seed" if len(oracles) else "")
        title = "EV and recovery against L0"
        return st.finish(fig, results, title, remark), pd.concat([frame, oracles])


def l0_curve(ax: Axes, part: pd.DataFrame, score: str, look: Mapping[str, Any]) -> None:
    """Draws an arm's score against its L0, both means over seeds, with the score's intervals."""
    part = part[(part["l0"] > 0) & part[score].notna()].sort_values("l0")
    error = np.nan_to_num(part[f"{score}_half_width"].to_numpy(float))
    ax.errorbar(part["l0"], part[score], yerr=error, elinewidth=0.8, **look)


def l0_limits(frame: pd.DataFrame) -> tuple[float, float]:
    """The limits of an axis with room for every positive L0."""
    seen = frame["l0"][frame["l0"] > 0].astype(float)
    return (seen.min() / 1.2, seen.max() * 1.2) if len(seen) else (1.0, 2.0)


def l0_axis(ax: Axes, limits: tuple[float, float], true_l0: float) -> None:
    """Makes a logarithmic x axis of L0, with a line at the truth."""
    ax.axvline(true_l0, **st.FLOOR_LINE | {"linestyle": "-", "linewidth": 0.8}, label="true L0")
    ax.set_xscale("log", base=2)
    ax.set_xlim(min(limits[0], true_l0 / 1.2), max(limits[1], true_l0 * 1.2))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _limits(frame: pd.DataFrame, score: str) -> tuple[float, float]:
    """The limits of a score's axis: near 1 for EV, from 0 for the others."""
    low = float(frame[score].min()) if frame[score].notna().any() else 0.0
    room = max(0.1 * (1 - low), 1e-3)
    return (low - room, 1 + room) if score == "ev" else (min(low, 0.0) - 0.03, 1.05)


def _oracles(results: sw.Results, table: pd.DataFrame, scores: list[str]) -> pd.DataFrame:
    """The oracles' rows of each case; none where the results have no worlds to rebuild."""
    columns = ["case", *ARM, "sparsity", "l0", *scores]
    found = oracle_rows(results)
    if found is None:
        return pd.DataFrame(columns=columns)
    curves = found.rename(columns={"method": "recipe", "value": "sparsity"})
    same = ["world", "setting", "n_features", "d_in"]
    cases = table[[*same, "case"]].drop_duplicates()
    return curves.assign(init="oracle").merge(cases, on=same)[columns]


def _references(ax: Axes, score: str, rows: pd.DataFrame, oracles: pd.DataFrame) -> None:
    if score == "mmcs" and rows["floor"].notna().any():
        ax.axhline(rows["floor"].mean(), **st.FLOOR_LINE, label="random floor")
    if score in _DICTIONARY:
        return
    for name, look in _ORACLE_LOOKS.items():
        part = oracles[(oracles["recipe"] == name) & (oracles["l0"] > 0)].sort_values("l0")
        if len(part):
            ax.plot(part["l0"], part[score], **{**_ORACLE, **look})
