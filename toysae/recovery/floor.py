"""The random floor of MMCS: what chance alone scores.

For one fixed feature and M independent random directions in d dimensions, each cosine has
``F(t) = P(cos <= t) = 1 - I_{1-t^2}((d-1)/2, 1/2) / 2`` for t >= 0, so the expected maximum is
``∫_0^1 (1 - F(t)^M) dt - ∫_0^1 F(-t)^M dt``. The mean over features is the same number.
"""

from functools import lru_cache

import numpy as np
import scipy

from toysae.errors import require

# E max = ∫ Q(e^{-s/M}) e^{-s} ds, Q the quantile of one cosine and e^{-s} uniform on [0, 1]: the
# module's formula by parts, whose integrand has the same width for every d and M (F^M is a step
# that a quadrature in t can miss). With s = e^v it falls off exponentially on the left and doubly
# so on the right, so that the trapezoid rule is exact to about 1e-9.
_STEP = 0.01
_S = np.exp(np.arange(-40.0, 4.0, _STEP))


@lru_cache(maxsize=4096)
def random_floor(
    d_in: int | np.integer, n_latents: int | np.integer, absolute: bool = False
) -> float:
    """Expected MMCS of a dictionary of independent, uniformly random directions.

    Args:
        d_in: dimension of the space, at least 1.
        n_latents: number of random latents (d_sae), at least 1; that of features does not matter.
        absolute: whether to take the floor of :func:`toysae.recovery.mmcs_abs`.

    Returns:
        The floor in [0, 1], to about 1e-8. It is for *independent* latents: orthonormal and
        data-sample inits start above it.

    Raises:
        ToysaeError: a size is not a positive integer.
    """
    for name, size in (("d_in", d_in), ("n_latents", n_latents)):
        require(
            isinstance(size, int | np.integer) and not isinstance(size, bool) and bool(size >= 1),
            f"{name} = {size!r}: give a positive integer",
        )
    if d_in == 1:  # the cosine is ±1, and there is no density to integrate
        return 1.0 if absolute else 1.0 - 2.0 ** (1 - int(n_latents))
    above = -np.expm1(-_S / n_latents)  # P(one score exceeds the maximum), without cancellation
    quantile = _abs_quantile(above, d_in) if absolute else _signed_quantile(above, d_in)
    # Normalising by the weights' own sum cancels the rule's error for a constant.
    weights = _S * np.exp(-_S)
    return max(0.0, float(weights @ quantile / weights.sum()))


def _abs_quantile(above: np.ndarray, d_in: int | np.integer) -> np.ndarray:
    """Returns the t with P(|cos| > t) = I_{1-t^2}((d-1)/2, 1/2) = above."""
    return np.sqrt(np.maximum(0.0, 1.0 - scipy.special.betaincinv((d_in - 1) / 2, 0.5, above)))


def _signed_quantile(above: np.ndarray, d_in: int | np.integer) -> np.ndarray:
    """Returns the t in [-1, 1] with P(cos > t) = above."""
    tail = np.minimum(above, 1.0 - above)
    return np.sign(0.5 - above) * _abs_quantile(2.0 * tail, d_in)


def cosine_cdf(t: float | np.ndarray, d_in: int | np.integer) -> np.ndarray:
    """Returns P(cos <= t) of two independent random directions in `d_in` >= 2 dimensions.

    Args:
        t: cosines in [-1, 1], any shape.
        d_in: dimension, at least 2.

    Raises:
        ToysaeError: `d_in` is below 2, where the cosine is ±1.
    """
    require(bool(d_in >= 2), f"d_in = {d_in!r}: the cosine has a density from 2 dimensions on")
    t = np.asarray(t, dtype=np.float64)
    tail = 0.5 * scipy.special.betainc((d_in - 1) / 2, 0.5, 1.0 - t**2)
    return np.where(t >= 0, 1.0 - tail, tail)
