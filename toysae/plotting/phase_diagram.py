"""Recovery over ratio x true L0, a panel for each recipe, with the limits of what is possible.

The score is the share of features with MCS > .9, not mmcs: the mmcs of a random dictionary grows
with the ratio and is above .5 in few dimensions, while its share above .9 is near 0 everywhere, so
that only the share means the same in all cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st
from toysae.recovery.limits import phase_transition

from ..lazy import pd

_SCORE = "mcs_above_0.9"
LEAST_F1 = 0.9
"""F1 below which an oracle counts as not finding the support."""
ORACLE_LINES = {
    "truth-fista": "truth with FISTA codes: F1 = .9",
    "truth-omp": "truth with OMP codes: F1 = .9",
}
LIMIT = "compressed-sensing"
_LINES: dict[str, dict[str, Any]] = {
    LIMIT: {"linestyle": "-", "label": "compressed sensing with the truth, d to infinity"},
    "truth-fista": {
        "linestyle": (0, (4, 1.5)),
        "marker": "o",
        "label": ORACLE_LINES["truth-fista"],
    },
    "truth-omp": {"linestyle": (0, (1, 1)), "marker": "s", "label": ORACLE_LINES["truth-omp"]},
}
_SHADOW = [patheffects.Stroke(linewidth=3.2, foreground="black"), patheffects.Normal()]


def phase_diagram(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """Share of features with MCS > .9 at the best sparsity (chosen on other world seeds) over the
    ratio and the true L0; hatched where the L0 of some chosen SAE is not within 2x of the truth.

    Lines show the true L0 above which codes are lost even with the dictionary known: the phase
    transition of non-negative L1 minimisation (:func:`toysae.recovery.phase_transition`) and, if
    the results can give it, the L0 at which the best F1 of an oracle's supports over its grid falls
    below .9 (on the first world seed; log-linear between the L0s that were run, and the lowest of
    them where F1 is below .9 from the start).

    Returns:
        The figure, and a frame with one row per case, arm, ratio and L0: the share with its
        `_half_width` (95 % Student-t over world seeds) and `_n`, and the `matched` share; for each
        oracle (`init` "oracle") its best `f1`; and for each line (`init` "limit") its `l0`.
    """
    table, _ = sw.members(results)
    table = table.assign(case=sw.case_without(table, "l0")).reset_index(drop=True)
    chosen, l0 = sw.best(table), _true_l0(table)  # the choice looks at the l0 of the SAEs
    table, chosen = (part.assign(l0=l0.loc[part.index]) for part in (table, chosen))
    table, chosen = sw.without_ceilings(table, chosen)
    by = ["case", *sw.ARM, "ratio", "l0"]
    matched = chosen.groupby(by)["l0_matched"].mean()
    frame = sw.interval_frame(chosen, by, [_SCORE]).drop(columns="floor")
    frame = frame.assign(matched=matched.to_numpy(float))
    oracles = _oracles(results, table)
    limits = _limits(table, oracles)
    panels = [(c, arm) for c in table["case"].unique() for arm in sw.arms(table)]
    width = min(4, len(sw.arms(table)))
    with st.style():
        fig, axes = st.wrapped(len(panels), width, (2.5, 2.3), 1.3)
        drawn = None
        for k, ((case, arm), ax) in enumerate(zip(panels, axes, strict=True)):
            here = table[table["case"] == case]
            drawn = _map(ax, sw.of_arm(frame[frame["case"] == case], arm), here) or drawn
            _lines(ax, limits[limits["case"] == case])
            name = arm[0] if len({a[1] for a in sw.arms(table)}) == 1 else ", ".join(arm)
            ax.set_title(name if table["case"].nunique() == 1 else f"{case}\n{name}", loc="left")
            ax.set_ylabel("true L0" if k % width == 0 else "")
            ax.set_xlabel(sw.COLUMN_LABELS["ratio"] if k + width >= len(panels) else "")
        if drawn is not None:
            place = {"ax": fig.axes, "fraction": 0.03, "aspect": 25, "pad": 0.01}
            fig.colorbar(drawn, label="share of features with MCS > .9", **place)
        remark = sw.choice_remark(chosen) + ("; oracles: first world seed" if len(oracles) else "")
        title = "recovery by ratio and true L0 at the best sparsity"
        both = pd.concat([part for part in (frame, oracles, limits) if len(part)])
        return st.finish(fig, results, title, remark.lstrip("; ")), both


def _true_l0(table: pd.DataFrame) -> pd.Series:
    """The true L0 that the sweep sets where it varies it; otherwise one mean for all."""
    if "l0_asked" in table:
        return table["l0_asked"]
    return pd.Series(round(float(table["true_l0"].mean()), 2), index=table.index)


def _oracles(results: sw.Results, table: pd.DataFrame) -> pd.DataFrame:
    """Each oracle's best F1 by case, ratio and L0; no rows if the results have no worlds."""
    columns = ["case", *sw.ARM, "ratio", "l0", "f1"]
    oracles = sw.oracle_rows(results, tuple(ORACLE_LINES))
    if oracles is None:
        return pd.DataFrame(columns=columns)
    same = ["world", "setting", "n_features", "d_in"]
    cells = table[[*same, "case", "ratio", "l0"]].drop_duplicates()
    curves = oracles.rename(columns={"method": "recipe"})
    curves = curves.drop(columns="l0").merge(cells, on=same)
    f1 = curves.groupby(["case", "recipe", "ratio", "l0"])["f1"].max().reset_index()
    return f1.assign(init="oracle")[columns]


