"""What a world's geometry allows before any SAE: coherence, and how sparse codes must be."""

from dataclasses import dataclass
from math import log, nan

import numpy as np
import scipy

from ..errors import require
from ..keys import named_key, seed_key
from ..worlds.card import coherences
from ..worlds.dictionaries import welch_bound
from ..worlds.world import World, batches

SPARSITY_CONSTANT = 0.5
"""C of k ~ C d / log(N / d): L1 minimisation recovers k non-negative coefficients of N from d
random projections, for most supports, if d > 2 k log(N / d) (Donoho and Tanner 2010, Precise
Undersampling Theorems, Proc. IEEE 98(6); asymptotic in N / d, so crude near N = d)."""


@dataclass(frozen=True)
class Limits:
    """How much directions interfere and how many may be active.

    Attributes:
        welch: the least possible largest \\|cos\\| of as many directions; 0 where they fit
            orthogonally.
        coherence: the largest \\|cos\\| of two different directions.
        nearest: mean over directions of the largest signed cosine to another.
        sparsity: k ~ d / (2 log(N / d)), at most d, up to which random directions can be told
            apart (see :data:`SPARSITY_CONSTANT`); NaN where N <= d.
        true_l0: mean active features in a sample.
    """

    welch: float
    coherence: float
    nearest: float
    sparsity: float
    true_l0: float

    def __str__(self) -> str:
        return (
            f"coherence {self.coherence:.3f} (Welch bound {self.welch:.3f}), mean nearest cosine "
            f"{self.nearest:.3f}; true L0 {self.true_l0:.3g}, compressed-sensing limit "
            f"d / (2 log(N/d)) = {self.sparsity:.3g}"
        )


def sparsity_limit(n_features: int, d_in: int) -> float:
    """Returns min(d, C d / log(N / d)), see :data:`SPARSITY_CONSTANT`; NaN where N <= d."""
    require(n_features > 0 < d_in, f"n_features {n_features} and d_in {d_in} must be positive")
    if n_features <= d_in:
        return nan
    return min(float(d_in), SPARSITY_CONSTANT * d_in / log(n_features / d_in))


def phase_transition(n_features: float, d_in: int) -> float:
    """Largest number of active features at which non-negative L1 minimisation finds the codes.

    For a known random dictionary without noise it is k = rho d with (Donoho, Maleki and Montanari
    2009, Message-passing algorithms for compressed sensing, PNAS 106(45), eq. 4)

        rho(delta) = max over z >= 0 of (1 - g / delta) / (1 + z^2 - g),
        g = (1 + z^2) Phi(-z) - z phi(z),  delta = d / N.

    It holds for most supports as d goes to infinity at fixed N / d; at d of tens the step is
    blurred over a fifth of k. :func:`sparsity_limit` is its limit for large N / d.

    Returns:
        k, in features a sample; `d_in` where N <= d.
    """
    require(n_features > 0 < d_in, f"n_features {n_features} and d_in {d_in} must be positive")
    if n_features <= d_in:
        return float(d_in)
    delta = d_in / n_features

    def rho(z: float) -> float:
        g = (1 + z**2) * scipy.stats.norm.cdf(-z) - z * scipy.stats.norm.pdf(z)
        return float((1 - g / delta) / (1 + z**2 - g))

    best = scipy.optimize.minimize_scalar(lambda z: -rho(z), bounds=(0, 10), method="bounded")
    return d_in * rho(best.x)


def limits(world: World, n_samples: int = 16_384, seed: int = 0) -> Limits:
    """Returns the limits of a world, for the directions that SAEs are scored against.

    Args:
        world: one world, not several stacked.
        n_samples: number of samples that `true_l0` is measured on.
        seed: of those samples.

    Raises:
        ToysaeError: no samples.
    """
    require(n_samples >= 1, f"n_samples {n_samples} must be at least 1")
    nearest, coherence = coherences(np.asarray(world.target, np.float32))
    n_features, d_in = world.target.shape
    key = named_key(seed_key(seed, "data"), "limits")
    active = [int((batch.values != 0).sum()) for batch in batches(world, key, n_samples)]
    return Limits(
        welch_bound(n_features, d_in),
        coherence,
        nearest,
        sparsity_limit(n_features, d_in),
        sum(active) / (len(active) * 1024),
    )
