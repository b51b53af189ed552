"""The panel of features: a world's true ones, or an SAE's latents on real activations.

All is measured on samples, not read from settings. A coefficient other than 0 counts as firing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..dictionaries import cosine_blocks, welch_bound
from .activations import PanelStats
from .cofiring import MIN_FIRINGS, noise_edge, phi_matrix, rank_exponent

MAX_PAIRED = 1024  # most frequent features whose pairwise correlations are measured
MAX_EXACT = 4096  # up to this many features all cosines are taken; beyond, as many of them
PHI_EDGES = np.linspace(-1.0, 1.0, 401)
COSINE_EDGES = np.linspace(0.0, 1.0, 401)
BINS = 80


@dataclass(frozen=True)
class FeaturePanel:
    """Statistics of features, in float64. Arrays "by rank" begin with the most frequent feature.

    Attributes:
        name: of the world, or of the SAE.
        stats: the panel of x.
        n_features: number of features.
        order: `[n_features]` features by rank, from the measured probability.
        prob: `[n_features]` measured probability of firing, by rank.
        rank_exponent: a of p ~ rank^-a, by least squares of log p on log rank over `rank_range`;
            NaN where fewer than 3 of those features fired 30 times.
        rank_range: first and last rank of that fit, about n^1/4 and n^3/4.
        magnitude_mean: `[n_features]` mean coefficient when on, by rank; NaN if never on.
        magnitude_sd: `[n_features]` its sd, by rank.
        magnitude_edges: `[bins + 1]` of the histogram over all firings; from 0 where no
            coefficient is negative.
        magnitude_counts: `[bins]`; the outer bins include what lies beyond them.
        n_paired: number of features with measured correlations: the most frequent that fired at
            least 30 times and were not always on, at most 1,024.
        correlations: `[n_paired]` falling eigenvalues of their on/off indicators' correlation
            matrix.
        noise_edge: largest eigenvalue that independent firing shows, see :func:`noise_edge`.
        modes: number of eigenvalues more than four Tracy-Widom widths above the noise edge.
        phi_counts: `[400]` of pairwise phi, in bins of :data:`PHI_EDGES`.
        phi_rms: rms of the pairwise phi; independent firing shows 1/sqrt(n_samples).
        coherence_counts: `[400]` of |cos| between features, in bins of :data:`COSINE_EDGES`.
        coherence: the largest |cos| among them.
        coherence_rows: number of features whose cosines with all others were taken: all up to
            4,096, else a random sample of 4,096 * 4,096 / n_features.
        welch_bound: the least possible largest |cos| for so many features.
        l0_counts: `[largest + 1]` samples with 0, 1, ... features on.
    """

    name: str
    stats: PanelStats
    n_features: int
    order: Int[np.ndarray, " n_features"]
    prob: Float[np.ndarray, " n_features"]
    rank_exponent: float
    rank_range: tuple[int, int]
    magnitude_mean: Float[np.ndarray, " n_features"]
    magnitude_sd: Float[np.ndarray, " n_features"]
    magnitude_edges: Float[np.ndarray, " edges"]
    magnitude_counts: Int[np.ndarray, " bins"]
    n_paired: int
    correlations: Float[np.ndarray, " n_paired"]
    noise_edge: float
    modes: int
    phi_counts: Int[np.ndarray, " phi_bins"]
    phi_rms: float
    coherence_counts: Int[np.ndarray, " cosine_bins"]
    coherence: float
    coherence_rows: int
    welch_bound: float
    l0_counts: Int[np.ndarray, " l0_bins"]

    @property
    def l0_mean(self) -> float:
        """Mean number of features on."""
        return float(self.l0_counts @ np.arange(len(self.l0_counts)) / self.l0_counts.sum())

    @property
    def l0_variance(self) -> float:
        """Variance of that number; independent firing has the sum of p (1 - p)."""
        square = self.l0_counts @ np.arange(len(self.l0_counts)) ** 2 / self.l0_counts.sum()
        return float(square - self.l0_mean**2)


def most_frequent(counts: Float[np.ndarray, " n_features"]) -> Int[np.ndarray, " n_paired"]:
    """Returns the features whose correlations are measured, in the order of their numbers."""
    return np.sort(np.argsort(-counts, kind="stable")[:MAX_PAIRED])


def magnitude_edges(largest: float) -> np.ndarray:
    """Returns edges of 80 equal bins on either side of 0.

    64 of them reach the largest |coefficient| expected, rounded up to two digits.
    """
    largest = largest or 1.0
    unit = 10.0 ** (np.floor(np.log10(largest)) - 1)
    return np.ceil(largest / unit * (1 - 1e-6)) * unit / 64 * np.arange(-BINS, BINS + 1)


class FeatureSums:
    """Running sums over features, on the host in float64."""

    def __init__(self, n_features: int, n_chosen: int):
        self.count, self.mean, self.square = np.zeros((3, n_features))
        self.together = np.zeros((n_chosen, n_chosen))
        self.bins, self.l0 = np.zeros(2 * BINS, np.int64), np.zeros(1, np.int64)

    def add(self, new: Mapping[str, np.ndarray]) -> None:
        """Adds some batches.

        Args:
            new: for each batch `[batches, n_features]` the `count` of firings, the `mean`
                coefficient when on and the sum of squares about it, `square`; `l0` of each sample;
                over all of them, how often pairs are on `together` `[n_chosen, n_chosen]`, and
                the coefficients' `bins`.
        """
        for count, mean, square in zip(new["count"], new["mean"], new["square"], strict=True):
            n = np.maximum(self.count + count, 1)
            delta = np.where(count > 0, mean - self.mean, 0.0)
            self.square += square + delta**2 * self.count * count / n
            self.mean += delta * count / n
            self.count += count
        self.together += new["together"]
        self.bins += new["bins"]
        l0 = np.bincount(new["l0"].ravel(), minlength=len(self.l0))
        l0[: len(self.l0)] += self.l0
        self.l0 = l0


def feature_panel(
    name: str,
    directions: Float[Array | np.ndarray, "n_features d_in"],
    stats: PanelStats,
    sums: FeatureSums,
    chosen: Int[np.ndarray, " n_chosen"],
    edges: Float[np.ndarray, " edges"],
    seed: int = 0,
) -> FeaturePanel:
    """Returns the panel from sums over samples.

    Args:
        name: of the world, or of the SAE.
        directions: of the features, unit rows.
        stats: the panel of x.
        sums: over the same samples.
        chosen: features of the pairs, see :func:`most_frequent`.
        edges: of the histogram of coefficients, see :func:`magnitude_edges`.
        seed: chooses the features whose cosines are taken where there are many.
    """
    n, n_features = stats.n_samples, len(directions)
    order = np.argsort(-sums.count, kind="stable")
    count = sums.count[order]
    safe = np.where(count > 0, count, np.nan)
    exponent, rank_range = rank_exponent(count / n, n)
    use = (sums.count[chosen] >= MIN_FIRINGS) & (sums.count[chosen] < n)
    phi = phi_matrix(sums.together[np.ix_(use, use)], n)
    pairs = phi[np.triu_indices(len(phi), 1)]
    values = np.linalg.eigvalsh(phi)[::-1]
    edge, width = noise_edge(len(phi), n)
    cosines = _cosines(directions, seed)
    bins = slice(0 if sums.bins[:BINS].any() else BINS, None)
    return FeaturePanel(
        name=name,
        stats=stats,
        n_features=n_features,
        order=order,
        prob=count / n,
        rank_exponent=exponent,
        rank_range=rank_range,
        magnitude_mean=sums.mean[order] * (safe / safe),
        magnitude_sd=np.sqrt(sums.square[order] / safe),
        magnitude_edges=edges[bins],
        magnitude_counts=sums.bins[bins],
        n_paired=len(phi),
        correlations=values,
        noise_edge=edge,
        modes=int((values > edge + 4 * width).sum()),
        phi_counts=np.histogram(np.clip(pairs, -1, 1), PHI_EDGES)[0],
        phi_rms=float(np.sqrt((pairs**2).mean())) if pairs.size else float("nan"),
        coherence_counts=cosines[0],
        coherence=cosines[1],
        coherence_rows=cosines[2],
        welch_bound=welch_bound(n_features, stats.d_in),
        l0_counts=sums.l0,
    )


def _cosines(directions: Array | np.ndarray, seed: int) -> tuple[np.ndarray, float, int]:
    """Histogram of |cos| between features, the largest |cos|, and the number of rows sampled."""
    rows, n = np.asarray(directions, np.float64), len(directions)
    sampled = np.arange(n)
    if n > MAX_EXACT:
        n_sampled = max(1, MAX_EXACT**2 // n)
        sampled = np.sort(np.random.default_rng(seed).choice(n, n_sampled, replace=False))
    counts, largest = np.zeros(len(COSINE_EDGES) - 1, np.int64), 0.0
    for block, cos in cosine_blocks(rows, sampled):
        # Each pair counts once: two sampled rows from the earlier one alone.
        others: Bool[np.ndarray, "block n"] = np.ones(cos.shape, bool)
        others[:, sampled] = sampled > block[:, None]
        cos = np.minimum(np.abs(cos[others]), 1.0)
        counts += np.histogram(cos, COSINE_EDGES)[0]
        largest = max(largest, float(cos.max(initial=0.0)))
    return counts, largest if n > 1 else float("nan"), len(sampled)
