"""mmcs over training by initialisation: a panel for each recipe, where `learning_curves` would
lay dozens of lines over each other."""

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import style as st
from toysae.plotting.curves import points, step_axis
from toysae.plotting.rows import (
    ARM,
    COLUMN_LABELS,
    SweepResults,
    best,
    interval_frame,
    members,
    remarks,
)


def curves_by_init(results: SweepResults) -> tuple[Figure, pd.DataFrame]:
    """mmcs against steps at the best L1: rows of panels by case and recipe, a line an init.

    Returns:
        The figure, and a frame with one row per case, arm, ratio and step: `mmcs` with its
        `_half_width` (95 % Student-t over world seeds) and `_n`, and the random `floor`.
    """
    table, column = members(results)
    chosen = best(table)
    by = ["case", *ARM, column, "step"]
    drawn = points(results, chosen, [*by[:-1], "floor", "world_seed", "sae_seed", "diverged"])
    frame = interval_frame(drawn, by, ["mmcs"])
    rows = sorted(set(zip(table["case"], table["recipe"], strict=True)))
    columns, inits = sorted(table[column].unique()), sorted(table["init"].unique())
    with st.style():
        fig, axes = st.canvas(max(1, len(rows)), max(1, len(columns)), (2.9, 1.8))
        for i, (case, recipe) in enumerate(rows):
            for j, at in enumerate(columns):
                ax = axes[i, j]
                here = (frame["case"] == case) & (frame["recipe"] == recipe)
                _panel(ax, frame[here & (frame[column] == at)], frame, inits)
                if i == 0:
                    ax.set_title(f"{COLUMN_LABELS[column].split(' (')[0]} {at:g}")
                if j == 0:
                    ax.set_ylabel(f"{case}\n{recipe}\nmmcs".replace(", ", "\n"))
                if i == len(rows) - 1:
                    ax.set_xlabel("step (0, then log)")
        title = "mmcs over training by initialisation, at the best L1"
        return st.finish(fig, results, title, remarks(table, chosen)), frame


def _panel(ax: Axes, part: pd.DataFrame, frame: pd.DataFrame, inits: list[str]) -> None:
    ax.set_ylim(-0.03, 1.03)
    if part.empty:
        return st.note(ax, "every run diverged")
    ax.axhline(part["floor"].mean(), **st.FLOOR_LINE, label="random floor")
    ax.axhline(0.9, **st.THRESHOLD)
    colours = matplotlib.colormaps["tab20"].colors  # pyright: ignore[reportAttributeAccessIssue]
    for k, init in enumerate(inits):
        line = part[part["init"] == init].sort_values("step")
        # Dark shades first, then the light ones, dashed: as many lines as an eye can tell apart.
        look = {"color": colours[2 * (k % 10) + (k >= 10)], "linestyle": "--" if k >= 10 else "-"}
        x, y, half = (line[c].to_numpy(float) for c in ("step", "mmcs", "mmcs_half_width"))
        ax.plot(x, y, label=init, linewidth=1.1, **look)
        ax.fill_between(x, y - half, y + half, color=look["color"], alpha=0.1, linewidth=0)
    step_axis(ax, part, frame)
