"""Loss, recovery and gaps of an encoder, and the loss of FISTA codes in the true dictionary."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import pandas as pd

from toysae.evaluation.measure import Measure
from toysae.evaluation.scoring import table_of
from toysae.recovery import (
    add_batch,
    cosines,
    empty_totals,
    fista_codes,
    mcc,
    mcs,
    summarise,
)
from toysae.recovery.amortisation import gap_decomposition
from toysae.recovery.probe import recovery_probe
from toysae.sae import SAE
from toysae.training import Ensemble, Probe, Trained
from toysae.training.state import keys_of
from toysae.worlds import World

LOSS = ("mse", "ev", "l0")
"""The scores of a reconstruction."""


@dataclass(frozen=True)
class LadderScores(Measure):
    """Scores of :func:`score` and the signed MCC.

    Attributes:
        n_eval: samples that each SAE is scored on.
        n_gap: the number of the first of them on which the objective is split.
        n_iterations: FISTA steps of the best codes.
        curve_points: of the learning curves.
    """

    n_eval: int
    n_gap: int
    n_iterations: int
    curve_points: int = 2

    @property
    def probe(self) -> Probe:
        return recovery_probe

    def identity(self) -> dict[str, Any]:
        sizes = {"n_eval": self.n_eval, "n_gap": self.n_gap, "n_iterations": self.n_iterations}
        return {"measure": "ladder", "version": 1, **sizes}

    def __call__(
        self, ensemble: Ensemble, trained: Trained, n_steps: int
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        sizes = self.n_eval, self.n_gap, self.n_iterations
        scores = jax.device_get(score(trained.saes, ensemble.worlds, ensemble.world_seeds, *sizes))
        every = scores.pop("cosines")  # matched on the host
        scores["mcc"] = np.array([mcc(cos) if np.isfinite(cos).all() else np.nan
                                  for cos in every.reshape(-1, *every.shape[2:])])  # fmt: skip
        table = table_of(ensemble, trained, n_steps, scores)
        return table, {"curve_steps": trained.curve_steps}


@partial(jax.jit, static_argnames=("n", "n_gap", "n_iterations"))
def score(
    saes: SAE, worlds: World, world_seeds: jax.Array, n: int, n_gap: int, n_iterations: int
) -> dict[str, jax.Array]:
    """Loss, recovery and gaps of every SAE on fresh samples, leading axes `[n_worlds, n_members]`.

    `truth_` precedes the loss of FISTA codes in the true dictionary, at the SAE's L1 and on its
    samples.
    """

    def in_world(of_world: tuple[World, jax.Array, SAE]) -> dict[str, jax.Array]:
        world, key, saes = of_world
        batch = world.sample(key, n)

        def one(sae: SAE) -> dict[str, jax.Array]:
            f, x, mcs_of_each = sae(batch.x), batch.x[:n_gap], mcs(world.directions, sae.W_dec)
            l1_coeff = sae.hypers["l1_coeff"]
            gaps = gap_decomposition(
                x, f.z[:n_gap], sae.W_dec, world.directions, l1_coeff, n_iterations
            )
            codes = fista_codes(batch.x, world.directions, l1_coeff, n_iterations)
            truth = _reconstruction(batch.x, codes @ world.directions, codes)
            return {
                **_reconstruction(batch.x, f.x_hat, f.z),
                **{f"truth_{name}": value for name, value in truth.items()},
                "true_l0": (batch.feature_acts != 0).sum(1).mean(),
                "mmcs": mcs_of_each.mean(),
                "mcs_above_0.9": (mcs_of_each > 0.9).mean(),
                "cosines": cosines(world.directions, sae.W_dec),
                **vars(gaps),
            }

        return jax.lax.map(one, saes)

    return jax.lax.map(in_world, (worlds, keys_of(world_seeds, "evaluation"), saes))


def _reconstruction(x: jax.Array, x_hat: jax.Array, z: jax.Array) -> dict[str, jax.Array]:
    totals = summarise(add_batch(empty_totals(x.shape[1], z.shape[1]), x, x_hat, z))
    return {name: totals[name] for name in LOSS}
