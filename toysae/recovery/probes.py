"""Linear readouts of each feature from x: a ceiling without any dictionary.

Each feature has a ridge regression of its coefficient on x and one of whether it is on. The feature
is detected where the fitted score is above a threshold tuned for F1. Fitting and tuning use other
samples than scoring.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ..checked import integer
from ..errors import require
from ..lazy import pd
from ..worlds.world import Batch, World, batches
from .thresholds import add_scores, aurocs_of, best_thresholds, empty_counts

TARGETS = ("coefficient", "on-off")
_RIDGE = 1e-7  # of the mean variance of a dimension: enough to invert a singular covariance

_matmul = jax.jit(lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST))


def linear_probes(
    world: World, fit_key: PRNGKeyArray, score_key: PRNGKeyArray, n_fit: int, n_score: int
) -> dict[str, pd.DataFrame]:
    """Fits ridge regressions and scores them on fresh samples, 1,024 at a time.

    Args:
        world: a world that is scored against the features that fire, without `World.truth`.
        fit_key: of the samples that weights and thresholds are fitted on.
        score_key: of the samples scored.
        n_fit: number of samples to fit on, rounded up to whole batches.
        n_score: number of samples to score on, rounded up likewise.

    Returns:
        For each of :data:`TARGETS` one row a feature: `precision`, `recall`, `f1`, `auroc` and
        `r2` = 1 - residual / variance of its own target. NaN where undefined, as for a feature
        that never fired.

    Raises:
        ToysaeError: a world with a `truth`.
    """
    integer("n_fit", n_fit, 1)
    integer("n_score", n_score, 1)
    require(world.truth is None, f"world {world.name!r} is scored against other directions than "
            "fire in it: no probe can be fitted to coefficients that are not known")  # fmt: skip
    # The readouts read x less the mean of one batch: float32 would lose the variance of a small x
    # with a large bias.
    centre = jnp.mean(next(batches(world, fit_key, 1)).x, 0)
    weights, intercepts = _fit(world, fit_key, n_fit, centre)
    scores = {}
    for i, target in enumerate(TARGETS):
        w, b = jnp.asarray(weights[i], jnp.float32), jnp.asarray(intercepts[i], jnp.float32)
        probe = _Probe(w, b, centre)
        counts = empty_counts(world.n_features)
        for batch in batches(world, fit_key, n_fit):
            counts = _count(counts, batch, probe)
        threshold = jnp.asarray(best_thresholds(counts), jnp.float32)
        scores[target] = _score(world, score_key, n_score, probe, threshold, target)
    return scores


class _Probe(NamedTuple):
    """A linear readout of every feature."""

    w: Array
    b: Array
    centre: Array

    def __call__(self, x: Array) -> Array:
        return _matmul(x - self.centre, self.w) + self.b


def _fit(world: World, key: PRNGKeyArray, n: int, centre: Array) -> tuple[np.ndarray, np.ndarray]:
    """Fits weights `[2, d_in, n_features]` and intercepts `[2, n_features]` in float64, for inputs
    less `centre`."""
    sums = None
    for batch in batches(world, key, n):
        sums = _added(sums, _moments(batch, centre))
    assert sums is not None
    n_seen, x, xx, y, xy = sums
    mean, mean_y = x / n_seen, y / n_seen
    covariance = xx / n_seen - np.outer(mean, mean)
    ridge = _RIDGE * np.trace(covariance) / len(mean) + np.finfo(np.float32).tiny
    cross = xy / n_seen - mean[:, None] * mean_y[:, None]
    weights = np.linalg.solve(covariance + ridge * np.eye(len(mean)), cross)
    return weights, mean_y - np.einsum("d,tdn->tn", mean, weights)


def _added(sums: list[Any] | None, new: tuple[Array, ...]) -> list[Any]:
    """Adds arrays to sums in float64; no sums are None."""
    terms = [np.asarray(array, np.float64) for array in new]
    return terms if sums is None else [a + b for a, b in zip(sums, terms, strict=True)]


def _targets(batch: Batch) -> tuple[Array, Array]:
    acts = batch.feature_acts
    return acts, (acts != 0).astype(jnp.float32)


@jax.jit
def _moments(batch: Batch, centre: Array) -> tuple[Array, ...]:
    x, y = batch.x - centre, jnp.stack(_targets(batch))
    return jnp.float32(len(x)), x.sum(0), _matmul(x.T, x), y.sum(1), _matmul(x.T, y)


@jax.jit
def _count(counts: Array, batch: Batch, probe: _Probe) -> Array:
    return add_scores(counts, probe(batch.x), batch.feature_acts != 0)


@jax.jit
def _tally(counts: Array, batch: Batch, probe: _Probe, threshold: Array, target: Array):
    score, (acts, on) = probe(batch.x), _targets(batch)
    y, on, called = jnp.where(target == 0, acts, on), on != 0, score > threshold
    tallies = [c.sum(0, dtype=jnp.int32) for c in (called & on, called, on)]
    moments = [m.sum(0) for m in (y, y**2, (y - score) ** 2)]
    return add_scores(counts, score, on), (*tallies, *moments)


def _score(
    world: World, key: PRNGKeyArray, n: int, probe: _Probe, threshold: Array, target: str
) -> pd.DataFrame:
    counts, sums, seen = empty_counts(world.n_features), None, 0
    place = jnp.int32(TARGETS.index(target))
    for batch in batches(world, key, n):
        counts, tally = _tally(counts, batch, probe, threshold, place)
        sums, seen = _added(sums, tally), seen + len(batch.x)
    assert sums is not None
    hits, called, on, y, square, residual = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        columns: dict[str, Any] = {
            "precision": hits / called,
            "recall": hits / on,
            "f1": np.where(on > 0, 2 * hits / (called + on), np.nan),
            "auroc": np.asarray(aurocs_of(counts)),
            "r2": np.where(on > 0, 1 - residual / (square - y**2 / seen), np.nan),
        }
    return pd.DataFrame(columns)
