"""Figures of a middling MMCS: are all features half found, or some found and some missed?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from toysae.plotting import style as st
from toysae.recovery import over_seeds

BINS = np.linspace(0, 1, 41)


def polarisation_map(
    table: pd.DataFrame, causes: Mapping[str, str], title: str, remarks: str
) -> tuple[Figure, pd.DataFrame]:
    """Polarisation against the position of mmcs between the floor and 1: a panel for each recipe, a
    line for each cause, a point for each of its levels.

    Args:
        table: `recipe`, `cause`, `level`, `world_seed`, `position`, `polarisation`.
        causes: their names in the figure.
        title: of the figure.
        remarks: the footnote.

    Returns:
        The figure, and its frame: for each recipe, cause and level the mean `position` and
        `polarisation` with `half_width` (95 % Student-t over worlds) and `n`.
    """
    by = ["recipe", "cause", "level"]
    frame = over_seeds(table, by, "polarisation").rename(columns={"mean": "polarisation"})
    frame = frame.merge(table.groupby(by)["position"].mean().reset_index(), on=by)
    recipes = list(dict.fromkeys(table["recipe"]))
    with st.style():
        fig, axes = st.canvas(1, len(recipes), (3.4, 3.0), extra=1.2)
        for ax, recipe in zip(axes[0], recipes, strict=True):
            ax.axvspan(0.2, 0.8, color="0.95", linewidth=0)
            for k, cause in enumerate(causes):
                line = frame[(frame["recipe"] == recipe) & (frame["cause"] == cause)]
                line = line.sort_values("level")
                look: dict[str, Any] = {"color": st.OKABE_ITO[k % 7], "marker": st.MARKERS[k]}
                look["linestyle"] = st.LINES[k % 5]
                ax.errorbar(
                    line["position"], line["polarisation"], yerr=line["half_width"],
                    label=causes[cause], capsize=1.5, elinewidth=0.7, linewidth=0.9, markersize=4,
                    **look,
                )  # fmt: skip
            ax.set(xlim=(0, 1), ylim=(-0.05, 1.15), title=recipe,
                   xlabel="mmcs: 0 at the random floor, 1 at the truth")  # fmt: skip
        axes[0, 0].set_ylabel("polarisation\n0: all partly, 1: some fully, others not")
        st.footnote(fig, remarks)
        return st.legend(fig, title), frame


def middling_histograms(
    table: pd.DataFrame,
    counts: pd.DataFrame,
    causes: Mapping[str, str],
    title: str,
    remarks: str,
) -> tuple[Figure, pd.DataFrame]:
    """MCS of the true features at the level of each cause where mmcs is nearest to halfway: a row
    for each recipe, a column for each cause.

    Args:
        table: as in :func:`polarisation_map`, with `mmcs` and `floor`.
        counts: `recipe`, `cause`, `level`, `low`, `count`: features of all worlds by bin of MCS.
        causes: their names in the figure.
        title: of the figure.
        remarks: the footnote.

    Returns:
        The figure, and the counts that are drawn.
    """
    recipes = list(dict.fromkeys(table["recipe"]))
    columns = ["position", "polarisation", "mmcs", "floor"]
    means = table.groupby(["recipe", "cause", "level"])[columns].mean()
    drawn = []
    with st.style():
        fig, axes = st.canvas(len(recipes), len(causes), (1.45, 1.35), extra=0.9)
        for row, recipe in zip(axes, recipes, strict=True):
            for k, (ax, cause) in enumerate(zip(row, causes, strict=True)):
                here = means.loc[recipe, cause]
                level = (here["position"] - 0.5).abs().idxmin()
                part = counts[
                    (counts["recipe"] == recipe)
                    & (counts["cause"] == cause)
                    & (counts["level"] == level)
                ]
                drawn.append(part)
                share = part["count"].to_numpy() / part["count"].sum()
                color = st.OKABE_ITO[k % 7]
                ax.stairs(share, BINS, fill=True, color=color, alpha=0.5, linewidth=0)
                ax.stairs(share, BINS, color=color, linewidth=0.8)
                ax.axvline(here.loc[level, "floor"], **st.FLOOR_LINE, label="random floor")
                ax.axvline(here.loc[level, "mmcs"], color="black", linewidth=1, label="mmcs")
                polarised = st.share(float(here.loc[level, "polarisation"]))
                ax.set_title(f"{causes[cause]}\nat {level:g}, P = {polarised}", fontsize=7)
                ax.set(xlim=(0, 1.02), ylim=(0, 1.1 * share.max()), yticks=[])
                ax.set_xticks([0, 0.5, 0.9], ["0", ".5", ".9"])
            row[0].set_ylabel(f"{recipe}\nfeatures")
        for ax in axes[-1]:
            ax.set_xlabel("MCS")
        st.footnote(fig, remarks)
        return st.legend(fig, title), pd.concat(drawn, ignore_index=True)
