"""One SAE, wherever it comes from, against one world: the row that a sweep would give it."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from ..errors import require
from ..recovery import cosines, distinct_matches, mcc, random_floor
from ..sae import SAE
from ..training.state import keys_of
from ..worlds import World
from ..worlds.world import sample
from .scoring import THRESHOLDS, evaluate_all

_BATCH = 1024


def score_sae(sae: SAE, world: World, n_samples: int = 65_536, seed: int = 0) -> pd.DataFrame:
    """Recovery, reconstruction and sparsity of one SAE on fresh samples of a world.

    Args:
        sae: as it is used outside training.
        world: whose true features it is scored against.
        n_samples: evaluation samples, rounded up to whole batches of 1,024.
        seed: of the evaluation sample.

    Returns:
        One row; its columns are named as in a sweep's table. `true_l0` is of the evaluation
        sample, `floor` what independent random directions would score as `mmcs`.

    Raises:
        ToysaeError: an ensemble, an SAE of another d_in than the world's, no samples, or cosines
            that are not finite.
    """
    require(n_samples >= 1, f"n_samples {n_samples} must be at least 1")
    require(sae.W_dec.ndim == 2, f"W_dec has shape {list(sae.W_dec.shape)}: score one SAE at a "
            "time, e.g. result.sae(0)")  # fmt: skip
    d_in, d_sae = sae.spec.d_in, sae.spec.d_sae
    require(d_in == world.d_in, f"the SAE's d_in {d_in} is not the d_in {world.d_in} of world "
            f"{world.name!r}: give a world of d_in={d_in}")  # fmt: skip
    require(np.isfinite(np.asarray(sae.W_dec)).all(), "W_dec is not finite: the SAE diverged")
    seeds, n_batches = jnp.array([seed], jnp.int32), -(-n_samples // _BATCH)
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None, None], sae)
    worlds = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], world)
    scores = jax.device_get(evaluate_all(one, worlds, seeds, n_batches, _BATCH))
    scores.pop("firing_freq")
    cos = np.asarray(cosines(world.target, sae.W_dec))
    mcs = cos.max(1)
    return pd.DataFrame(
        {
            "world": world.name,
            "d_in": d_in,
            "n_features": len(cos),
            "ratio": len(cos) / d_in,
            "d_sae": d_sae,
            "encoder": type(sae.spec.encoder).__name__,
            "activation": type(sae.spec.activation).__name__,
            "n_eval": n_batches * _BATCH,
            "eval_seed": seed,
            "true_l0": _true_l0(world, seeds, n_batches),
            "mmcs": mcs.mean(),
            "mmcs_abs": np.abs(cos).max(1).mean(),
            "mmcs_latents": cos.max(0).mean(),
            **{f"mcs_above_{t:g}": (mcs > t).mean() for t in THRESHOLDS},
            **{f"distinct_above_{t:g}": distinct_matches(cos, t) for t in THRESHOLDS},
            "mcc": mcc(cos),
            "mcc_abs": mcc(cos, absolute=True),
            **{name: np.asarray(value).item() for name, value in scores.items()},
            "floor": random_floor(d_in, d_sae),
        },
        index=pd.Index([0]),
    )


def _true_l0(world: World, seeds: jax.Array, n_batches: int) -> float:
    """Active features a sample, over the very samples that the SAE was scored on."""
    key = keys_of(seeds, "evaluation")[0]
    counts = [
        np.asarray(sample(world, jax.random.fold_in(key, i), _BATCH).feature_counts()).sum()
        for i in range(min(n_batches, 16))
    ]
    return float(np.sum(counts)) / (len(counts) * _BATCH)
