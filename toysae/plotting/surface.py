"""What decides whether a feature is found: frequency, magnitude or the nearest neighbour?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log10

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from toysae.errors import require
from toysae.plotting import rows as sw
from toysae.plotting import style as st
from toysae.recovery.logistic import Logistic, fit_logistic, jackknife

from ..lazy import pd

FOUND = 0.9
TERMS = {
    "frequency": "log10 frequency", "magnitude": "log10 magnitude",
    "nn_cos": "nearest neighbour's cosine",
}  # fmt: skip
_ARRAYS = {"mcs": "mcs", "frequency": "feature_freq", "magnitude": "feature_magnitude",
           "nn_cos": "feature_nn_cos"}  # fmt: skip
_VARIES = 1e-3  # sd above which a term is fitted: below it is noise of the measurement
_TERCILES = ("weakest third", "middle third", "strongest third")


@dataclass(frozen=True)
class Surface:
    """P(found) of one arm in one case, over standardised terms.

    Attributes:
        fit: None where all features are found, all are missed, or no term varies.
        mean, sd: of each term, in the order of `terms`.
        terms: those that vary.
    """

    fit: Logistic | None
    mean: np.ndarray
    sd: np.ndarray
    terms: list[str]

    def probability(self, points: pd.DataFrame) -> np.ndarray:
        """P(found) of features, whose terms are columns called as in `TERMS`."""
        assert self.fit is not None
        return self.fit.probability((points[self.terms].to_numpy(float) - self.mean) / self.sd)


def recovery_surface(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """Each feature's MCS over its frequency and nearest neighbour's cosine at the best sparsity:
    a row of panels for each world, ratio and arm, in thirds of magnitude where that varies.

    The line is P(MCS > .9) = 1/2 of a logistic regression on log10 frequency, log10 magnitude
    (mean length that the feature adds to x when on) and the largest cosine to another feature,
    at the third's median magnitude. Shown are features of all seeds that fired in training and in
    the evaluation sample; SAEs started at the truth are left out where there are others.

    Returns:
        The figure, and a frame with one row per case, arm and term: the `coefficient` per
        standard deviation of the term, its `half_width` (95 %, jackknife over worlds), the
        term's `mean` and `sd`, whether the fit is `separated` (steepness means nothing then),
        the share `found`, `n` features and `n_worlds`. NaN where there is nothing to fit.

    Raises:
        ToysaeError: results without these arrays, written before they were kept.
    """
    table, column = sw.members(results)
    chosen = sw.best(table)
    table, chosen = sw.without_ceilings(table, chosen)
    case = table["case"] + f", {column} " + table[column].map("{:g}".format)
    points = _points(results, chosen.assign(case=case.loc[chosen.index]))
    rows = [(c, a) for c in sorted(case.unique()) for a in sw.arms(table[case == c])]
    terms = [name for name in TERMS if name != "magnitude" or _magnitudes_vary(points)]
    thirds = _TERCILES if "magnitude" in terms else ("",)
    frames = []
    with st.style():
        fig, axes = st.canvas(len(rows), len(thirds), (2.5, 1.9), 1.0)
        for i, (c, arm) in enumerate(rows):
            here = sw.of_arm(points[points["case"] == c], arm)
            surface, frame = _fitted(here, terms)
            frames.append(pd.concat([pd.DataFrame({"case": c, "recipe": arm[0], "init": arm[1]},
                                                  index=frame.index), frame], axis=1))  # fmt: skip
            for ax, (name, part) in zip(axes[i], _split(here, thirds), strict=True):
                _panel(ax, part, here, surface)
                ax.set_title(name if i == 0 else "", loc="left")
                ax.set_xlabel("frequency" if i == len(rows) - 1 else "")
            axes[i, 0].set_ylabel(st.row_label(c, arm, "neighbour's cosine"), fontsize=7)
        drawn = [ax.collections[0] for ax in axes.flat if ax.collections]
        if drawn:
            look = {"fraction": 0.03, "aspect": 30, "pad": 0.01}
            fig.colorbar(drawn[0], ax=axes.ravel().tolist(), label="MCS", **look)
        by = "; thirds by magnitude" if len(thirds) > 1 else ""
        title = f"which features are found (colour: MCS; line: P(MCS > .9) = 1/2{by})"
        return st.finish(fig, results, title, sw.choice_remark(chosen)), pd.concat(frames)


def _points(results: sw.Results, chosen: pd.DataFrame) -> pd.DataFrame:
    """One row per member and feature: MCS, the terms, and the world."""
    out = [pd.DataFrame(columns=["case", *sw.ARM, "world_seed", *_ARRAYS])]
    for rows, arrays in sw.with_arrays(results, chosen):
        missing = [name for name in _ARRAYS.values() if name not in arrays]
        require(not missing, f"the results hold no {', '.join(missing)}: they were written before "
                "sweeps kept them; run again with --fresh")  # fmt: skip
        for row in rows.to_dict("records"):
            values = {name: arrays[key][row["row"]] for name, key in _ARRAYS.items()}
            head = {name: row[name] for name in ("case", *sw.ARM, "world_seed")}
            out.append(pd.DataFrame({**head, **values}))
    points = pd.concat(out[1:] or out, ignore_index=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in ("frequency", "magnitude"):
            points[name] = np.log10(points[name].to_numpy(float))
    finite = np.isfinite(points[list(_ARRAYS)].to_numpy(float)).all(1)
    return points.iloc[np.flatnonzero(finite)]


def _spread(values: pd.Series) -> float:
    return float(values.std(ddof=0)) if len(values) else 0.0


def _magnitudes_vary(points: pd.DataFrame) -> bool:
    """Whether magnitudes vary by more than a tenth among the more frequent half of the features:
    those of rare features scatter because they are measured on few firings."""
    frequent = points[points["frequency"] >= points["frequency"].median()]
    return _spread(frequent["magnitude"]) > log10(1.1)


def _fitted(points: pd.DataFrame, candidates: list[str]) -> tuple[Surface, pd.DataFrame]:
    terms = [name for name in candidates if _spread(points[name]) > _VARIES]
    values = points[terms].to_numpy(float)
    found = (points["mcs"] > FOUND).to_numpy(bool)
    mean, sd = (values.mean(0), values.std(0)) if terms else (np.zeros(0), np.zeros(0))
    worlds = points["world_seed"].to_numpy(int)
    nothing = np.full(1 + len(terms), np.nan)
    fit, coefficients, half = None, nothing, nothing
    if terms and 0 < found.sum() < len(found):
        fit = fit_logistic((values - mean) / sd, found)
        coefficients = np.r_[fit.intercept, fit.weights]
        half = jackknife((values - mean) / sd, found, worlds)
    frame = pd.DataFrame(
        {
            "term": ["intercept", *(TERMS[name] for name in terms)],
            "coefficient": coefficients,
            "half_width": half,
            "mean": np.r_[np.nan, mean],
            "sd": np.r_[np.nan, sd],
            "separated": fit is not None and fit.separated,
            "found": found.mean() if len(found) else np.nan,
            "n": len(found),
            "n_worlds": len(np.unique(worlds)),
        }
    )
    return Surface(fit, mean, sd, terms), frame


def _split(points: pd.DataFrame, names: tuple[str, ...]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The points in parts of equal size by magnitude, the weakest first, each with its name."""
    order = points["magnitude"].to_numpy(float).argsort(kind="stable")
    for name, part in zip(names, np.array_split(order, len(names)), strict=True):
        yield name, points.iloc[part]


