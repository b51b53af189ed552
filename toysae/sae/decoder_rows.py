"""A world whose samples are an SAE's decoder rows, for training a meta-SAE.

Showing SAE latents are not atomic (Bussmann, Leask et al. 2024): an SAE of the decoder of an SAE
says whether latents are composed of fewer directions. Here these can be known: give the truth.
"""

import jax.numpy as jnp
import numpy as np

from ..errors import require
from ..worlds import World
from ..worlds.assemble import FloatArray
from ..worlds.dictionaries import unit_rows
from ..worlds.exactly_k import ExactlyKEqual
from ..worlds.magnitudes import Constant
from .forward import SAE


def decoder_rows(
    sae: SAE,
    truth: FloatArray | None = None,
    latent_freq: FloatArray | None = None,
) -> World:
    """The SAE's decoder rows as a world: each sample is one of them, all equally often.

    Rows are scaled to length 1. Its features are the rows, one of which fires in each sample;
    train on it as on any world, `toysae.train(decoder_rows(sae, world.directions), "batchtopk",
    d_sae=..., k=...)`.

    Args:
        sae: one trained SAE.
        truth: `[n_truth, d_in]` directions that the meta-SAE is scored against, e.g. those of
            the world the SAE was trained on; by default the rows themselves.
        latent_freq: `[d_sae]` how often each latent fires, e.g. `result.arrays["latent_freq"][0]`.
            Latents at 0 are dead and left out. Zero rows are left out in any case.

    Raises:
        ToysaeError: an ensemble, arrays that do not fit or are not finite, a zero direction in
            the truth, or no row left.
    """
    rows = np.asarray(sae.W_dec)
    require(rows.ndim == 2, f"W_dec has shape {list(rows.shape)}: give one SAE, e.g. "
            "result.sae(0)")  # fmt: skip
    require(np.isfinite(rows).all(), "W_dec is not finite: the SAE diverged")
    alive = (rows != 0).any(1)
    if latent_freq is not None:
        freq = np.asarray(latent_freq)
        require(freq.shape == alive.shape, f"latent_freq of shape {list(freq.shape)} must be "
                f"[d_sae] = [{len(rows)}]")  # fmt: skip
        alive &= freq > 0
    require(alive.any(), f"none of the {len(rows)} latents is alive: train the SAE longer")
    directions, true_rows = unit_rows(jnp.asarray(rows[alive], jnp.float32)), None
    if truth is not None:
        truth = jnp.asarray(truth, jnp.float32)
        require(
            truth.ndim == 2 and truth.shape[1] == rows.shape[1] and len(truth) > 0,
            f"truth of shape {list(truth.shape)} must be [n, d_in] with d_in = {rows.shape[1]}",
        )
        require(
            bool(jnp.isfinite(truth).all() & (truth != 0).any(1).all()),
            "truth has rows that are zero or not finite: leave them out",
        )
        true_rows = unit_rows(truth)
    return World(
        directions=directions,
        rows=directions,
        generating_matrix=directions.T,
        firing=ExactlyKEqual(len(directions), 1),
        magnitude=Constant(1.0),
        name="decoder-rows",
        truth=true_rows,
    )
