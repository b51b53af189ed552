"""Logistic regression with intervals over worlds, for which features are found.

P(found) = 1 / (1 + exp(-(b + x . w))), fitted by Newton's method (iteratively reweighted least
squares), each step halved until the fit improves. A tiny ridge keeps w finite where a plane
separates found from missed without error; the size of w then means nothing, and `separated` is
True.
"""

from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from ..errors import require

RIDGE = 1e-6
"""Weight of w^2 / 2, in units of one sample: at 100 samples 1e-8 of the weight of the data."""
_STEPS = 100


@dataclass(frozen=True)
class Logistic:
    """A fitted threshold surface.

    Attributes:
        intercept: b.
        weights: w `[n_terms]`.
        separated: only the ridge keeps some weight finite, since a plane separates some samples
            without error. The surface is meaningful, its steepness is not.
    """

    intercept: float
    weights: Float[np.ndarray, " n_terms"]
    separated: bool

    def probability(self, x: Float[np.ndarray, "n n_terms"]) -> Float[np.ndarray, " n"]:
        """Returns P(found)."""
        return scipy.special.expit(self.intercept + x @ self.weights)


def fit_logistic(
    x: Float[np.ndarray, "n n_terms"], y: Bool[np.ndarray, " n"], ridge: float = RIDGE
) -> Logistic:
    """Fits the most likely surface.

    Args:
        x: terms, best of unit scale since the ridge is the same for all.
        y: found or not.
        ridge: above 0; on w, not on b.

    Raises:
        ToysaeError: shapes that do not fit, values that are not finite, no sample, or samples that
            are all found or all missed.
    """
    require(x.ndim == 2 and y.shape == x.shape[:1], f"x {x.shape} and y {y.shape}: give [n, "
            "n_terms] and [n]")  # fmt: skip
    require(bool(np.isfinite(x).all()), "x is not finite: leave those samples out")
    require(ridge > 0, f"ridge {ridge:g} must be above 0")
    require(0 < y.sum() < len(y), f"{int(y.sum())} of {len(y)} samples are found: a surface needs "
            "some that are and some that are not")  # fmt: skip
    design = np.column_stack([np.ones(len(x)), x])
    penalty = ridge * np.r_[0.0, np.ones(x.shape[1])]
    sign = np.where(y, 1.0, -1.0)

    def curvature(beta: NDArray) -> NDArray:
        """Of the data alone, without the ridge."""
        p = scipy.special.expit(design @ beta)
        return design.T @ (design * (p * (1 - p))[:, None])

    def cost(beta: NDArray) -> float:
        return np.logaddexp(0, -sign * (design @ beta)).sum() + penalty @ beta**2 / 2

    beta = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        slope = design.T @ (scipy.special.expit(design @ beta) - y) + penalty * beta
        step = np.linalg.lstsq(curvature(beta) + np.diag(penalty), slope, rcond=1e-14)[0]
        share = 1.0
        while share > 1e-10 and not cost(beta - share * step) < cost(beta):
            share /= 2
        if share <= 1e-10:
            break
        beta = beta - share * step
    # A Newton step without the ridge: 0 where the data determine the weights.
    pull = np.linalg.lstsq(curvature(beta), penalty * beta, rcond=1e-14)[0]
    separated = bool(np.abs(pull).max() > 1e-3 * (1 + np.abs(beta).max()))
    return Logistic(float(beta[0]), beta[1:], separated)


def jackknife(
    x: Float[np.ndarray, "n n_terms"],
    y: Bool[np.ndarray, " n"],
    cluster: Int[np.ndarray, " n"],
    confidence: float = 0.95,
) -> Float[np.ndarray, " terms"]:
    """Half widths of the intervals of b and w, by leaving out one world at a time.

    Features of one world share its directions and samples, so that worlds and not features are the
    independent values: se^2 = (n - 1) / n sum_i (b_i - mean b)^2 over the n fits without world i,
    and Student's t with n - 1 degrees of freedom.

    Args:
        x, y: as in :func:`fit_logistic`.
        cluster: the world of each sample.
        confidence: two-sided coverage.

    Returns:
        `[1 + n_terms]`, b first; NaN with fewer than two worlds, or where all samples outside of
        one world are found or all are missed.
    """
    worlds = np.unique(cluster)
    n, fits = len(worlds), []
    nothing = np.full(1 + x.shape[1], np.nan)
    if n < 2:
        return nothing
    for world in worlds:
        others = cluster != world
        if not 0 < y[others].sum() < others.sum():
            return nothing
        fit = fit_logistic(x[others], y[others])
        fits.append(np.r_[fit.intercept, fit.weights])
    error = np.sqrt((n - 1) * np.var(fits, axis=0))
    return scipy.special.stdtrit(n - 1, (1 + confidence) / 2) * error
