"""Recovery and detection of the features of pairs."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from toysae.evaluation.measure import Measure
from toysae.evaluation.scoring import table_of
from toysae.recovery import add_batch, cosines, empty_totals, summarise
from toysae.recovery.probe import recovery_probe
from toysae.sae import SAE
from toysae.training import Ensemble, Probe, Trained
from toysae.training.state import keys_of
from toysae.worlds import World


@dataclass(frozen=True)
class PairScores(Measure):
    """Scores of :func:`score` on `n_eval` samples of each world."""

    n_eval: int
    curve_points: int = 2

    @property
    def probe(self) -> Probe:
        return recovery_probe

    def identity(self) -> dict[str, Any]:
        return {"measure": "pairs", "version": 1, "n_eval": self.n_eval}

    def __call__(
        self, ensemble: Ensemble, trained: Trained, n_steps: int
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        scores = score(trained.saes, ensemble.worlds, ensemble.world_seeds, self.n_eval)
        table = table_of(ensemble, trained, n_steps, scores)
        table["l0_ratio"] = table["l0"] / table["true_l0"]
        return table, {"curve_steps": trained.curve_steps}


@partial(jax.jit, static_argnames="n")
def score(saes: SAE, worlds: World, world_seeds: jax.Array, n: int) -> dict[str, jax.Array]:
    """Recovery, sparsity and detection on `n` fresh samples, each `[n_worlds, n_members]`.

    `f1` is the mean over features of how well the latent of the best cosine detects each one:
    F1 of z != 0 against the feature's firing.
    """

    def one(sae: SAE, world: World, x: jax.Array, on: jax.Array) -> dict[str, jax.Array]:
        f, cos = sae(x), cosines(world.directions, sae.W_dec)
        totals = summarise(add_batch(empty_totals(*sae.W_dec.shape[::-1]), x, f.x_hat, f.z))
        fires = (f.z != 0)[:, cos.argmax(1)]
        f1 = 2 * (on & fires).sum(0) / jnp.maximum(on.sum(0) + fires.sum(0), 1)
        return {
            "mmcs": cos.max(1).mean(), "mcs_above_0.95": (cos.max(1) > 0.95).mean(),
            "f1": f1.mean(), "l0": totals["l0"], "true_l0": on.sum(1).mean(), "ev": totals["ev"],
        }  # fmt: skip

    def in_world(of_world: tuple[World, jax.Array, SAE]) -> dict[str, jax.Array]:
        world, key, saes = of_world
        batch = world.sample(key, n)
        on = batch.feature_acts != 0
        return jax.vmap(one, (0, None, None, None))(saes, world, batch.x, on)

    # One world at a time takes the memory of one.
    return jax.lax.map(in_world, (worlds, keys_of(world_seeds, "evaluation"), saes))
