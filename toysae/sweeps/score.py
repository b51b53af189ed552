"""One SAE, wherever it comes from, against one world: the row that a sweep would give it."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from ..errors import require
from ..recovery import cosines, random_floor
from ..sae import SAE
from ..worlds import World
from .scoring import evaluate_all, truth_columns

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
    scores = jax.device_get(evaluate_all(one, worlds, seeds, jnp.int32(n_batches), _BATCH))
    scores.pop("firing_freq")
    cos = np.asarray(cosines(world.target, sae.W_dec))
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
            **truth_columns(cos[None]),
            **{name: np.asarray(value).item() for name, value in scores.items()},
            "floor": random_floor(d_in, d_sae),
        },
        index=pd.Index([0]),
    )
