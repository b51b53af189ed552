"""True recovery, and the signals that need only one SAE."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from toysae.evaluation.measure import Measure
from toysae.evaluation.scoring import evaluate_all, table_of
from toysae.recovery import enc_dec_cosines, mcs
from toysae.recovery.geometry import pairwise_cosines
from toysae.recovery.probe import recovery_probe
from toysae.sae import SAE
from toysae.training import Ensemble, Probe, Trained
from toysae.worlds import World

BATCH = 1024


@dataclass(frozen=True)
class Signals(Measure):
    """Scores on `n_eval` samples of each world and those of :func:`of_weights`; as an array, how
    often each latent fired, `latent_freq [rows, d_sae]`."""

    n_eval: int
    curve_points: int = 1

    @property
    def probe(self) -> Probe:
        return recovery_probe

    def identity(self) -> dict[str, Any]:
        return {"measure": "label-free signals", "version": 1, "n_eval": self.n_eval}

    def __call__(
        self, ensemble: Ensemble, trained: Trained, n_steps: int
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        n_batches = jnp.int32(-(-self.n_eval // BATCH))
        spec, worlds, saes = ensemble.spec.once_started(), ensemble.worlds, trained.saes
        scores, _ = evaluate_all(saes, spec, worlds, ensemble.world_seeds, n_batches, BATCH)
        freq = scores.pop("firing_freq")
        scores |= of_weights(saes, worlds, freq > 0)
        latent_freq = np.asarray(freq).reshape(-1, spec.d_sae)
        arrays = {"latent_freq": latent_freq, "curve_steps": trained.curve_steps}
        return table_of(ensemble, trained, n_steps, scores), arrays


@jax.jit
def of_weights(saes: SAE, worlds: World, alive: jax.Array) -> dict[str, jax.Array]:
    """Recovery, and over living latents the mean encoder-decoder cosine and the mean \\|cos\\|
    between decoder rows, each `[n_worlds, n_members]`."""

    def one(sae: SAE, world: World, alive: jax.Array) -> dict[str, jax.Array]:
        mcs_of_each = mcs(world.target, sae.W_dec)
        aligned = enc_dec_cosines(sae.weights.enc["W_enc"], sae.W_dec)
        return {
            "mmcs": mcs_of_each.mean(),
            "mcs_above_0.9": (mcs_of_each > 0.9).mean(),
            "enc_dec_cos": jnp.where(alive, aligned, 0).sum() / jnp.maximum(alive.sum(), 1),
            "mean_abs_cos": pairwise_cosines(sae.W_dec, alive)["mean_abs_cos"],
        }

    return jax.vmap(jax.vmap(one, (0, None, 0)))(saes, worlds, alive)
