"""A world's panel: that of its inputs, and the statistics of its true features."""

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
    n_samples = integer("n_samples", n_samples, _BATCH, 2**31 - 1)
    require(world.directions.ndim == 2, "a stack of worlds has no one panel: take one of them")
    key, n_features = named_key(seed_key(seed, "world"), "panel"), world.n_features
    place, edges = np.zeros(n_features, np.int32), np.zeros(2 * BINS + 1)
    pilot = [
        jax.device_get(_measure(world, named_key(key, "pilot"), start, _PILOT, place, edges))
        for start in range(0, _PILOT, _BATCHES)
    ]
    counts = np.sum([found["count"].sum(0) for found in pilot], 0)
    edges = magnitude_edges(max(float(found["largest"]) for found in pilot))
    chosen = most_frequent(counts)
    place[:] = len(chosen)
    place[chosen] = np.arange(len(chosen))
    panel, sums = empty_panel(world.d_in), FeatureSums(n_features, len(chosen))
    n_batches = n_samples // _BATCH
    for start in range(0, n_batches, _BATCHES):
        found = _measure(world, key, start, n_batches, place, edges)
        used = min(_BATCHES, n_batches - start)
        x = found.pop("x")[:used]
        panel = add(panel, x.reshape(-1, x.shape[-1]))
        got = jax.device_get(found)
        sums.add({**got, "l0": got["l0"][:used]})
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
