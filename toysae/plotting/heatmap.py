"""Heat maps over the two things one must choose without the truth: sparsity and dictionary size."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from toysae.plotting import style as st
from toysae.plotting.rows import ARM, Results, members, with_case

from ..lazy import pd

_PANELS = {
    "mmcs": "mmcs",
    "mmcs_next_size": "mmcs with the next larger SAE",
    "dead_fraction": "dead latents, share",
    "mse": "mse",
}
_UP = "d_sae / n_features"


def sparsity_by_size(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Mean over seeds of mmcs, dead latents and mse, sparsity across and d_sae / n_features up.

    Returns:
        The figure, and a frame with one row per case, arm, ratio, size and sparsity: the means of
        the runs that did not diverge, `n` of them, and `n_diverged` (hatched in the figure:
        dense where all diverged, sparse where some did).
    """
    table, _ = members(results)
    table = with_case(table, ["world", "ratio", "size"])
    values = [
        v for v in _PANELS if v in table and (v != "mmcs_next_size" or table[v].notna().any())
    ]
    by = ["case", *ARM, "ratio", "size", "sparsity"]
    alive = table.assign(**{v: table[v].where(~table["diverged"]) for v in values})
    cells = alive.groupby(by)
    frame = cells[values].mean()
    frame["n"] = (~alive["diverged"]).groupby([alive[c] for c in by]).sum()
    frame["n_diverged"] = cells["diverged"].sum()
    frame = frame.reset_index()
    with st.style():
        rows = list(frame.groupby(["case", *ARM, "ratio"]))
        cells = (max(1, frame["sparsity"].nunique()), max(1, frame["size"].nunique()))
        panel = (max(2.3, 0.36 * cells[0] + 0.9), max(1.25, 0.26 * cells[1] + 0.7))
        labels = {
            i: st.row_label(str(case), (str(recipe), str(init)), f"ratio {ratio:g}\n{_UP}")
            for i, ((case, recipe, init, ratio), _) in enumerate(rows)
        }
        columns = {value: _PANELS[value] for value in values}
        fig, panels = st.panel_grid(labels, columns, panel, "sparsity")
        for ax, i, value in panels:
            _map(fig, ax, rows[i][1], frame, value)
        return st.finish(fig, results, "sparsity by dictionary size (hatched: diverged)"), frame


def _map(fig: Figure, ax: Axes, part: pd.DataFrame, frame: pd.DataFrame, value: str) -> None:
    grid = part.pivot(index="size", columns="sparsity", values=value).sort_index()
    image = grid.to_numpy(float)
    norm = _norm(frame[value], value)
    if value == "mse":
        image = np.where(image > 0, image, np.nan)
    colours = "viridis" if value.startswith("mmcs") else "cividis_r"
    drawn = ax.imshow(image, origin="lower", aspect="auto", norm=norm, cmap=colours)
    fig.colorbar(drawn, ax=ax, shrink=0.9, pad=0.02)
    n_sizes, n_l1 = image.shape
    ax.spines[:].set_visible(False)
    ax.set_yticks(range(n_sizes), [f"{v:g}" for v in grid.index])
    every = max(1, n_l1 // 10 if n_l1 > 12 else 1)
    ticks = range(0, n_l1, every)
    labels = [st.short_number(float(grid.columns[t])) for t in ticks]
    crowded = n_l1 > 5
    ax.set_xticks(ticks, labels, rotation=45 if crowded else 0, ha="right" if crowded else "center")
    if crowded:
        ax.tick_params(axis="x", pad=1)
    shape = {"index": "size", "columns": "sparsity"}
    n = part.pivot(values="n", **shape).sort_index().fillna(0).to_numpy()
    diverged = part.pivot(values="n_diverged", **shape).sort_index().fillna(0).to_numpy()
    for y, x in np.argwhere(diverged > 0):
        hatch = "xxxx" if n[y, x] == 0 else "///"
        kind = {"fill": False, "edgecolor": "0.45", "linewidth": 0}
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, hatch=hatch, **kind))
    if n_l1 > 12 or n_sizes > 10:
        return
    for y, x in np.argwhere(np.isfinite(image)):
        dark = sum(drawn.to_rgba(image[y, x])[:3]) < 1.5
        text, size = st.share(float(image[y, x])), 6
        if value == "mse":
            text, size = f"{image[y, x]:.1e}".replace("e-0", "e-"), 5
        ax.text(x, y, text, ha="center", va="center", fontsize=size, color="w" if dark else "k")


def _norm(values: pd.Series, value: str) -> Normalize:
    if value != "mse":
        return Normalize(0, 1)
    positive = values[(values > 0) & np.isfinite(values)]
    if positive.empty:
        return LogNorm(1e-3, 1)
    return LogNorm(positive.min(), max(positive.max(), positive.min() * 1.01))