def _panel(ax: Axes, part: pd.DataFrame, whole: pd.DataFrame, surface: Surface) -> None:
    if part.empty:
        return st.note(ax, "no features")
    ax.scatter(10 ** part["frequency"], part["nn_cos"], c=part["mcs"], s=9, cmap="viridis",
               norm=Normalize(0, 1), linewidths=0.25, edgecolors="0.35")  # fmt: skip
    ax.set_xscale("log")
    x, y = _range(whole["frequency"]), _range(whole["nn_cos"])
    ax.set_xlim(10 ** x[0], 10 ** x[1])
    ax.set_ylim(*y)
    share = f"{(part['mcs'] > FOUND).mean():.0%} of {len(part)} found"
    ax.set_title(share, loc="right", fontsize=6.5)
    if surface.fit is None:
        return
    frequency, cosine = np.meshgrid(np.linspace(*x, 80), np.linspace(*y, 80))
    grid = {"frequency": frequency.ravel(), "nn_cos": cosine.ravel(),
            "magnitude": np.full(frequency.size, part["magnitude"].median())}  # fmt: skip
    p = surface.probability(pd.DataFrame(grid)).reshape(frequency.shape)
    if p.min() < 0.5 < p.max():
        ax.contour(10**frequency, cosine, p, levels=[0.5], colors="black", linewidths=1.2)


def _range(values: pd.Series) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = max(0.05 * (high - low), log10(1.1) / 2)
    return low - room, high + room
