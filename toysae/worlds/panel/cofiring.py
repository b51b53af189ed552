"""Statistics of firing: how frequency falls with rank, and which features fire together.

They need only counts, so they also apply to an SAE's latents on real activations.
"""

import numpy as np
from jaxtyping import Float

MIN_FIRINGS = 30  # with fewer, coincidences alone push eigenvalues over the noise edge


def rank_exponent(
    prob: Float[np.ndarray, " n_features"], n_samples: int
) -> tuple[float, tuple[int, int]]:
    """Fits the exponent a of p ~ rank^-a over the ranks n_features^1/4 to n_features^3/4.

    Args:
        prob: measured probabilities of features or latents, falling.
        n_samples: samples behind them; ranks that fired fewer than 30 times are left out.

    Returns:
        The exponent (least squares of log p on log rank; NaN with fewer than 3 ranks), and the
        first and last rank used, counted from 1.
    """
    first, last = int(np.ceil(len(prob) ** 0.25)), int(len(prob) ** 0.75)
    last = min(last, int((prob * n_samples >= MIN_FIRINGS - 0.5).sum()))
    if last - first < 2:
        return float("nan"), (first, last)
    x, y = np.log(np.arange(first, last + 1)), np.log(prob[first - 1 : last])
    return float(-np.polyfit(x, y, 1)[0]), (first, last)


def phi_matrix(together: Float[np.ndarray, "n n"], n_samples: int) -> Float[np.ndarray, "n n"]:
    """Correlation matrix of on/off indicators, from the number of samples with both on `[n, n]`.

    No feature may be always or never on.
    """
    p = np.diag(together) / n_samples
    sd = np.sqrt(p * (1 - p))
    return (together / n_samples - np.outer(p, p)) / np.outer(sd, sd)


def noise_edge(n_features: int, n_samples: int) -> tuple[float, float]:
    """The Marchenko-Pastur edge: the largest eigenvalue that noise gives a correlation matrix.

    Returns:
        (1 + sqrt(n_features / n_samples))^2, and the Tracy-Widom width of a sample's largest
        eigenvalue about it (Johnstone 2001). This holds for independent samples and indicators
        that are on at least some 30 times.
    """
    f, n = max(n_features, 1), n_samples
    width = (np.sqrt(n) + np.sqrt(f)) / n * (1 / np.sqrt(n) + 1 / np.sqrt(f)) ** (1 / 3)
    return float((1 + np.sqrt(f / n)) ** 2), float(width)
