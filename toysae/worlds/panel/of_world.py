"""Measures a world's panel: its inputs and its true features."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...checked import integer
from ...errors import require
from ...keys import named_key, seed_key
from ..world import World
from .activations import add, empty_panel, finished_panel
from .features import (
    BINS,
    MAX_PAIRED,
    FeaturePanel,
    FeatureSums,
    feature_panel,
    magnitude_edges,
    most_frequent,
)

_BATCH, _BATCHES, _PILOT = 256, 16, 32


def world_panel(world: World, n_samples: int = 65_536, seed: int = 0) -> FeaturePanel:
    """Samples a world in batches of 256 and measures it.

    The size of a batch matters for worlds whose samples depend on their neighbours (a shared z,
    bursts). 8,192 samples before these choose the 1,024 most frequent features and the bins of the
    magnitudes.

    Args:
        world: one world, not a stack of them.
        n_samples: rounded down to a multiple of 256.
        seed: of the samples.

    Raises:
        ToysaeError: fewer than 256 samples, or a stack of worlds.
    """
    n_samples = integer("n_samples", n_samples, _BATCH, 2**31 - 1)
    require(world.directions.ndim == 2, "a stack of worlds has no single panel: take one of them")
    key, n_features = named_key(seed_key(seed, "world"), "panel"), world.n_features
    place, edges = np.zeros(n_features, np.int32), np.zeros(2 * BINS + 1)
    pilot = [
        jax.device_get(_measure(world, named_key(key, "pilot"), start, _PILOT, place, edges))
        for start in range(0, _PILOT, _BATCHES)
    ]
    counts = np.sum([sums["count"].sum(0) for sums in pilot], 0)
    edges = magnitude_edges(max(float(sums["largest"]) for sums in pilot))
    chosen = most_frequent(counts)
    place[:] = len(chosen)
    place[chosen] = np.arange(len(chosen))
    panel, sums = empty_panel(world.d_in), FeatureSums(n_features, len(chosen))
    n_batches = n_samples // _BATCH
    for start in range(0, n_batches, _BATCHES):
        measured = _measure(world, key, start, n_batches, place, edges)
        used = min(_BATCHES, n_batches - start)
        panel = add(panel, measured.pop("x")[:used].reshape(-1, world.d_in))
        measured = jax.device_get(measured)
        sums.add({**measured, "l0": measured["l0"][:used]})
    stats = finished_panel(panel)
    return feature_panel(world.name, world.directions, stats, sums, chosen, edges, seed)


@jax.jit
def _measure(
    world: World,
    key: Array,
    start: int | Int[Array, ""],
    stop: int | Int[Array, ""],
    place: Int[Array | np.ndarray, " n_features"],
    edges: Float[Array | np.ndarray, " edges"],
) -> dict[str, Array]:
    """Returns x, L0 and sums over features of sixteen batches of 256, from batch `start` on.

    `place` is each feature's column among the pairs, or past the last one. Batches from `stop` on
    are not counted.
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

    each = jax.lax.map(one, start + jnp.arange(_BATCHES))
    fires = each.pop("fires").reshape(-1, n_pairs).astype(jnp.float32)
    together = jnp.matmul(fires.T, fires, precision="highest")
    summed = {"together": together, "bins": each["bins"].sum(0), "largest": each["largest"].max()}
    return each | summed
