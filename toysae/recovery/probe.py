"""Scores for one point of the learning curves."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..sae import SAE
from ..worlds import World
from .mcs import histogram, mcs
from .totals import add_batch, empty_totals, summarise


def recovery_probe(sae: SAE, world: World, x: Float[Array, "n d_in"]) -> dict[str, Array]:
    """Returns mmcs, share of features with MCS > .9, histogram of MCS, L0 and EV of one SAE."""
    f = sae(x)
    totals = summarise(add_batch(empty_totals(*sae.W_dec.shape[::-1]), x, f.x_hat, f.z))
    per_feature = mcs(world.target, sae.W_dec)
    return {
        "mmcs": per_feature.mean(),
        "mcs_above_0.9": (per_feature > 0.9).mean(dtype=jnp.float32),
        "mcs_hist": histogram(per_feature),
        "l0": totals["l0"],
        "ev": totals["ev"],
    }
