"""MCS of every feature through training, and whether all are found partly or some fully."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from toysae.evaluation.measure import Measure
from toysae.evaluation.scoring import numbers_of, sizes_of
from toysae.recovery import mcs, polarisation, random_floor
from toysae.sae import SAE
from toysae.training import Ensemble, Probe, Trained
from toysae.worlds import World


@dataclass(frozen=True)
class Polarisation(Measure):
    """Scores of :func:`score` at the end, and as `curve_` arrays `[rows, points]` through training
    beside `curve_mcs` `[rows, n_features, points]`."""

    curve_points: int

    @property
    def probe(self) -> Probe:
        return feature_mcs

    def identity(self) -> dict[str, Any]:
        return {"measure": "polarisation", "version": 1, "curve_points": self.curve_points}

    def __call__(
        self, ensemble: Ensemble, trained: Trained, n_steps: int
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        found = trained.curves["mcs"]
        found = found.reshape(-1, *found.shape[2:])
        floor = random_floor(ensemble.spec.d_in, ensemble.spec.d_sae)
        curves = score(found, floor)
        held = {**sizes_of(ensemble, n_steps), **numbers_of(ensemble)}
        held |= {"diverged": trained.diverged.ravel(), "floor": floor}
        table = pd.DataFrame({**held, **{name: curve[:, -1] for name, curve in curves.items()}})
        arrays = {f"curve_{name}": curve for name, curve in curves.items()}
        return table, {"curve_mcs": found, **arrays, "curve_steps": trained.curve_steps}


def feature_mcs(sae: SAE, world: World, x: Any) -> dict[str, Any]:
    """Every feature's MCS, at one point of the curve."""
    return {"mcs": mcs(world.target, sae.W_dec)}


def score(found: np.ndarray, floor: float) -> dict[str, np.ndarray]:
    """Of MCS `[rows, n_features, points]` the mean over features, its `position` between the random
    floor and 1, the share above .9 and the polarisation, each `[rows, points]`."""
    mmcs = found.mean(1)
    return {
        "mmcs": mmcs,
        "position": (mmcs - floor) / (1 - floor),
        "mcs_above_0.9": (found > 0.9).mean(1),
        "polarisation": np.asarray(polarisation(jnp.asarray(found).swapaxes(1, 2), floor)),
    }
