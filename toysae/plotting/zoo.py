"""Many recipes at matched L0: scores, MCS histograms, and recovery against L0.

Each recipe is shown at the point of its grid whose L0 is nearest the truth, chosen on the *other*
world seeds without regard to recovery, so that no recipe gains by firing more latents than there
are features.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st
from toysae.plotting.frontier import l0_axis, l0_curve, l0_limits
from toysae.plotting.histograms import filled_bins
from toysae.plotting.rows import interval_frame
from toysae.recovery.mcs import EDGES
from toysae.recovery.selection import best_coefficient

from ..lazy import pd

_SCORES = {
    "mcc": "mcc",
    "mcc_abs": "mcc by |cos|",
    "mcs_above_0.9": "share MCS > .9",
    "ev": "EV",
    "l0_ratio": "L0 / true L0",
}


def at_true_l0(table: pd.DataFrame) -> pd.DataFrame:
    """The members at the coefficient whose L0 is nearest the truth on the other world seeds,
    without those that diverged."""
    with np.errstate(divide="ignore"):
        table = table.assign(l0_fit=-np.abs(np.log(table["l0"] / table["true_l0"])))
    chosen = best_coefficient(table, by=sw.CELL, score="l0_fit", l0_factor=np.inf)
    return chosen[~chosen["diverged"] & chosen["mmcs"].notna()]


def scores_by_recipe(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """Scores at the true L0: a line for each recipe, five panels for each world.

    Returns:
        The figure, and a frame with one row per case and arm: each score with its
        `_half_width` (95 % Student-t over world seeds) and `_n`, and the random `floor`.
    """
    table, frame, order, cases = _scored(results)
    with st.style():
        n_scores, wide = len(_SCORES), min(2, len(cases))
        size = (1.2, 0.19 * len(order) + 0.5)
        fig, axes = st.wrapped(len(cases) * n_scores, wide * n_scores, size)
        places = {arm: -i for i, arm in enumerate(order)}
        for i, case in enumerate(cases):
            here = frame[frame["case"] == case]
            y = here["arm"].map(places)
            for j, (score, label) in enumerate(_SCORES.items()):
                ax = axes[i * n_scores + j]
                for k, place in enumerate(places.values()):
                    ax.axhline(place, color="0.93", linewidth=0.7 + 0.5 * (k % 2), zorder=0)
                error = np.nan_to_num(here[f"{score}_half_width"].to_numpy(float))
                look = {"fmt": "o", "color": st.nth(i)["color"], "markersize": 3, "elinewidth": 1}
                ax.errorbar(here[score], y, xerr=error, **look)
                _lines(ax, score, table[table["case"] == case])
                ax.set_xlabel(label)
                ax.set_ylim(-len(order) + 0.4, 0.6)
                ax.set_yticks(list(places.values()), list(order) if i % wide + j == 0 else [])
                if j == 0:
                    ax.set_title(case, loc="left")
        title = "scores at the true L0 (nearest point of each grid, chosen on other seeds)"
        return st.finish(fig, results, title, sw.interval_remark(table)), frame


def _scored(results: sw.Results) -> tuple[pd.DataFrame, pd.DataFrame, list[str], list[str]]:
    """(members, scores by case and arm, arms with the best first, cases). A case is a world, ratio,
    size and setting; an arm is called by its recipe where that has no other init."""
    table, _ = sw.members(results)
    case = sw.by_ratio(table)
    inits = table.groupby("recipe")["init"].transform("nunique")
    arm = table["recipe"].where(inits == 1, table["recipe"] + ", " + table["init"])
    table = table.assign(case=case, arm=arm)
    frame = interval_frame(at_true_l0(table), ["case", "arm"], _SCORES)
    mean = frame.groupby("arm")["mcc"].mean().reindex(sorted(arm.unique()))
    order = mean.sort_values(ascending=False, kind="stable")
    return table, frame, [str(name) for name in order.index], sorted(case.unique())


def _lines(ax, score: str, table: pd.DataFrame) -> None:
    if score == "ev" and "truth_fista_ev" in table and table["truth_fista_ev"].notna().any():
        l0 = table["truth_fista_l0"].clip(lower=1e-3).to_numpy(float)
        nearest = np.nanargmin(np.abs(np.log(l0 / table["true_l0"].to_numpy(float))))
        oracle = table["truth_fista_ev"].iloc[int(nearest)]
        label = "true dictionary, FISTA codes at the true L0"
        ax.axvline(oracle, **st.FLOOR_LINE | {"linestyle": "--"}, label=label)
    if score in ("mcc", "mcc_abs", "mcs_above_0.9"):
        ax.set_xlim(-0.03, 1.03)
        ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    if score == "l0_ratio":
        ax.set_xscale("log", base=2)
        ax.axvline(1, **st.THRESHOLD)
        ax.set_xlim(0.4, 2.5)
        ax.set_xticks([0.5, 1, 2], ["1/2", "1", "2"])


def recovery_by_l0(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """mcc against L0 over the whole grid: a small panel for each recipe, a line for each world.

    Returns:
        The figure, and a frame with one row per case, arm and grid point: `mcc` and `l0`
        with half widths (95 % Student-t over world seeds) and `_n`.
    """
    table, _, order, cases = _scored(results)
    alive = table[~table["diverged"]]
    frame = interval_frame(alive, ["case", "arm", "sparsity"], ["mcc", "l0"])
    columns = min(7, len(order))
    with st.style():
        fig, axes = st.wrapped(len(order), columns, (1.3, 1.05))
        for ax, arm in zip(axes, order, strict=True):
            for i, case in enumerate(cases):
                part = frame[(frame["case"] == case) & (frame["arm"] == arm)]
                look = {**st.nth(i), "label": case}
                l0_curve(ax, part, "mcc", look)
            l0_axis(ax, l0_limits(frame), float(table["true_l0"].mean()))
            ax.set_ylim(-0.03, 1.05)
            ax.set_title(arm, fontsize=6.5)
            inner = ax.get_subplotspec()
            ax.set_xlabel("L0" if inner.rowspan.stop * columns >= len(order) else "")
            ax.set_ylabel("mcc" if inner.is_first_col() else "")
        return st.finish(fig, results, "recovery against L0", sw.interval_remark(table)), frame


def mcs_by_recipe(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """MCS histograms at the true L0 as rows of shades, a row for each recipe, a panel a world.

    Returns:
        The figure, and a frame with one row per case, arm and bin that is not empty: `share`
        of the features of all seeds whose MCS lies in [`low`, `high`).
    """
    table, scores, order, cases = _scored(results)
    values: dict[tuple[str, str], list[np.ndarray]] = {}
    for rows, arrays in sw.with_arrays(results, at_true_l0(table)):
        for case, arm, row in rows[["case", "arm", "row"]].itertuples(index=False):
            values.setdefault((case, arm), []).append(arrays["mcs"][row])
    out = [pd.DataFrame(columns=["case", "arm", "low", "high", "share"])]
    with st.style():
        fig, axes = st.canvas(1, len(cases), (3.2, 0.19 * len(order) + 0.5))
        for i, (ax, case) in enumerate(zip(axes[0], cases, strict=True)):
            shares = np.zeros((len(order), len(EDGES) - 1))
            for k, arm in enumerate(order):
                mcs = np.concatenate(values.get((case, arm), [np.zeros(0)]))
                mcs = mcs[np.isfinite(mcs)]
                counts, _ = np.histogram(np.clip(mcs, 0, 1), EDGES)
                shares[k] = counts / max(1, len(mcs))
                out.append(filled_bins({"case": case, "arm": arm}, shares[k]))
            edges = np.arange(len(order) + 1) - 0.5
            mesh = ax.pcolormesh(EDGES, edges, np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
            ax.invert_yaxis()
            ax.axvline(0.9, **st.THRESHOLD)
            floor = scores[scores["case"] == case]["floor"].mean()
            if np.isfinite(floor):
                ax.axvline(floor, **st.FLOOR_LINE, label="random floor")
            ax.set_yticks(range(len(order)), order if i == 0 else [])
            ax.set_xlabel("MCS of a feature")
            ax.set_title(case, loc="left")
        bar = fig.colorbar(mesh, ax=axes[0].tolist(), ticks=np.sqrt([0, 0.05, 0.2, 0.5, 1]))
        bar.ax.set_yticklabels(["0", ".05", ".2", ".5", "1"])
        bar.set_label("share, square-root scale", fontsize=6)
        title = "MCS of the true features at the true L0, all seeds together"
        return st.finish(fig, results, title), pd.concat(out[1:] or out, ignore_index=True)
