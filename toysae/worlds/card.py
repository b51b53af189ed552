"""The data card: what a world shows on a sample, not what its settings say."""

from dataclasses import asdict, dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ..checked import integer
from ..keys import named_key, seed_key
from .dictionaries import cosine_blocks, welch_bound
from .panel.cofiring import phi_matrix
from .world import World

_BATCH = 256
_MAX_PAIRED = 2048  # features whose pairwise correlation is measured (the most frequent ones)
_EXACT_COSINES = 20_000  # beyond so many features, the cosines of a random set of them
_COSINE_SAMPLE = 2048
_STARVED = 10  # with fewer firings in the sample a probability cannot be measured


@dataclass(frozen=True, repr=False)
class Card:
    """Measured properties of a world. Probabilities are per sample; cosines are signed."""

    world: str
    d_in: int
    n_features: int
    ratio: float
    n_samples: int
    true_l0: float
    true_l0_sd: float
    empty_samples: float
    dropped_firings: int
    prob_max: float
    prob_median: float
    prob_min: float
    starved_features: int
    silent_features: int
    correlation_rms: float
    correlation_floor: float
    correlation_max: float
    correlation_pairs: int
    magnitude_mean: float
    magnitude_sd: float
    magnitude_max: float
    norm_mean: float
    norm_sd: float
    nearest_cosine: float
    coherence: float
    welch_bound: float

    def rows(self) -> list[tuple[str, str]]:
        """Returns the card as (what, value) lines for a table."""
        c = self
        return [
            ("features in dimensions", f"{c.n_features} in {c.d_in} (ratio {c.ratio:g})"),
            ("samples", f"{c.n_samples:,}"),
            ("true L0", f"{c.true_l0:.3f}, sd {c.true_l0_sd:.3f}"),
            ("empty samples", f"{c.empty_samples:.3%}"),
            ("firings that found no slot", f"{c.dropped_firings:,}"),
            ("firing probability", f"max {c.prob_max:.4g}, median {c.prob_median:.4g}, "
                                   f"min {c.prob_min:.4g}"),
            (f"features with < {_STARVED} firings", f"{c.starved_features} "
                                                  f"({c.silent_features} never fired)"),
            ("pairwise firing correlation", f"rms {c.correlation_rms:.4f} "
             f"(noise floor {c.correlation_floor:.4f}), largest {c.correlation_max:.3f}, "
             f"{c.correlation_pairs:,} pairs"),
            ("magnitude when on", f"mean {c.magnitude_mean:.3f}, sd {c.magnitude_sd:.3f}, "
                                  f"max {c.magnitude_max:.3f}"),
            ("norm of x", f"mean {c.norm_mean:.3f}, sd {c.norm_sd:.3f}"),
            ("nearest other feature", f"mean max cos {c.nearest_cosine:.3f}"),
            ("coherence (max |cos|)", f"{c.coherence:.3f} (Welch bound {c.welch_bound:.3f})"),
        ]  # fmt: skip

    def __repr__(self) -> str:
        rows = [("world", self.world), *self.rows()]
        width = max(len(what) for what, _ in rows)
        return "\n".join(f"{what:<{width}}  {value}" for what, value in rows)

    def as_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


def world_card(world: World, n_samples: int = 131_072, seed: int = 0) -> Card:
    """Samples a world in batches of 256 and measures it.

    The pairwise correlation is that of the on/off indicators (phi), over features that fired at
    least ten times; its noise floor, which independent firing shows, is 1/sqrt(n_samples).

    Raises:
        ToysaeError: fewer than 256 samples.
    """
    n_samples = integer("n_samples", n_samples, _BATCH, 2**31 - 1)
    n_batches = n_samples // _BATCH
    n = n_batches * _BATCH
    key = named_key(seed_key(seed, "world"), "card")
    sums, moments = jax.device_get(_accumulate(world, key, n_batches))
    counts = np.asarray(sums["counts"], np.float64)
    probs = counts / n
    (_, l0_sd), (norm, norm_sd), (value, value_sd) = (
        _mean_and_sd(moments[name]) for name in ("l0", "norm", "value")
    )
    rms, largest, pairs = _correlation(np.asarray(sums["together"], np.float64), counts, n)
    nearest, coherence = coherences(np.asarray(world.directions, np.float32))
    n_features, d_in = world.directions.shape
    return Card(
        world=world.name, d_in=d_in, n_features=n_features, ratio=n_features / d_in, n_samples=n,
        true_l0=float(counts.sum() / n), true_l0_sd=l0_sd,
        empty_samples=float(sums["empty"] / n),
        dropped_firings=int(sums["dropped"]),
        prob_max=float(probs.max()), prob_median=float(np.median(probs)),
        prob_min=float(probs.min()),
        starved_features=int((counts < _STARVED).sum()), silent_features=int((counts == 0).sum()),
        correlation_rms=rms, correlation_floor=float(1 / np.sqrt(n)), correlation_max=largest,
        correlation_pairs=pairs,
        magnitude_mean=value, magnitude_sd=value_sd, magnitude_max=float(sums["value_max"]),
        norm_mean=norm, norm_sd=norm_sd,
        nearest_cosine=nearest, coherence=coherence, welch_bound=welch_bound(n_features, d_in),
    )  # fmt: skip


