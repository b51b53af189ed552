"""Steps until mmcs first reaches .9: how fast, and how often never."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st

from ..lazy import pd

STEPS, CENSORED = "steps_to_0.9", "censored_0.9"


def steps_to_threshold(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """One dot per run at the best sparsity; a triangle at its last step if it never got there.

    Returns:
        The figure, and a frame with one row per run: case, arm, ratio, seeds, `step` (the
        step that reached mmcs .9, or the last one), `censored`, and the arm's `median_step`
        (infinite when at least half of its runs never got there).
    """
    table, column = sw.members(results)
    chosen = sw.best(table)
    frame = _frame(chosen, column)
    panels = sorted(set(zip(table["case"], table["recipe"], strict=True)))
    width = min(2, len(panels))
    lines = table[["case", "recipe", "init", column]].drop_duplicates()
    n_lines = lines.groupby(["case", "recipe"]).size().max()
    with st.style():
        fig, axes = st.wrapped(len(panels), width, (3.6, 0.24 * n_lines + 0.75))
        for k, ((case, recipe), ax) in enumerate(zip(panels, axes, strict=True)):
            _panel(ax, frame[(frame["case"] == case) & (frame["recipe"] == recipe)], column)
            ax.set_title(f"{case}: {recipe}", loc="left")
            if k + width >= len(panels):
                ax.set_xlabel("steps to mmcs .9 (log)")
            _step_axis(ax, frame["step"])
        title = "steps until mmcs reaches .9, at the best sparsity"
        return st.finish(fig, results, title, sw.choice_remark(chosen)), frame


def _frame(chosen: pd.DataFrame, column: str) -> pd.DataFrame:
    by = ["case", *sw.ARM, column]
    never = chosen[CENSORED].astype(bool) | chosen[STEPS].isna()
    frame = chosen[[*by, "world_seed", "sae_seed", "sparsity"]].assign(
        step=chosen[STEPS].astype(float).where(~never, chosen["n_steps"]), censored=never
    )
    frame["median_step"] = frame["step"].where(~never, np.inf)
    frame["median_step"] = frame.groupby(by)["median_step"].transform("median")
    return frame.sort_values(by).reset_index(drop=True)


def _panel(ax: Axes, frame: pd.DataFrame, column: str) -> None:
    if frame.empty:
        ax.set_yticks([])
        return st.note(ax, "every run diverged")
    several = frame[column].nunique() > 1
    lines = sorted(
        set(zip(frame["init"], frame[column], strict=True)),
        key=lambda line: (line[0] in sw.CEILINGS, line[0], line[1]),
    )
    labels = []
    for y, (init, value) in enumerate(lines):
        runs = frame[(frame["init"] == init) & (frame[column] == value)]
        look = st.arm_style(str(runs["recipe"].iloc[0]), init)
        ceiling = init in sw.CEILINGS
        ax.axhline(y, color="0.85", linewidth=0.7, linestyle="--" if ceiling else "-", zorder=0)
        spread = y + 0.25 * (np.linspace(-1, 1, len(runs)) if len(runs) > 1 else np.zeros(1))
        never = runs["censored"].to_numpy(bool)
        step = runs["step"].to_numpy(float)
        face = "white" if ceiling else look["color"]
        dots = {"s": 16, "edgecolor": look["color"], "linewidth": 0.9, "zorder": 3}
        ax.scatter(step[~never], spread[~never], marker=look["marker"], facecolor=face, **dots)
        ax.scatter(step[never], spread[never], marker=">", facecolor="none", **dots)
        median = float(runs["median_step"].iloc[0])
        if np.isfinite(median):
            ax.plot([median] * 2, [y - 0.38, y + 0.38], color="black", label="median", lw=1.6)
        if never.any():
            text = f" {never.sum()} of {len(runs)} never"
            ax.text(1.0, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=7)
        name = sw.CEILINGS.get(init, str(init))
        labels.append(f"{name}, {sw.short_label(column)} {value:g}" if several else name)
    ax.scatter([], [], marker=">", facecolor="none", edgecolor="0.3", label="never, until here")
    ax.set_yticks(range(len(lines)), labels)
    ax.set_ylim(len(lines) - 0.4, -0.6)


def _step_axis(ax: Axes, steps: pd.Series) -> None:
    """A log axis with room for step 0, the same in every panel, ticks at 1, 2, 5."""
    positive = steps[(steps > 0) & np.isfinite(steps)]
    if positive.empty:
        return
    low, high = positive.min() / 1.3, positive.max() * 1.3
    ticks = [m * 10.0**e for e in range(10) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    if high / low > 100:
        ticks = [t for t in ticks if str(t).startswith("1")]
    if (steps == 0).any():
        ax.set_xscale("symlog", linthresh=low, linscale=0.3)
        ax.set_xlim(-0.3 * low, high)
        ticks = [0.0, *ticks]
    else:
        ax.set_xscale("log")
        ax.set_xlim(low, high)
    ax.set_xticks(ticks, [st.short_number(t) for t in ticks])
    ax.set_xticks([], minor=True)
