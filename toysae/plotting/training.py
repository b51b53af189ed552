"""MCS histograms over training: are features found one by one, or all together?

The mean (`learning_curves`) rises in the same way in both cases; the histograms do not.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st
from toysae.plotting.curves import thin
from toysae.plotting.histograms import filled_bins, levels, mcs_axis
from toysae.recovery.mcs import EDGES

from ..lazy import pd

MOST_HISTOGRAMS = 10  # histograms in a panel, at most
_KEY = ["case", *sw.ARM]
_HIGH = 0.9  # of a row's height: a histogram with every feature in one bin


def mcs_over_training(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """One panel per arm and ratio at the best sparsity: a histogram of MCS a step, first below.

    Returns:
        The figure, and a frame with one row per panel, step and bin that is not empty: `share`
        of the features of all seeds whose MCS lies in [`low`, `high`), and the random `floor`.
    """
    table, column = sw.members(results)
    chosen = sw.best(table)
    names = [*_KEY, column]
    parts = [
        _shares(results, part, dict(zip(names, key, strict=True)))
        for key, part in chosen.groupby(names)
    ]
    empty = pd.DataFrame(columns=[*names, "floor", "step", "low", "high", "share"])
    frame = pd.concat(parts, ignore_index=True) if parts else empty
    rows, columns = st.arm_rows(table, "step"), sw.column_titles(table, column)
    with st.style():
        fig, panels = st.panel_grid(
            rows, columns, (2.2, 1.9), "MCS of a feature", shared_ticks=True
        )
        for ax, (case, arm), value in panels:
            here = frame[(frame["case"] == case) & (frame[column] == value)]
            _panel(ax, sw.of_arm(here, arm), arm)
        title = (
            "MCS of the true features over training, at the best sparsity, all seeds together "
            "(height: square root of the share)"
        )
        return st.finish(fig, results, title, sw.choice_remark(chosen)), frame


def _shares(results: sw.Results, chosen: pd.DataFrame, head: dict) -> pd.DataFrame:
    """The frame of one panel, from the counts of all its members."""
    head, counts, steps = head | {"floor": chosen["floor"].mean()}, 0.0, np.zeros(0)
    for rows, arrays in sw.with_arrays(results, chosen):
        steps = arrays["curve_steps"]
        counts = counts + arrays["curve_mcs_hist"][rows["row"].to_numpy()].sum(0)
    shares = counts / np.maximum(np.sum(counts, axis=0), 1)
    drawn = thin(steps, MOST_HISTOGRAMS - 1)
    return pd.concat([filled_bins(head | {"step": steps[at]}, shares[:, at]) for at in drawn])


def _panel(ax: Axes, frame: pd.DataFrame, arm: tuple[str, str]) -> None:
    mcs_axis(ax, 1.01)
    if frame.empty:
        ax.set_yticks([])
        return st.note(ax, "every run diverged")
    ax.axvline(0.9, **st.THRESHOLD)
    ax.axvline(frame["floor"].iloc[0], **st.FLOOR_LINE, label="random floor")
    color, dashes = st.arm_style(*arm)["color"], "--" if arm[1] in sw.CEILINGS else "-"
    steps = sorted(frame["step"].unique())
    for y, step in enumerate(steps):
        level = y + _HIGH * levels(frame[frame["step"] == step]) ** 0.5
        ax.stairs(level, EDGES, baseline=y, fill=True, color=color, alpha=0.35, linewidth=0)
        ax.stairs(level, EDGES, baseline=y, color=color, linewidth=0.8, linestyle=dashes)
    ax.set_yticks(range(len(steps)), [st.short_number(float(step)) for step in steps], fontsize=6.5)
    ax.set_ylim(-0.1, len(steps) + 0.1)