@partial(jax.jit, static_argnames="n_batches")
def _accumulate(
    world: World, key: PRNGKeyArray, n_batches: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Returns sums over all batches, and the moments of each batch by name (:func:`_moments`)."""
    paired = min(world.n_features, _MAX_PAIRED)
    start = {
        "empty": jnp.int32(0),
        "dropped": jnp.int32(0),
        "value_max": jnp.float32(0),
        "counts": jnp.zeros(world.n_features, jnp.int32),
        "together": jnp.zeros((paired, paired), jnp.float32),
    }

    def body(sums, step):
        batch = world.sample(jax.random.fold_in(key, step), _BATCH)
        on = batch.values != 0
        l0 = on.sum(1)
        inside = jnp.where(on & (batch.indices < paired), batch.indices, paired)
        fires = jnp.zeros((_BATCH, paired + 1), jnp.float32)
        fires = fires.at[jnp.arange(_BATCH)[:, None], inside].set(1.0)[:, :paired]
        new = {
            "empty": (l0 == 0).sum(dtype=jnp.int32),
            "together": fires.T @ fires,
            "dropped": jnp.int32(0) if batch.dropped is None else batch.dropped.sum(),
        }
        added = {name: sums[name] + value for name, value in new.items()}
        added["counts"] = sums["counts"].at[batch.indices].add(on.astype(jnp.int32))
        added["value_max"] = jnp.maximum(sums["value_max"], batch.values.max())
        all_samples = jnp.ones(_BATCH, bool)
        return added, {
            "l0": _moments(l0.astype(jnp.float32), all_samples),
            "norm": _moments(jnp.linalg.norm(batch.x, axis=1), all_samples),
            "value": _moments(batch.values, on),
        }

    return jax.lax.scan(body, start, jnp.arange(n_batches))


def _moments(values: Float[Array, "..."], counted: Bool[Array, "..."]) -> Float[Array, "3"]:
    """Returns how many values count, their mean, and the sum of squares about it.

    Sums of squares about 0 would lose the spread of long vectors in float32.
    """
    n = counted.sum()
    mean = jnp.where(counted, values, 0).sum() / jnp.maximum(n, 1)
    return jnp.stack([n, mean, jnp.where(counted, (values - mean) ** 2, 0).sum()])


def _mean_and_sd(moments: Float[np.ndarray, "n_batches 3"]) -> tuple[float, float]:
    """Mean and sd over all batches (Chan, Golub and LeVeque 1983); 0 where nothing counts."""
    n, means, squares = np.asarray(moments, np.float64).T
    total = max(n.sum(), 1.0)
    mean = n @ means / total
    return float(mean), float(np.sqrt((squares.sum() + n @ (means - mean) ** 2) / total))


def _correlation(together: np.ndarray, counts: np.ndarray, n: int) -> tuple[float, float, int]:
    """Rms of the pairwise phi, the largest by size, and the number of pairs."""
    counts = counts[: len(together)]
    use = (counts >= _STARVED) & (counts < n)
    if use.sum() < 2:
        return float("nan"), float("nan"), 0
    phi = phi_matrix(together[np.ix_(use, use)], n)[np.triu_indices(use.sum(), 1)]
    return float(np.sqrt((phi**2).mean())), float(phi[np.abs(phi).argmax()]), phi.size


def coherences(directions: np.ndarray) -> tuple[float, float]:
    """Mean over unit rows of the largest signed cosine to another row, and the largest |cos|.

    Both are over all rows up to 20,000 of them, else over a random 2,048 against all.
    """
    n = len(directions)
    if n < 2:
        return float("nan"), float("nan")
    rows = np.arange(n)
    if n > _EXACT_COSINES:
        rows = np.random.default_rng(0).choice(n, _COSINE_SAMPLE, replace=False)
    nearest, coherence = [], 0.0
    for block, cos in cosine_blocks(directions, rows):
        own = (np.arange(len(block)), block)
        cos[own] = -np.inf
        nearest.append(cos.max(1))
        cos[own] = 0.0
        coherence = max(coherence, float(np.abs(cos).max()))
    return float(np.concatenate(nearest).mean()), coherence
