"""MCS histograms over training: do features come out one by one, or all together?

The mean (`learning_curves`) rises alike in both cases; the histograms do not.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import style as st
from toysae.plotting.curves import thin
from toysae.plotting.rows import (
    CEILINGS,
    COLUMN_LABELS,
    SweepResults,
    arms,
    best,
    choice_remark,
    members,
    of_arm,
    with_arrays,
)
from toysae.recovery.mcs import EDGES

MOST_HISTOGRAMS = 10  # histograms in a panel, at most
_KEY = ["case", "recipe", "init"]
_HIGH = 0.9  # of a row: a histogram with every feature in one bin


def mcs_over_training(results: SweepResults) -> tuple[Figure, pd.DataFrame]:
    """One panel per arm and ratio at the best L1: a histogram of MCS a step, first step below.

    Returns:
        The figure, and a frame with one row per panel, step and bin that is not empty: `share`
        of the features of all seeds whose MCS lies in [`low`, `high`), and the random `floor`.
    """
    table, column = members(results)
    chosen = best(table)
    names = [*_KEY, column]
    parts = [
        _shares(results, part, dict(zip(names, key, strict=True)))
        for key, part in chosen.groupby(names)
    ]
    empty = pd.DataFrame(columns=[*names, "floor", "step", "low", "high", "share"])
    frame = pd.concat(parts, ignore_index=True) if parts else empty
    rows = [(case, arm) for case in sorted(table["case"].unique()) for arm in arms(table)]
    columns = sorted(table[column].unique())
    with st.style():
        fig, axes = st.canvas(max(1, len(rows)), max(1, len(columns)), (2.2, 1.9))
        for i, (case, arm) in enumerate(rows):
            for j, value in enumerate(columns):
                ax = axes[i, j]
                here = (frame["case"] == case) & (frame[column] == value)
                _panel(ax, of_arm(frame[here], arm), arm)
                if i == 0:
                    ax.set_title(f"{COLUMN_LABELS[column].split(' (')[0]} {value:g}")
                if j == 0:
                    ax.set_ylabel(st.row_label(case, arm, "step"), fontsize=7)
                if i == len(rows) - 1:
                    ax.set_xlabel("MCS of a feature")
                else:
                    ax.set_xticklabels([])
        title = (
            "MCS of the true features over training, at the best L1, all seeds together "
            "(height: square root of the share)"
        )
        return st.finish(fig, results, title, choice_remark(chosen)), frame


def _shares(results: SweepResults, chosen: pd.DataFrame, head: dict) -> pd.DataFrame:
    """The frame of one panel, from the counts of all its members."""
    head, counts, steps = head | {"floor": chosen["floor"].mean()}, 0.0, np.zeros(0)
    for rows, arrays in with_arrays(results, chosen):
        steps = arrays["curve_steps"]
        counts = counts + arrays["curve_mcs_hist"][rows["row"].to_numpy()].sum(0)
    shares = counts / np.maximum(np.sum(counts, axis=0), 1)
    out = []
    for at in thin(steps, MOST_HISTOGRAMS - 1):
        full = np.flatnonzero(shares[:, at])
        bins = {"low": EDGES[full], "high": EDGES[full + 1], "share": shares[full, at]}
        out.append(pd.DataFrame({**head, "step": steps[at], **bins}))
    return pd.concat(out)


def _panel(ax: Axes, frame: pd.DataFrame, arm: tuple[str, str]) -> None:
    ax.set_xlim(0, 1.01)
    ax.set_xticks([0, 0.5, 0.9], ["0", ".5", ".9"])
    if frame.empty:
        ax.set_yticks([])
        return st.note(ax, "every run diverged")
    ax.axvline(0.9, **st.THRESHOLD)
    ax.axvline(frame["floor"].iloc[0], **st.FLOOR_LINE, label="random floor")
    color, dashes = st.arm_style(*arm)["color"], "--" if arm[1] in CEILINGS else "-"
    steps = sorted(frame["step"].unique())
    for y, step in enumerate(steps):
        part = frame[frame["step"] == step]
        level = np.full(len(EDGES) - 1, float(y))
        level[np.searchsorted(EDGES, part["low"].to_numpy(float))] += _HIGH * part["share"] ** 0.5
        ax.stairs(level, EDGES, baseline=y, fill=True, color=color, alpha=0.35, linewidth=0)
        ax.stairs(level, EDGES, baseline=y, color=color, linewidth=0.8, linestyle=dashes)
    ax.set_yticks(range(len(steps)), [st.short_number(float(step)) for step in steps], fontsize=6.5)
    ax.set_ylim(-0.1, len(steps) + 0.1)
