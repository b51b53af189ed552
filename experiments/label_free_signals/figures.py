"""Figures of signals without truth against true recovery."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from toysae.plotting import style as st


def correlation_bars(
    frame: pd.DataFrame,
    signals: Mapping[str, str],
    tasks: Mapping[str, str],
    title: str,
    remarks: str,
) -> tuple[Figure, pd.DataFrame]:
    """Rank correlation with true mmcs, and regret: a row for each signal, a colour for each world,
    a column for each task and quantity.

    Args:
        frame: from :func:`toysae.recovery.label_free.rank_correlations`, with `task` and `world`.
        signals: their names in the figure, in the order of the rows.
        tasks: their names in the figure.
        title: of the figure.
        remarks: the footnote.

    Returns:
        The figure, and the frame.
    """
    worlds = list(dict.fromkeys(frame["world"]))
    kinds = (
        ("mean", "half_width", "rank correlation"),
        ("regret", "regret_half_width", "regret in mmcs"),
    )
    panels = [(task, *kind) for task in tasks for kind in kinds]
    place = {name: len(signals) - 1 - i for i, name in enumerate(signals)}
    with st.style():
        fig, axes = st.canvas(1, len(panels), (1.75, 0.34 * len(signals) + 0.4), extra=1.0)
        for ax, (task, value, width, label) in zip(axes[0], panels, strict=True):
            for k, world in enumerate(worlds):
                part = frame[(frame["task"] == task) & (frame["world"] == world)]
                aside = 0.2 * ((len(worlds) - 1) / 2 - k)
                y = part["signal"].map(place).to_numpy(float) + aside
                look: dict[str, Any] = {"color": st.OKABE_ITO[k % 7], "marker": st.MARKERS[k]}
                ax.errorbar(
                    part[value], y, xerr=part[width], label=world, linestyle="none",
                    capsize=1.5, elinewidth=0.8, markersize=3.5, **look,
                )  # fmt: skip
            ax.axvline(0, **st.THRESHOLD)
            ax.set_yticks(list(place.values()), list(signals.values()) if ax is axes[0, 0] else [])
            ax.set_ylim(-0.6, len(signals) - 0.4)
            ax.set_xlabel(label)
            ax.set_title(tasks[task] if value == "mean" else "")
            ax.set_xlim((-1.05, 1.05) if value == "mean" else (-0.02, None))
        st.footnote(fig, remarks)
        return st.legend(fig, title), frame


def signals_against_truth(
    table: pd.DataFrame,
    signals: Mapping[str, str],
    title: str,
    remarks: str,
) -> tuple[Figure, pd.DataFrame]:
    """Each SAE's signals against its true mmcs: a row for each world, a column for each signal, a
    colour for each size.

    Args:
        table: one row an SAE: `world`, `size`, `l1_coeff`, `mmcs` and the signals.
        signals: their names in the figure.
        title: of the figure.
        remarks: the footnote.

    Returns:
        The figure, and the columns that it shows.
    """
    worlds, sizes = list(dict.fromkeys(table["world"])), np.sort(table["size"].unique())
    with st.style():
        fig, axes = st.canvas(len(worlds), len(signals), (1.4, 1.35), extra=1.0)
        for row, world in zip(axes, worlds, strict=True):
            here = table[table["world"] == world]
            for ax, (signal, label) in zip(row, signals.items(), strict=True):
                for k, size in enumerate(sizes):
                    part = here[here["size"] == size]
                    ax.plot(
                        part[signal], part["mmcs"], st.MARKERS[k], markersize=2, alpha=0.6,
                        color=st.OKABE_ITO[k % 7], markeredgewidth=0,
                        label=f"d_sae / n_features {size:g}",
                    )  # fmt: skip
                ax.set_ylim(here["mmcs"].min() - 0.03, 1.03)
                ax.locator_params(axis="x", nbins=3)
                if ax is not row[0]:
                    ax.set_yticklabels([])
                if world == worlds[-1]:
                    ax.set_xlabel(fill(label, 18))
            row[0].set_ylabel(f"{world}\ntrue mmcs")
        st.footnote(fig, remarks)
        columns = ["world", "world_seed", "sae_seed", "size", "l1_coeff", "mmcs", *signals]
        return st.legend(fig, title), table[columns]
