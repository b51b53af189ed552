"""A world's panel: that of its inputs, and what only a world knows, its features' own statistics.

Measured on samples, not read from the generator's settings. A coefficient other than 0 counts as
firing.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ...errors import require
from ...keys import named_key, seed_key
from ..dictionaries import cosine_blocks, welch_bound
from ..world import World
from .activations import Panel, PanelStats, add, empty_panel, finish
from .cofiring import MIN_FIRINGS, noise_edge, phi_matrix, rank_exponent

MAX_PAIRED = 1024  # most frequent features whose pairwise correlations are measured
MAX_EXACT = 4096  # features up to which all cosines are taken; beyond, those of as many rows
PHI_EDGES = np.linspace(-1.0, 1.0, 401)
COSINE_EDGES = np.linspace(0.0, 1.0, 401)
_BATCH, _BATCHES, _PILOT = 256, 16, 32
_BINS = 80


@dataclass(frozen=True)
class WorldPanel:
    """What a world does, in float64. Arrays "by rank" begin with the most frequent feature.

    Attributes:
        world: its name.
        stats: the panel of x.
        n_features: features.
        order: `[n_features]` features by rank, from the measured probability.
        prob: `[n_features]` measured probability of firing, by rank.
        rank_exponent: a of p ~ rank^-a: minus the slope of log p on log rank, least squares over
            the ranks in `rank_range`. NaN where fewer than 3 of those fired 30 times.
        rank_range: first and last rank of that fit, n^1/4 and n^3/4.
        magnitude_mean: `[n_features]` mean coefficient when on, by rank; NaN if never on.
        magnitude_sd: `[n_features]` its sd, by rank.
        magnitude_edges: `[bins + 1]` of the histogram over all firings; from 0 where no
            coefficient is negative.
        magnitude_counts: `[bins]`; the outer bins take in what lies beyond them.
        n_paired: how many features the correlations are of: the most frequent that fired at
            least 30 times and were not always on, at most 1,024.
        correlations: `[n_paired]` falling eigenvalues of their on/off indicators' correlation
            matrix.
        noise_edge: largest eigenvalue that independent firing shows, see :func:`noise_edge`.
        modes: eigenvalues more than four Tracy-Widom widths above the noise edge.
        phi_counts: `[400]` of pairwise phi, in bins of :data:`PHI_EDGES`.
        phi_rms: of the pairwise phi; independent firing shows 1/sqrt(n_samples).
        coherence_counts: `[400]` of |cos| between features, in bins of :data:`COSINE_EDGES`.
        coherence: the largest |cos| among them.
        coherence_rows: features whose cosines with all others were taken: all of them up to
            4,096, else a random sample of 4,096 * 4,096 / n_features.
        welch_bound: the least possible largest |cos| for so many features.
        l0_counts: `[largest + 1]` samples with 0, 1, ... features on.
    """

    world: str
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
        """Its variance; independent firing has the sum of p (1 - p)."""
        square = self.l0_counts @ np.arange(len(self.l0_counts)) ** 2 / self.l0_counts.sum()
        return float(square - self.l0_mean**2)


def world_panel(world: World, n_samples: int = 65_536, seed: int = 0) -> WorldPanel:
    """Samples a world in batches of 256 and measures it.

    The batch matters for worlds whose samples share something with their neighbours (a shared
    z, bursts). Which 1,024 features are the most frequent, and the bins of the magnitudes, are
    settled on 8,192 samples beforehand.

    Args:
        world: one world, not a stack of them.
        n_samples: rounded down to a multiple of 256.
        seed: of the samples.

    Raises:
        ToysaeError: fewer than 256 samples, or a stack of worlds.
    """
    require(n_samples >= _BATCH, f"n_samples {n_samples} must be at least {_BATCH}")
    require(world.directions.ndim == 2, "a stack of worlds has no one panel: take one of them")
    key, n_features = named_key(seed_key(seed, "world"), "panel"), world.n_features
    place, edges = np.zeros(n_features, np.int32), np.zeros(2 * _BINS + 1)
    pilot = [
        jax.device_get(_measure(world, named_key(key, "pilot"), start, _PILOT, place, edges))
        for start in range(0, _PILOT, _BATCHES)
    ]
    counts = sum(found["count"].sum(0) for found in pilot)
    edges = _magnitude_edges(max(float(found["largest"]) for found in pilot))
    chosen = np.sort(np.argsort(-counts, kind="stable")[:MAX_PAIRED])
    place[:] = len(chosen)
    place[chosen] = np.arange(len(chosen))
    panel, sums = empty_panel(world.d_in), _Sums(n_features, len(chosen))
    n_batches = n_samples // _BATCH
    for start in range(0, n_batches, _BATCHES):
        found = _measure(world, key, start, n_batches, place, edges)
        panel = sums.add(panel, found, min(_BATCHES, n_batches - start))
    return _finish(world, finish(panel), sums, chosen, edges, seed)


def _magnitude_edges(largest: float) -> np.ndarray:
    """From -1.25 to 1.25 times the pilot's largest |coefficient|, its first two digits rounded up.

    64 bins on either side of 0, 16 more beyond.
    """
    largest = largest or 1.0
    unit = 10.0 ** (np.floor(np.log10(largest)) - 1)
    return np.ceil(largest / unit * (1 - 1e-6)) * unit / 64 * np.arange(-_BINS, _BINS + 1)


@jax.jit
def _measure(
    world: World,
    key: Array,
    start: int | Int[Array, ""],
    stop: int | Int[Array, ""],
    place: Int[Array | np.ndarray, " n_features"],
    edges: Float[Array | np.ndarray, " edges"],
) -> dict[str, Array]:
    """Sixteen batches of 256 from number `start` on: x, L0 and sums over features.

    `place` says in which column of the pairs a feature stands; past the last one for none. From
    batch `stop` on nothing is counted.
    """
    n_pairs, n_bins = min(world.n_features, MAX_PAIRED), edges.shape[0] - 1

    def one(step):
        batch = world.sample(jax.random.fold_in(key, step), _BATCH)
        values = jnp.where(step < stop, batch.values, 0.0)
        on = values != 0
        rows = jnp.arange(_BATCH)[:, None]
        fires = jnp.zeros((_BATCH, n_pairs + 1), bool).at[rows, place[batch.indices]].max(on)
        count = jnp.zeros(world.n_features).at[batch.indices].add(on)
        total = jnp.zeros(world.n_features).at[batch.indices].add(values)
        mean = total / jnp.maximum(count, 1)
        rest = jnp.where(on, values - mean[batch.indices], 0.0)
        bins = jnp.clip(jnp.searchsorted(edges, values, side="right") - 1, 0, n_bins - 1)
        return {
            "x": batch.x,
            "l0": on.sum(1),
            "count": count,
            "mean": mean,
            "square": jnp.zeros(world.n_features).at[batch.indices].add(rest**2),
            "bins": jnp.zeros(n_bins, jnp.int32).at[bins].add(on.astype(jnp.int32)),
            "fires": fires[:, :n_pairs],
            "largest": jnp.abs(values).max(),
        }

    found = jax.lax.map(one, start + jnp.arange(_BATCHES))
    fires = found.pop("fires").reshape(-1, n_pairs).astype(jnp.float32)
    together = jnp.matmul(fires.T, fires, precision="highest")
    summed = {"together": together, "bins": found["bins"].sum(0), "largest": found["largest"].max()}
    return found | summed


class _Sums:
    """Running sums over features, on the host in float64."""

    def __init__(self, n_features: int, n_chosen: int):
        self.count, self.mean, self.square = np.zeros((3, n_features))
        self.together = np.zeros((n_chosen, n_chosen))
        self.bins, self.l0 = np.zeros(2 * _BINS, np.int64), np.zeros(1, np.int64)

    def add(self, panel: Panel, found: dict[str, Array], n_batches: int) -> Panel:
        """Takes in the first `n_batches` of what was found, and returns the panel with their x."""
        x = found.pop("x")[:n_batches]
        panel = add(panel, x.reshape(-1, x.shape[-1]))
        got = jax.device_get(found)
        for count, mean, square in zip(got["count"], got["mean"], got["square"], strict=True):
            n = np.maximum(self.count + count, 1)
            delta = np.where(count > 0, mean - self.mean, 0.0)
            self.square += square + delta**2 * self.count * count / n
            self.mean += delta * count / n
            self.count += count
        self.together += got["together"]
        self.bins += got["bins"]
        l0 = np.bincount(got["l0"][:n_batches].ravel(), minlength=len(self.l0))
        l0[: len(self.l0)] += self.l0
        self.l0 = l0
        return panel


def _finish(
    world: World, stats: PanelStats, sums: _Sums, chosen: np.ndarray, edges: np.ndarray, seed: int
) -> WorldPanel:
    n, n_features = stats.n_samples, world.n_features
    order = np.argsort(-sums.count, kind="stable")
    count = sums.count[order]
    safe = np.where(count > 0, count, np.nan)
    exponent, rank_range = rank_exponent(count / n, n)
    use = (sums.count[chosen] >= MIN_FIRINGS) & (sums.count[chosen] < n)
    phi = phi_matrix(sums.together[np.ix_(use, use)], n)
    pairs = phi[np.triu_indices(len(phi), 1)]
    values = np.linalg.eigvalsh(phi)[::-1]
    edge, width = noise_edge(len(phi), n)
    cosines = _cosines(world.directions, seed)
    kept = slice(0 if sums.bins[:_BINS].any() else _BINS, None)
    return WorldPanel(
        world=world.name,
        stats=stats,
        n_features=n_features,
        order=order,
        prob=count / n,
        rank_exponent=exponent,
        rank_range=rank_range,
        magnitude_mean=sums.mean[order] * (safe / safe),
        magnitude_sd=np.sqrt(sums.square[order] / safe),
        magnitude_edges=edges[kept],
        magnitude_counts=sums.bins[kept],
        n_paired=len(phi),
        correlations=values,
        noise_edge=edge,
        modes=int((values > edge + 4 * width).sum()),
        phi_counts=np.histogram(np.clip(pairs, -1, 1), PHI_EDGES)[0],
        phi_rms=float(np.sqrt((pairs**2).mean())) if pairs.size else float("nan"),
        coherence_counts=cosines[0],
        coherence=cosines[1],
        coherence_rows=cosines[2],
        welch_bound=welch_bound(n_features, world.d_in),
        l0_counts=sums.l0,
    )


def _cosines(directions: Array, seed: int) -> tuple[np.ndarray, float, int]:
    """Histogram of |cos| between features, the largest, and how many rows were taken."""
    rows, n = np.asarray(directions, np.float64), len(directions)
    taken = np.arange(n)
    if n > MAX_EXACT:
        n_taken = max(1, MAX_EXACT**2 // n)
        taken = np.sort(np.random.default_rng(seed).choice(n, n_taken, replace=False))
    counts, largest = np.zeros(len(COSINE_EDGES) - 1, np.int64), 0.0
    for some, cos in cosine_blocks(rows, taken):
        # each pair once: of two taken rows, only from the earlier one
        others: Bool[np.ndarray, "some n"] = np.ones(cos.shape, bool)
        others[:, taken] = taken > some[:, None]
        cos = np.minimum(np.abs(cos[others]), 1.0)
        counts += np.histogram(cos, COSINE_EDGES)[0]
        largest = max(largest, float(cos.max(initial=0.0)))
    return counts, largest if n > 1 else float("nan"), len(taken)