def _limits(table: pd.DataFrame, oracles: pd.DataFrame) -> pd.DataFrame:
    """The L0 of each line by ratio, infinite where an oracle never fails."""
    rows = []
    for case, part in table.groupby("case"):
        d_in = int(part["d_in"].iloc[0])
        low, high = part["ratio"].min(), part["ratio"].max()
        for ratio in np.unique([*np.geomspace(low, high, 40), *part["ratio"]]):
            l0 = phase_transition(ratio * d_in, d_in)
            rows.append((case, LIMIT, "limit", ratio, l0))
    for (case, name, ratio), part in oracles.groupby(["case", "recipe", "ratio"]):
        part = part.sort_values("l0")
        l0 = falls_through(part["l0"].to_numpy(float), part["f1"].to_numpy(float), LEAST_F1)
        rows.append((case, name, "limit", ratio, l0))
    return pd.DataFrame(rows, columns=pd.Index(["case", *sw.ARM, "ratio", "l0"]))


def falls_through(l0: np.ndarray, score: np.ndarray, least: float) -> float:
    """The L0 at which a score falls below `least` for good, log-linear between `l0`s.

    Args:
        l0: rising.
        score: at each.
        least: what it must reach.

    Returns:
        The L0; the first one if the score is too low from the start, infinity if it never is.
    """
    above = np.flatnonzero(score >= least)
    if not len(above):
        return float(l0[0])
    at = above[-1]
    if at == len(l0) - 1:
        return float("inf")
    share = (score[at] - least) / (score[at] - score[at + 1])
    return float(l0[at] * (l0[at + 1] / l0[at]) ** share)


def _edges(values: np.ndarray) -> np.ndarray:
    """The edges of cells around the values on a logarithmic axis."""
    log = np.log2(values)
    steps = np.diff(log) if len(log) > 1 else np.ones(1)
    middle = log[:-1] + steps[: len(log) - 1] / 2
    return 2 ** np.r_[log[0] - steps[0] / 2, middle, log[-1] + steps[-1] / 2]


def _map(ax: Axes, part: pd.DataFrame, here: pd.DataFrame) -> QuadMesh | None:
    ratios, l0s = np.sort(here["ratio"].unique()), np.sort(here["l0"].unique()).astype(float)
    x, y = _edges(ratios), _edges(l0s)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])
    ax.set_xticks(ratios, [f"{v:g}" for v in ratios])
    ax.set_yticks(l0s, [f"{v:g}" for v in l0s])
    ax.set_xticks([], minor=True)
    ax.set_yticks([], minor=True)
    if part.empty:
        st.note(ax, "every run diverged")
        return None
    grid = part.pivot(index="l0", columns="ratio", values=_SCORE).reindex(index=l0s, columns=ratios)
    image = grid.to_numpy(float)
    drawn = ax.pcolormesh(x, y, image, vmin=0, vmax=1, cmap="viridis")
    matched = part.pivot(index="l0", columns="ratio", values="matched")
    matched = matched.reindex(index=l0s, columns=ratios).to_numpy(float)
    for i, j in np.argwhere(matched < 1):
        look = {"facecolor": "none", "edgecolor": "0.6", "hatch": "////", "linewidth": 0}
        ax.fill_between(x[j : j + 2], y[i], y[i + 1], **look)
    if image.size <= 120:
        for i, j in np.argwhere(np.isfinite(image)):
            dark = image[i, j] < 0.6
            look = {"ha": "center", "va": "center", "fontsize": 5, "color": "w" if dark else "k"}
            ax.text(float(ratios[j]), float(l0s[i]), st.share(float(image[i, j])), **look)
    return drawn


def _lines(ax: Axes, limits: pd.DataFrame) -> None:
    top = ax.get_ylim()[1]
    for name, look in _LINES.items():
        line = limits[limits["recipe"] == name].sort_values("ratio")
        if len(line):
            l0 = np.minimum(line["l0"].to_numpy(float), 2 * top)  # beyond the panel
            ax.plot(line["ratio"], l0, color="white", linewidth=1.6, markersize=3.5,
                    path_effects=_SHADOW, **look)  # fmt: skip
