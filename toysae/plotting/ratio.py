"""Recovery against the ratio n_features / d_in: where does it break, and at what L0?"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st

from ..lazy import pd

_PANELS = {
    "mmcs": "mmcs (mean MCS over features)",
    "mcs_above_0.9": "share of features with MCS > .9",
    "l0_ratio": "L0 / true L0",
}


def mmcs_by_ratio(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """Three panels against the ratio, at the best sparsity: mmcs, features found, L0 / true L0.

    Returns:
        The figure, and a frame with one row per case, arm and ratio: each value with its
        `_half_width` (95 % Student-t over world seeds) and `_n`, and the random `floor`.
        `l0_ratio` is a geometric mean with `l0_ratio_low` and `l0_ratio_high`.
    """
    table, column = sw.members(results)
    chosen = sw.best(table)
    frame = _frame(chosen, column)
    cases = sorted(table["case"].unique())
    with st.style():
        fig, axes = st.canvas(len(cases), len(_PANELS), (2.6, 2.2))
        for row, case in zip(axes, cases, strict=False):
            here = frame[frame["case"] == case]
            for ax, (value, label) in zip(row, _PANELS.items(), strict=True):
                if here.empty:
                    st.note(ax, "every run diverged")
                _decorate(ax, here, value, column)
                shown = sw.arms(here)
                for k, arm in enumerate(shown):
                    part = sw.of_arm(here, arm).sort_values(column)
                    aside = 2 ** (0.05 * (k - (len(shown) - 1) / 2))  # or bars hide each other
                    _line(ax, part[column] * aside, part, arm, value)
                ax.set_ylabel(label)
                _log2_axis(ax, np.sort(table[column].unique()), column)
            if len(cases) > 1:
                row[0].set_title(case, loc="left")
        title = f"recovery by {sw.COLUMN_LABELS[column]} at the best sparsity"
        return st.finish(fig, results, title, sw.remarks(table, chosen)), frame


def _frame(chosen: pd.DataFrame, column: str) -> pd.DataFrame:
    by = ["case", *sw.ARM, column]
    logged = chosen["l0_ratio"].where(chosen["l0_ratio"] > 0).astype(float)
    chosen = chosen.assign(l0_ratio=np.log2(logged))
    frame = sw.interval_frame(chosen, by, _PANELS)
    middle, half = frame["l0_ratio"].astype(float), frame.pop("l0_ratio_half_width").astype(float)
    return frame.assign(
        l0_ratio=2.0**middle,
        l0_ratio_low=2.0 ** (middle - half),
        l0_ratio_high=2.0 ** (middle + half),
    )


def _line(ax: Axes, x: pd.Series, part: pd.DataFrame, arm: tuple[str, str], value: str) -> None:
    y = part[value].to_numpy(float)
    if value == "l0_ratio":
        low, high = y - part["l0_ratio_low"], part["l0_ratio_high"] - y
    else:
        low = high = part[f"{value}_half_width"]
    st.arm_bars(ax, x, y, np.abs(np.array([low, high], float)), arm)


def _decorate(ax: Axes, here: pd.DataFrame, value: str, column: str) -> None:
    if value == "l0_ratio":
        st.l0_ratio_axis(ax)
        ax.axhline(1, **st.THRESHOLD)
        spread = here[["l0_ratio", "l0_ratio_low", "l0_ratio_high"]].to_numpy(float)
        spread = spread[np.isfinite(spread)]
        ax.set_ylim(max(2**-8, min(0.35, *spread, 0.35)), min(2**8, max(2.8, *spread, 2.8)))
        return
    ax.set_ylim(-0.03, 1.03)
    if value == "mmcs" and len(here):
        floor = here.groupby(column)["floor"].mean()
        if len(floor) == 1:
            ax.axhline(float(floor.iloc[0]), **st.FLOOR_LINE, label="random floor")
        else:
            ax.plot(floor.index, floor, **st.FLOOR_LINE, label="random floor")


def _log2_axis(ax: Axes, values: np.ndarray, column: str) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(values, [f"{v:g}" for v in values])
    ax.set_xticks([], minor=True)
    ax.set_xlim(values.min() / 1.25, values.max() * 1.25)
    ax.set_xlabel(sw.COLUMN_LABELS[column])
