"""Firing probabilities by feature rank, rescaled to a mean number of active features."""

import numpy as np
from jaxtyping import Float

from ..errors import ToysaeError, require, unknown

TAILS = ("uniform", "geometric", "zipf", "log-uniform")


def firing_probabilities(
    tail: str,
    n_features: int,
    l0: float,
    decay: float = 0.99,
    exponent: float = 1.0,
    decades: float = 3.0,
    jitter: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Returns probabilities `[n_features]`, falling with rank, that sum to `l0`.

    Args:
        tail: "uniform" (all equal), "geometric" (p_i proportional to decay^i), "zipf"
            (p_i proportional to (i + 1)^-exponent) or "log-uniform" (the quantiles of a
            log-uniform law over `decades` powers of ten).
        n_features: number of features.
        l0: mean number of active features in a sample, in (0, n_features].
        decay: of the geometric tail, in (0, 1].
        exponent: of the Zipf tail, at least 0.
        decades: of the log-uniform tail, at least 0.
        jitter: positive factors `[n_features]`, applied before the rescaling.

    Raises:
        ToysaeError: an unknown tail or a number out of range.
    """
    require(n_features >= 1, f"n_features {n_features} must be at least 1")
    require(0 < l0 <= n_features, f"l0 {l0} must be in (0, n_features = {n_features}]")
    require(0 < decay <= 1, f"decay {decay} must be in (0, 1]")
    require(0 <= exponent < np.inf, f"exponent {exponent} must be at least 0, and finite")
    require(0 <= decades < np.inf, f"decades {decades} must be at least 0, and finite")
    if tail not in TAILS:
        raise unknown("probs", tail, TAILS)
    rank = np.arange(n_features, dtype=np.float64)
    weights = {
        "uniform": lambda: np.ones(n_features),
        "geometric": lambda: decay**rank,
        "zipf": lambda: (rank + 1) ** -exponent,
        "log-uniform": lambda: 10.0 ** (-decades * (rank + 0.5) / n_features),
    }
    return rescale(weights[tail]() * jitter, l0)


def checked_probabilities(
    probs: np.ndarray, within: str = "[0, 1]"
) -> Float[np.ndarray, " n_features"]:
    """Returns firing probabilities in float64, or refuses them unless all lie in an interval.

    Args:
        probs: `[n_features]`.
        within: "[0, 1]", "(0, 1]", "[0, 1)" or "(0, 1)".

    Raises:
        ToysaeError: not a vector, an empty one, or a value outside, as NaN is; it names the first.
    """
    probs = np.asarray(probs, np.float64)
    require(probs.ndim == 1 and probs.size > 0, f"firing probabilities of shape {probs.shape} must "
            "be a non-empty vector [n_features]")  # fmt: skip
    above = probs >= 0 if within[0] == "[" else probs > 0
    below = probs <= 1 if within[-1] == "]" else probs < 1
    bad = np.flatnonzero(~(above & below))
    if bad.size:
        p, feature = probs[bad[0]], bad[0]
        raise ToysaeError(f"firing probability {p} of feature {feature} must be in {within}")
    return probs


def zipf_between(n_features: int, exponent: float, low: float, high: float) -> np.ndarray:
    """Maps Zipf weights (i + 1)^-exponent affinely onto [low, high] (SAELens' convention).

    Raises:
        ToysaeError: not 0 <= low <= high <= 1.
    """
    require(0 <= low <= high <= 1, f"probabilities {low}..{high} must be ordered within [0, 1]")
    weights = np.arange(1, n_features + 1, dtype=np.float64) ** -exponent
    span = weights[0] - weights[-1]
    return low + (high - low) * (weights - weights[-1]) / (span if span else 1.0)


def rescale(weights: np.ndarray, l0: float) -> np.ndarray:
    """Scales weights to sum `l0`; what would exceed 1 becomes 1 and the rest makes up for it."""
    capped = np.zeros(len(weights), bool)
    for _ in range(len(weights)):
        free = weights[~capped].sum()
        probs = np.where(capped, 1.0, weights * ((l0 - capped.sum()) / free if free else 0.0))
        over = probs > 1
        if not over.any():
            return probs
        capped |= over
    return np.minimum(probs, 1.0)
