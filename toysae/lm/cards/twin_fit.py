"""Fits a twin to a layer: a search over its parameters, a second or less for each look."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.optimize import minimize

from ...errors import require, unknown
from ...worlds.panel.activations import PanelStats
from .twin import Twin, firing_given
from .twin_statistics import directions_of, distance, misfit_of, predicted, statistics

RATIOS = (1.0, 2.0, 4.0)
DIRECTIONS = ("sphere", "layer")
_BETTER, _STARTS, _GOOD, _TRIES = 0.7, 2, 0.05, 120


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
    """The world whose statistics are nearest a layer's.

    Args:
        stats: of the layer less its mean, see :func:`centred_panel`.
        mean: of the layer; the twin has the very same.
        covariance: of the layer.
        ratios: of features to dimensions to try.
        directions: to try.
        correlate: also try features that share something.
        seed: of the directions.
        on_look: called with what is looked at, before each look.

    Raises:
        ToysaeError: an unknown kind of directions, no ratio, or one below 1 / d_in.
    """
    require(ratios, "give at least one ratio")
    for kind in directions:
        if kind not in DIRECTIONS:
            raise unknown("directions", kind, DIRECTIONS)
    for ratio in ratios:
        require(round(ratio * stats.d_in) >= 1, f"ratio {ratio:g} leaves no feature")
    wanted = statistics(stats)
    best: Twin | None = None
    for kind in directions:  # a later kind must be plainly better: it has more to it
        root = _root(covariance) if kind == "layer" else np.eye(stats.d_in)
        fits = [
            _fit(stats, mean, wanted, kind, ratio, root, correlate, seed, on_look)
            for ratio in ratios
        ]
        found = min(fits, key=lambda t: t.misfit)
        if best is None or found.misfit < _BETTER * best.misfit:
            best = found
        if best.misfit < _GOOD:
            break
    require(best is not None, "name at least one kind of directions")
    assert best is not None
    return best


def _fit(
    stats: PanelStats, mean: np.ndarray, wanted: Mapping[str, float], kind: str, ratio: float,
    root: np.ndarray, correlate: bool, seed: int, on_look: Callable[[str], object],
) -> Twin:  # fmt: skip
    """Independent features; or such that share something, if that is plainly better."""
    d, total = stats.d_in, float((stats.sd**2).sum())
    start = Twin(d, ratio, kind, 0.5, 1.0, 0.5, 1.0, 0.0, 0.0, np.zeros(d), root)
    f = directions_of(start, seed)

    def twin(theta: np.ndarray) -> Twin:
        exponent, log_l0, log_spread, log_noise, *common = theta
        share = 1 / (1 + np.exp(-log_noise))  # of the variance that is noise
        l0 = float(np.clip(np.exp(log_l0), 1e-2, 0.5 * start.n_features))
        t = replace(start, exponent=float(abs(exponent)), l0=l0, spread=float(np.exp(log_spread)),
                    common=float(special.expit(common[0])) if common else 0.0)  # fmt: skip
        p, probs, weights = firing_given(t)
        m1, m2 = np.exp(t.spread**2 / 2), np.exp(2 * t.spread**2)
        own = (weights @ (probs * m2 - (probs * m1) ** 2)).sum()
        shift = ((probs - p) * m1).astype(np.float32) @ f.rows
        own += weights @ (shift**2).sum(1)
        scale = float(np.sqrt((1 - share) * total / own))
        noise = float(np.sqrt(share * total / d))
        bias = mean - (p * m1 * scale) @ f.rows
        return replace(t, scale=scale, noise_sd=noise, bias=bias)

    looks = itertools.count(1)

    def misfit(theta: np.ndarray) -> float:
        on_look(f"{kind} directions, ratio {ratio:g}: look {next(looks)}")
        if np.abs(theta).max() > 12:
            return 1e3
        return misfit_of(distance(predicted(twin(theta), f), wanted))

    def search(guesses: list[np.ndarray]) -> tuple[np.ndarray, float]:
        best = [
            minimize(misfit, guess, method="Nelder-Mead", options={"maxfev": _TRIES, "xatol": 1e-3})
            for guess in sorted(guesses, key=misfit)[:_STARTS]
        ]
        found = min(best, key=lambda one: one.fun)
        return found.x, float(found.fun)

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
    return replace(twin(theta), misfit=off)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
