"""mmcs over training by initialisation: a panel for each recipe, where `learning_curves` would draw
dozens of lines on top of each other."""

from __future__ import annotations

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st
from toysae.plotting.curves import points, step_axis

from ..lazy import pd


def curves_by_init(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """mmcs against steps at the best sparsity: rows of panels by case and recipe, a line an init.

    Returns:
        The figure, and a frame with one row per case, arm, ratio and step: `mmcs` with its
        `_half_width` (95 % Student-t over world seeds) and `_n`, and the random `floor`.
    """
    table, column = sw.members(results)
    chosen = sw.best(table)
    by = ["case", *sw.ARM, column, "step"]
    drawn = points(results, chosen, [*by[:-1], "floor", "world_seed", "sae_seed", "diverged"])
    frame = sw.interval_frame(drawn, by, ["mmcs"])
    pairs = sorted(set(zip(table["case"], table["recipe"], strict=True)))
    rows = {pair: "\n".join([*pair, "mmcs"]).replace(", ", "\n") for pair in pairs}
    columns, inits = sw.column_titles(table, column), sorted(table["init"].unique())
    with st.style():
        fig, panels = st.panel_grid(rows, columns, (2.9, 1.8), "step (0, then log)", fontsize=8)
        for ax, (case, recipe), at in panels:
            here = (frame["case"] == case) & (frame["recipe"] == recipe)
            _panel(ax, frame[here & (frame[column] == at)], frame, inits)
        title = "mmcs over training by initialisation, at the best sparsity"
        return st.finish(fig, results, title, sw.remarks(table, chosen)), frame


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
        st.mean_curve(ax, x, y, half, 0.1, label=init, linewidth=1.1, **look)
    step_axis(ax, part, frame)
