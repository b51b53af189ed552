"""MCS against how often a feature fires: are rare features the ones that are missed?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st

from ..lazy import pd

N_RANKS = 24  # rank bins, at most
MCS_EDGES = np.linspace(0.0, 1.0, 21)


def mcs_by_frequency(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """For each arm and ratio, the spread of MCS at each frequency rank (1 fires most often).

    Returns:
        The figure, and a frame with one row per case, arm, ratio, rank bin and MCS bin that
        holds a feature: `share` of the rank bin's features there, and of the rank bin the
        `median_mcs`, mean `feature_freq`, mean `firings_seen` and `n` features over all seeds.
    """
    table, column = sw.members(results)
    chosen = sw.best(table)
    by = ["case", *sw.ARM, column]
    frame = _binned(_points(results, chosen, by), by)
    rows, columns = st.arm_rows(table, "MCS"), sw.column_titles(table, column)
    with st.style():
        fig, panels = st.panel_grid(
            rows, columns, (2.1, 1.4), "frequency rank (1 = most often)", pad=12
        )
        for ax, (case, arm), at in panels:
            here = frame[(frame["case"] == case) & (frame[column] == at)]
            _panel(ax, sw.of_arm(here, arm), arm)
        title = "MCS by frequency rank at the best sparsity (shade: features; line: median)"
        return st.finish(fig, results, title, sw.choice_remark(chosen)), frame


def _points(results: sw.Results, chosen: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One row per member and feature."""
    out = []
    for rows, arrays in sw.with_arrays(results, chosen):
        for row in rows.to_dict("records"):
            r = row["row"]
            freq = np.asarray(arrays["feature_freq"][r], float)
            rank = np.argsort(np.argsort(-freq, kind="stable"), kind="stable") + 1
            values = {"mcs": arrays["mcs"][r], "firings_seen": arrays["firings_seen"][r]}
            head = {c: row[c] for c in by}
            out.append(pd.DataFrame({**head, "rank": rank, "feature_freq": freq, **values}))
    names = [*by, "rank", "feature_freq", "mcs", "firings_seen"]
    return pd.concat(out, ignore_index=True) if out else pd.DataFrame(columns=names)


def _binned(points: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    out = []
    for key, part in points.dropna(subset=["mcs"]).groupby(by):
        last = int(part["rank"].max())
        edges = np.unique(np.linspace(1, last + 1, min(N_RANKS, last) + 1).round().astype(int))
        for low, high in pairwise(edges):
            inside = part[(part["rank"] >= low) & (part["rank"] < high)]
            if inside.empty:
                continue
            head = dict(zip(by, key, strict=True)) | {
                "rank_low": low,
                "rank_high": high - 1,
                "n": len(inside),
                "median_mcs": inside["mcs"].median(),
                "feature_freq": inside["feature_freq"].mean(),
                "firings_seen": inside["firings_seen"].mean(),
            }
            counts, _ = np.histogram(np.clip(inside["mcs"], 0.0, 1.0), MCS_EDGES)
            for k in np.flatnonzero(counts):
                cell = {"mcs_low": MCS_EDGES[k], "mcs_high": MCS_EDGES[k + 1]}
                out.append(head | cell | {"share": counts[k] / len(inside)})
    names = ["rank_low", "rank_high", "n", "median_mcs", "feature_freq", "firings_seen"]
    return pd.DataFrame(out, columns=[*by, *names, "mcs_low", "mcs_high", "share"])


def _panel(ax: Axes, here: pd.DataFrame, arm: tuple[str, str]) -> None:
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 0.9], ["0", ".5", ".9"])
    if here.empty:
        return st.note(ax, "every run diverged")
    bins = here.drop_duplicates("rank_low").sort_values("rank_low")
    edges = np.array([*bins["rank_low"], bins["rank_high"].iloc[-1] + 1]) - 0.5
    image = np.zeros((len(MCS_EDGES) - 1, len(bins)))
    x = np.searchsorted(bins["rank_low"].to_numpy(), here["rank_low"].to_numpy())
    y = np.rint(here["mcs_low"].to_numpy() * (len(MCS_EDGES) - 1)).astype(int)
    image[y, x] = here["share"]
    color = st.arm_style(*arm)["color"]
    ax.pcolormesh(edges, MCS_EDGES, image, cmap=_fade(color), vmin=0, vmax=1, rasterized=True)
    ax.axhline(0.9, **st.THRESHOLD)
    middle = (bins["rank_low"] + bins["rank_high"]) / 2
    dashes = "--" if arm[1] in sw.CEILINGS else "-"
    ax.plot(middle, bins["median_mcs"], color="black", linewidth=1.0, linestyle=dashes)
    ends = bins["feature_freq"].to_numpy(float)[[0, -1]]
    seen = st.short_number(float(bins["firings_seen"].iloc[-1]))
    text = f"fire at {ends[0]:.2g} to {ends[1]:.2g}, rarest seen {seen}×"
    if abs(ends[0] - ends[1]) <= 0.01 * ends.max():
        text = f"all fire at {ends[0]:.2g}, seen {seen}×"
    ax.text(0.5, 1.02, text, transform=ax.transAxes, ha="center", va="bottom", fontsize=6.5)


def _fade(color: str) -> ListedColormap:
    steps = np.linspace(0, 1, 64)[:, None] ** 0.6
    return ListedColormap(1 - steps * (1 - np.array(to_rgb(color))))
