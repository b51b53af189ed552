"""Recovery against firings per feature, compared with the same SAE started at the truth: is what is
missed not identifiable, not wanted by the objective, or not reached by the optimiser?"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st
from toysae.recovery.minima import OBJECTIVE, OPTIMISER, RECOVERED, verdicts

from ..lazy import pd

_SCORE = "mcs_above_0.9"
MARGIN = 0.01
IDENTIFIABILITY = "identifiability"
FAULTS: dict[str, dict[str, Any]] = {
    RECOVERED: {"color": "#009E73", "label": "recovered (share MCS > .9 at least .9)"},
    IDENTIFIABILITY: {"color": "#E69F00", "hatch": "....",
                      "label": "identifiability: loss within 1 % of the truth's"},
    OBJECTIVE: {"color": "#CC79A7", "hatch": "\\\\\\\\",
                "label": "objective: loss below the truth's"},
    OPTIMISER: {"color": "#0072B2", "hatch": "////",
                "label": "optimiser: loss above the truth's"},
}  # fmt: skip


def undertraining(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """Share of features with MCS > .9 over firings a feature at the best sparsity, a row of panels
    for each case and recipe, a column for each ratio; below each, the share of SAEs by fault.

    Faults are :func:`toysae.recovery.verdicts` at a margin of 1 % of the loss. An SAE that misses
    features at a loss within the margin of the truth's counts as "identifiability": data and
    objective do not say which of the two is right. There is no bar where no SAE of the same world
    and sparsity was started or held at the truth. Only the dictionary size with most values
    of firings per feature is shown.

    Returns:
        The figure, and a frame with one row per case, arm, ratio and firings per feature: the
        score with its `_half_width` (95 % Student-t over world seeds) and `_n`; and the share of
        each of `FAULTS` and `n_judged` SAEs, empty for SAEs that start at the truth.
    """
    table, _ = sw.members(results)
    case = sw.case_without(table, "firings_per_feature")
    table = table.assign(firings=_firings(table), case=case)
    varied = table.groupby("size")["firings"].nunique()
    table = table[table["size"] == varied.idxmax()]
    chosen = sw.best(table)
    by = ["case", *sw.ARM, "ratio", "firings"]
    frame = sw.interval_frame(chosen, by, [_SCORE]).drop(columns="floor", errors="ignore")
    frame = frame.merge(_faults(table, chosen, by), on=by, how="left")
    rows = [*dict.fromkeys((c, a[0]) for c in table["case"].unique() for a in sw.arms(table))]
    ratios = sorted(table["ratio"].unique())
    with st.style():
        fig, axes = st.canvas(2 * len(rows), len(ratios), (2.5, 1.45), 1.4)
        for i, (case, recipe) in enumerate(rows):
            for j, ratio in enumerate(ratios):
                keep = (frame["case"] == case) & (frame["recipe"] == recipe)
                here = frame[keep & (frame["ratio"] == ratio)]
                firings = np.sort(table["firings"].unique())
                _lines(axes[2 * i, j], here, firings)
                _bars(axes[2 * i + 1, j], here, firings)
                axes[2 * i, j].set_title(f"ratio {ratio:g}" if i == 0 else "")
                last = i == len(rows) - 1
                axes[2 * i + 1, j].set_xlabel("firings per feature" if last else "")
            head = f"{case}\n{recipe}".replace(", ", "\n")
            axes[2 * i, 0].set_ylabel(f"{head}\nshare MCS > .9", fontsize=7)
            axes[2 * i + 1, 0].set_ylabel("share of SAEs", fontsize=7)
        title = "recovery by firings per feature at the best sparsity, and what is at fault"
        return st.finish(fig, results, title, sw.remarks(table, chosen)), frame


def _firings(table: pd.DataFrame) -> pd.Series:
    if "firings_per_feature" in table:
        return table["firings_per_feature"]
    return (table["n_steps"] * table["batch_size"] * table["true_l0"] / table["n_features"]).round()


def _faults(table: pd.DataFrame, chosen: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The share of chosen SAEs with each fault among rows with the same values of `by`."""
    columns = [*by, *FAULTS, "n_judged"]
    if "eval_loss" not in table or not table["init"].isin(sw.CEILINGS).any():
        return pd.DataFrame(columns=columns)
    judged = verdicts(table, MARGIN)
    judged = judged.loc[judged.index.intersection(chosen.index)]
    tie = (judged["verdict"] == OBJECTIVE) & (judged["loss_gap"] >= -MARGIN)
    fault = judged["verdict"].mask(tie, IDENTIFIABILITY)
    known = judged[fault.notna()]
    shares = {name: (fault == name)[known.index].groupby([known[c] for c in by]).mean()
              for name in FAULTS}  # fmt: skip
    return pd.DataFrame(shares).assign(n_judged=known.groupby(by).size()).reset_index()[columns]


def _lines(ax: Axes, here: pd.DataFrame, firings: np.ndarray) -> None:
    ax.set_ylim(-0.05, 1.08)
    _places(ax, firings, labels=False)
    if here.empty:
        return st.note(ax, "every run diverged")
    for arm in sw.arms(here):
        line = sw.of_arm(here, arm).sort_values("firings")
        x = np.searchsorted(firings, line["firings"])
        error = line[f"{_SCORE}_half_width"].to_numpy(float)
        st.arm_bars(ax, x, line[_SCORE], error, arm)


def _bars(ax: Axes, here: pd.DataFrame, firings: np.ndarray) -> None:
    ax.set_ylim(0, 1)
    _places(ax, firings, labels=True)
    judged = here[here["n_judged"].fillna(0) > 0]
    if judged.empty:
        return st.note(ax, "no truth to compare with")
    x = np.searchsorted(firings, judged["firings"])
    bottom = np.zeros(len(judged))
    for name, look in FAULTS.items():
        share = judged[name].to_numpy(float)
        ax.bar(x, share, 0.7, bottom=bottom, edgecolor="white", linewidth=0.4, **look)
        bottom = bottom + share


def _places(ax: Axes, firings: np.ndarray, labels: bool) -> None:
    """Makes an x axis with a place for each number of firings, the same in both kinds of panel."""
    names = [st.short_number(float(value)) for value in firings] if labels else [""] * len(firings)
    ax.set_xticks(range(len(firings)), names)
    ax.set_xlim(-0.6, len(firings) - 0.4)
