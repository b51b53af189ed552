"""Figures of untying the encoder: curves over a pair's cosine, and maps of paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from toysae.plotting import style as st
from toysae.recovery import over_seeds, paired

SCORES = {
    "mmcs": "mmcs",
    "mcs_above_0.95": "MCS > .95, share",
    "f1": "F1, best latent",
    "l0_ratio": "L0 / true L0",
}
ORTHOGONAL = "one found, the other orthogonalised"
MERGED = "pair merged into its mean"
_REFERENCE = {"color": "0.55", "linewidth": 0.9, "zorder": 1}


def orthogonalised(rho: np.ndarray) -> np.ndarray:
    """mmcs if one latent of each pair is a, and the other the part of b that is orthogonal to a.

    The second feature's best cosine is then sqrt(1 - rho^2), or rho to a's latent if larger.
    """
    return (1 + np.maximum(rho, np.sqrt(1 - rho**2))) / 2


def merged(rho: np.ndarray) -> np.ndarray:
    """mmcs if one latent stands for both features of a pair, at their mean direction."""
    return np.sqrt((1 + rho) / 2)


def tying_curves(
    table: pd.DataFrame, columns: Mapping[float, str], title: str, remarks: str
) -> tuple[Figure, pd.DataFrame]:
    """Scores over rho: a row for each score, a column for each co-occurrence, a line for each arm.

    Args:
        table: the chosen runs: `arm`, `rho`, `co_occurrence`, `world_seed`, the scores.
        columns: the name of each co-occurrence in the figure.
        title: of the figure.
        remarks: the footnote.

    Returns:
        The figure, and its frame: `score`, `arm`, `rho`, `co_occurrence`, `mean`, `half_width`
        (95 % Student-t over worlds), `n`.
    """
    by = ["arm", "rho", "co_occurrence"]
    frame = pd.concat([over_seeds(table, by, s).assign(score=s) for s in SCORES])
    arms = list(dict.fromkeys(table["arm"]))
    rho = np.linspace(table["rho"].min(), table["rho"].max(), 200)
    with st.style():
        fig, axes = st.canvas(len(SCORES), len(columns), (1.75, 1.45), extra=1.2)
        for i, (score, label) in enumerate(SCORES.items()):
            shown = frame[frame["score"] == score]
            for ax, (co, name) in zip(axes[i], columns.items(), strict=True):
                if score == "mmcs":
                    ax.plot(rho, orthogonalised(rho), "--", label=ORTHOGONAL, **_REFERENCE)
                    ax.plot(rho, merged(rho), ":", label=MERGED, **_REFERENCE)
                    ax.set_title(name)
                _lines(ax, shown[shown["co_occurrence"] == co], arms)
                _limits(ax, shown)
                if co != next(iter(columns)):
                    ax.set_yticklabels([])
                if i < len(SCORES) - 1:
                    ax.set_xticklabels([])
            axes[i, 0].set_ylabel(label)
        for ax in axes[-1]:
            ax.set_xlabel("cosine ρ of a pair")
        st.footnote(fig, remarks)
        return st.legend(fig, title), frame.reset_index(drop=True)


def _lines(ax: Axes, part: pd.DataFrame, arms: Sequence[str]) -> None:
    for k, arm in enumerate(arms):
        line = part[part["arm"] == arm].sort_values("rho")
        aside = 0.012 * (k - (len(arms) - 1) / 2)  # or bars hide each other
        look: dict[str, Any] = {"color": st.OKABE_ITO[k], "marker": st.MARKERS[k], "markersize": 3}
        ax.errorbar(
            line["rho"] + aside, line["mean"], yerr=line["half_width"], label=arm,
            linestyle=st.LINES[k], capsize=1.5, elinewidth=0.8, linewidth=1.1, **look,
        )  # fmt: skip


def _limits(ax: Axes, shown: pd.DataFrame) -> None:
    """Sets the y axis that all panels of a score share, by the range of its means."""
    low, high = shown["mean"].min(), shown["mean"].max()
    edge = 0.08 * max(high - low, 0.1)
    ax.set_ylim(low - edge, high + edge)
    ax.set_xticks(np.sort(shown["rho"].unique())[::2])


def tying_differences(
    table: pd.DataFrame,
    arm: str,
    others: Sequence[str],
    scores: Mapping[str, str],
    rows: Mapping[float, str],
    title: str,
    remarks: str,
) -> tuple[Figure, pd.DataFrame]:
    """Maps over rho and co-occurrence of how much better `arm` does than each other arm.

    Args:
        table: the chosen runs: `arm`, `spread`, `rho`, `co_occurrence`, `world_seed`, the scores.
        arm: from which the others are subtracted, world by world.
        others: arms.
        scores: their names in the figure; there is a column of maps for each score and other arm.
        rows: the name of each spread of the magnitudes, which has a row of maps.
        title: of the figure.
        remarks: the footnote.

    Returns:
        The figure, and its frame: `score`, `other`, `spread`, `rho`, `co_occurrence`, `mean`,
        `half_width` (95 % Student-t over worlds of the paired difference), `n`, `p_value`,
        `resolvable`; see :func:`toysae.recovery.paired`.
    """
    by = ["spread", "rho", "co_occurrence"]
    frame = pd.concat(
        [
            paired(table, by, "arm", arm, other, score).assign(score=score, other=other)
            for score in scores
            for other in others
        ],
        ignore_index=True,
    )
    size = (0.5 * table["rho"].nunique() + 0.9, 0.33 * table["co_occurrence"].nunique() + 0.7)
    panels = [(score, other) for score in scores for other in others]
    bound = max(float(frame["mean"].abs().max()), 1e-3)
    with st.style():
        fig, axes = st.canvas(len(rows), len(panels), size, extra=0.9)
        for drawn_row, (spread, name) in zip(axes, rows.items(), strict=True):
            for ax, (score, other) in zip(drawn_row, panels, strict=True):
                part = frame[(frame["score"] == score) & (frame["other"] == other)]
                image = _map(ax, part[part["spread"] == spread], bound)
                if spread == next(iter(rows)):
                    ax.set_title(f"{scores[score]}\n{arm} − {other}")
                if spread == list(rows)[-1]:
                    ax.set_xlabel("cosine ρ of a pair")
            drawn_row[0].set_ylabel(f"{name}\nco-occurrence")
        bar = fig.colorbar(image, ax=axes, shrink=0.6, pad=0.01)
        bar.ax.tick_params(labelsize=7)
        bar.set_label("paired difference", fontsize=7)
        fig.suptitle(title)
        return st.footnote(fig, remarks), frame


def _map(ax: Axes, part: pd.DataFrame, bound: float) -> Any:
    shape = {"index": "co_occurrence", "columns": "rho"}
    mean = part.pivot(values="mean", **shape).sort_index().sort_index(axis=1)
    half = part.pivot(values="half_width", **shape).sort_index().sort_index(axis=1).to_numpy()
    values = mean.to_numpy(float)
    drawn = ax.imshow(
        values, origin="lower", aspect="auto", cmap="PuOr_r",
        norm=TwoSlopeNorm(0, -bound, bound),
    )  # fmt: skip
    for y, x in np.argwhere(np.isfinite(values)):
        dark = sum(drawn.to_rgba(values[y, x])[:3]) < 1.3
        middle, width = round(float(values[y, x]), 2) + 0.0, float(half[y, x])  # no -.00
        text = st.share(middle) + (f"\n±{st.share(width)}" if np.isfinite(width) else "")
        ax.text(x, y, text, ha="center", va="center", fontsize=5.5, color="w" if dark else "k",
                linespacing=0.95)  # fmt: skip
    ax.spines[:].set_visible(False)
    ax.set_xticks(range(mean.shape[1]), [f"{v:g}" for v in mean.columns])
    ax.set_yticks(range(mean.shape[0]), [f"{v:g}" for v in mean.index])
    return drawn
