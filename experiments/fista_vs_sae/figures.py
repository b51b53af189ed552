"""Figures of an encoder ladder: loss and recovery over L0, and the parts of the objective."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from toysae.plotting import style as st
from toysae.recovery import over_seeds

SCORES = {
    "mse": "‖x − x̂‖² per sample",
    "ev": "EV",
    "mmcs": "mmcs",
    "mcs_above_0.9": "MCS > .9, share",
    "mcc": "MCC, signed",
}
TRUTH = "true dictionary, FISTA codes"
GAPS = {"dictionary": "dictionary error", "amortisation": "amortisation gap"}
_COLORS = {"dictionary": st.OKABE_ITO[4], "amortisation": st.OKABE_ITO[0]}


def frontier(table: pd.DataFrame, remarks: str) -> tuple[Figure, pd.DataFrame]:
    """Loss and recovery against L0: a row for each ratio, a line for each rung, a point an L1.

    Args:
        table: one row an SAE: `ratio`, `rung`, `l1_coeff`, `world_seed`, `diverged`, `l0`,
            `true_l0` and the scores, NaN where a rung has none.
        remarks: the footnote.

    Returns:
        The figure, and its frame: `score`, `ratio`, `rung`, `l1_coeff`, `l0`, `mean`,
        `half_width` (95 % Student-t over worlds), `n`.
    """
    by = ["ratio", "rung", "l1_coeff"]
    l0 = over_seeds(table, by, "l0").rename(columns={"mean": "l0"})[[*by, "l0"]]
    parts = [over_seeds(table, by, s).merge(l0, on=by).assign(score=s) for s in SCORES]
    frame = pd.concat(parts, ignore_index=True)
    ratios = sorted(table["ratio"].unique())
    rungs = list(dict.fromkeys(table["rung"]))
    with st.style():
        fig, axes = st.canvas(len(ratios), len(SCORES), (1.95, 1.75), extra=0.9)
        for row, ratio in zip(axes, ratios, strict=True):
            true_l0 = table.loc[table["ratio"] == ratio, "true_l0"].mean()
            for ax, (score, label) in zip(row, SCORES.items(), strict=True):
                part = frame[(frame["ratio"] == ratio) & (frame["score"] == score)]
                ax.axvline(true_l0, **st.THRESHOLD)
                for k, rung in enumerate(rungs):
                    _line(ax, part[part["rung"] == rung], rung, k)
                _l0_axis(ax, part, score)
                ax.set_ylabel(label, labelpad=1)
                if ratio == ratios[-1]:
                    ax.set_xlabel("L0")
            row[0].set_title(f"ratio {ratio:g}", loc="left")
        st.footnote(fig, remarks + "; grey line: true L0")
        return st.legend(fig, "loss and recovery over L0, by encoder"), frame


def _look(k: int) -> dict[str, Any]:
    """Colour, marker and line of the rung number `k`."""
    return {"color": st.OKABE_ITO[k % 7], "marker": st.MARKERS[k], "linestyle": st.LINES[k % 5]}


def _line(ax: Axes, part: pd.DataFrame, name: str, k: int) -> None:
    part = part[(part["l0"] > 0) & part["mean"].notna()].sort_values("l1_coeff")
    if part.empty:
        return
    ax.errorbar(
        part["l0"], part["mean"], yerr=part["half_width"], label=name, capsize=1.5,
        elinewidth=0.7, linewidth=1.1, markersize=3.5, **_look(k),
    )  # fmt: skip


def _l0_axis(ax: Axes, part: pd.DataFrame, score: str) -> None:
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    if score == "mse":
        ax.set_yscale("log")
        return
    low, high = part["mean"].min(), part["mean"].max()
    edge = 0.08 * max(high - low, 0.05)
    ax.set_ylim(low - edge, min(high + edge, 1.02))


def at_true_l0(equal: pd.DataFrame, remarks: str) -> tuple[Figure, pd.DataFrame]:
    """Each rung's scores where its L0 is the truth's.

    Args:
        equal: one row per `ratio`, `rung` and `world_seed`, with the scores.
        remarks: the footnote.

    Returns:
        The figure, and its frame: `score`, `ratio`, `rung`, `mean`, `half_width`, `n`.
    """
    frame = pd.concat(
        [over_seeds(equal, ["ratio", "rung"], score).assign(score=score) for score in SCORES],
        ignore_index=True,
    )
    rungs, ratios = list(dict.fromkeys(equal["rung"])), sorted(equal["ratio"].unique())
    with st.style():
        fig, axes = st.canvas(1, len(SCORES), (1.9, 2.1), extra=1.0)
        for ax, (score, label) in zip(axes[0], SCORES.items(), strict=True):
            has = equal.loc[equal[score].notna(), "rung"].unique()
            shown = [rung for rung in rungs if rung in has]
            for k, ratio in enumerate(ratios):
                part = frame[(frame["score"] == score) & (frame["ratio"] == ratio)]
                part = part.set_index("rung").reindex(shown)
                place = np.arange(len(shown)) + 0.12 * (k - (len(ratios) - 1) / 2)
                ax.errorbar(
                    place, part["mean"], yerr=part["half_width"], label=f"ratio {ratio:g}",
                    capsize=2, elinewidth=0.8, color=st.OKABE_ITO[k], marker=st.MARKERS[k],
                    linestyle="none",
                )  # fmt: skip
            if score == "mse":
                ax.set_yscale("log")
            ax.set_ylabel(label, labelpad=1)
            _rung_axis(ax, shown)
        st.footnote(fig, remarks)
        return st.legend(fig, "each encoder at the true L0"), frame


def gaps(table: pd.DataFrame, remarks: str) -> tuple[Figure, pd.DataFrame]:
    """Stacked dictionary error and amortisation gap of each rung: a row for each ratio, a column
    for each L1.

    Args:
        table: one row an SAE: `ratio`, `rung`, `l1_coeff`, `world_seed`, `diverged`, and the
            fields of :class:`toysae.recovery.amortisation.Gaps`.
        remarks: the footnote.

    Returns:
        The figure, and its frame: `gap`, `ratio`, `rung`, `l1_coeff`, then `mean` and
        `half_width` (95 % Student-t over worlds) in per cent of the truth's objective, `n`.
    """
    by = ["ratio", "rung", "l1_coeff"]
    shares = table.assign(**{gap: 100 * table[gap] / table["truth"] for gap in GAPS})
    frame = pd.concat([over_seeds(shares, by, gap).assign(gap=gap) for gap in GAPS])
    rungs = list(dict.fromkeys(table["rung"]))
    ratios, l1s = sorted(table["ratio"].unique()), sorted(table["l1_coeff"].unique())
    with st.style():
        fig, axes = st.canvas(len(ratios), len(l1s), (1.75, 1.8), extra=1.0)
        for row, ratio in zip(axes, ratios, strict=True):
            for ax, l1 in zip(row, l1s, strict=True):
                here = frame[(frame["ratio"] == ratio) & (frame["l1_coeff"] == l1)]
                _stack(ax, here.pivot(index="rung", columns="gap").reindex(rungs))
                ax.set_title(f"ratio {ratio:g}, L1 {l1:g}")
                _rung_axis(ax, rungs)
                if ratio != ratios[-1]:
                    ax.set_xticklabels([])
            row[0].set_ylabel("% of the truth's objective")
        fig.legend(
            handles=[Patch(color=_COLORS[gap], label=label) for gap, label in GAPS.items()],
            loc="outside upper center", ncols=2, title_fontsize=9,
            title="objective beyond the true dictionary's best codes",
        )  # fmt: skip
        return st.footnote(fig, remarks), frame.reset_index(drop=True)


def _stack(ax: Axes, part: pd.DataFrame) -> None:
    """Draws bars on top of each other where both are positive; a negative one hangs from zero."""
    x, bottom = np.arange(len(part)), np.zeros(len(part))
    for k, gap in enumerate(GAPS):
        mean, half = (part[(v, gap)].to_numpy(float) for v in ("mean", "half_width"))
        start = np.where(mean > 0, bottom, 0.0)
        ax.bar(x, mean, bottom=start, width=0.7, color=_COLORS[gap])
        aside = 0.16 * (k - 0.5)  # or the two intervals hide each other
        bar = {"color": "k", "linestyle": "none", "elinewidth": 0.7, "capsize": 1.5}
        ax.errorbar(x + aside, start + mean, yerr=half, **bar)
        bottom = bottom + np.maximum(mean, 0)
    ax.axhline(0, color="k", linewidth=0.7)


def _rung_axis(ax: Axes, rungs: list[str]) -> None:
    names = ["truth" if rung == TRUTH else rung for rung in rungs]
    ax.set_xticks(range(len(rungs)), names, rotation=90, fontsize=7)
