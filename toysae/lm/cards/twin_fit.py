"""Fits a twin to a layer by a search over its parameters; each look takes a second or less."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import scipy
from jaxtyping import Float
from scipy.optimize import minimize

from ...errors import require, unknown
from ...worlds.panel.activations import PanelStats
from .twin import Twin, firing_given
from .twin_statistics import (
    UnitDirections,
    directions_of,
    distance,
    misfit_of,
    predicted,
    statistics,
)

RATIOS = (1.0, 2.0, 4.0)
DIRECTIONS = ("sphere", "layer")
_BETTER, _STARTS, _GOOD, _LOOKS = 0.7, 2, 0.05, 120


def fit_twin(
    stats: PanelStats,
    mean: Float[np.ndarray, " d_in"],
    covariance: Float[np.ndarray, "d_in d_in"],
    ratios: Sequence[float] = RATIOS,
    directions: Sequence[str] = DIRECTIONS,
    correlate: bool = True,
    seed: int = 0,
    on_look: Callable[[str], object] = lambda about: None,
) -> Twin:
    """Finds the world whose statistics are nearest to a layer's.

    Args:
        stats: of the layer less its mean, see :func:`.centred_panel`.
        mean: of the layer; the twin has exactly this mean.
        covariance: of the layer.
        ratios: of features to dimensions to try.
        directions: to try.
        correlate: whether to try features that share something too.
        seed: of the directions.
        on_look: called before each look with a description of it.

    Raises:
        ToysaeError: an unknown kind of directions, no ratio, or one below 1 / d_in.
    """
    require(ratios, "give at least one ratio")
    for kind in directions:
        if kind not in DIRECTIONS:
            raise unknown("directions", kind, DIRECTIONS)
    for ratio in ratios:
        require(round(ratio * stats.d_in) >= 1, f"ratio {ratio:g} leaves no feature")
    best: Twin | None = None
    for kind in directions:  # a later kind, which has more parameters, must be clearly better
        root = _root(covariance) if kind == "layer" else np.eye(stats.d_in)
        fits = [_fit(stats, mean, kind, ratio, root, correlate, seed, on_look) for ratio in ratios]
        of_kind = min(fits, key=lambda t: t.misfit)
        if best is None or of_kind.misfit < _BETTER * best.misfit:
            best = of_kind
        if best.misfit < _GOOD:
            break
    require(best is not None, "name at least one kind of directions")
    assert best is not None
    return best


def _fit(
    stats: PanelStats, mean: np.ndarray, kind: str, ratio: float, root: np.ndarray,
    correlate: bool, seed: int, on_look: Callable[[str], object],
) -> Twin:  # fmt: skip
    """Fits independent features, or features that share something if that is clearly better."""
    d, total = stats.d_in, float((stats.sd**2).sum())
    start = Twin(d, ratio, kind, 0.5, 1.0, 0.5, 1.0, 0.0, 0.0, np.zeros(d), root)
    f, layer, looks = directions_of(start, seed), statistics(stats), itertools.count(1)

    def misfit(theta: np.ndarray) -> float:
        on_look(f"{kind} directions, ratio {ratio:g}: look {next(looks)}")
        if np.abs(theta).max() > 12:
            return 1e3
        return misfit_of(distance(predicted(_twin_at(theta, start, f, total, mean), f), layer))

    def search(guesses: list[np.ndarray]) -> tuple[np.ndarray, float]:
        minima = [
            minimize(misfit, guess, method="Nelder-Mead", options={"maxfev": _LOOKS, "xatol": 1e-3})
            for guess in sorted(guesses, key=misfit)[:_STARTS]
        ]
        lowest = min(minima, key=lambda minimum: minimum.fun)
        return lowest.x, float(lowest.fun)

    guesses = [
        np.array([a, np.log(l0), np.log(s), -3.0])
        for a in (0.1, 0.5, 1.0)
        for l0 in (2.0, 0.01 * start.n_features + 2, 0.05 * start.n_features + 2)
        for s in (0.25, 0.7)
    ]
    theta, off = search(guesses)
    if correlate and off > _GOOD:
        shared, at = search([np.append(g, c) for g in [theta, *guesses] for c in (-1.5, 0.0)])
        if at < _BETTER * off:
            theta, off = shared, at
    return replace(_twin_at(theta, start, f, total, mean), misfit=off)


def _twin_at(
    theta: np.ndarray, start: Twin, f: UnitDirections, total: float, mean: np.ndarray
) -> Twin:
    """The twin at a point of the search, with the layer's mean and its total variance."""
    exponent, log_l0, log_spread, log_noise, *common = theta
    share = 1 / (1 + np.exp(-log_noise))  # of the variance that is noise
    l0 = float(np.clip(np.exp(log_l0), 1e-2, 0.5 * start.n_features))
    t = replace(start, exponent=float(abs(exponent)), l0=l0, spread=float(np.exp(log_spread)),
                common=float(scipy.special.expit(common[0])) if common else 0.0)  # fmt: skip
    p, probs, weights = firing_given(t)
    m1, m2 = np.exp(t.spread**2 / 2), np.exp(2 * t.spread**2)
    variance = (weights @ (probs * m2 - (probs * m1) ** 2)).sum()  # of the features at scale 1
    shift = ((probs - p) * m1).astype(np.float32) @ f.rows
    variance += weights @ (shift**2).sum(1)
    scale = float(np.sqrt((1 - share) * total / variance))
    noise = float(np.sqrt(share * total / t.d_in))
    bias = mean - (p * m1 * scale) @ f.rows
    return replace(t, scale=scale, noise_sd=noise, bias=bias)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
