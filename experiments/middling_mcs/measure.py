"""MCS of every feature over training, and whether all are found partly or some fully."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from toysae.evaluation.measure import Measure
from toysae.evaluation.scoring import table_of
from toysae.recovery import mcs, polarisation, random_floor
from toysae.sae import SAE
from toysae.training import Ensemble, Probe, Trained
from toysae.worlds import World


@dataclass(frozen=True)
class Polarisation(Measure):
    """Scores of :func:`score` at the end, and over training as `curve_<score> [rows, points]` with
    `curve_mcs [rows, n_features, points]`."""

    curve_points: int

    @property
    def probe(self) -> Probe:
        return feature_mcs

    def identity(self) -> dict[str, Any]:
        return {"measure": "polarisation", "version": 1, "curve_points": self.curve_points}

    def __call__(
        self, ensemble: Ensemble, trained: Trained, n_steps: int
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        mcs_curves = trained.curves["mcs"]
        mcs_curves = mcs_curves.reshape(-1, *mcs_curves.shape[2:])
        floor = random_floor(ensemble.spec.d_in, ensemble.spec.d_sae)
        curves = score(mcs_curves, floor)
        last = {"floor": floor, **{name: curve[:, -1] for name, curve in curves.items()}}
        arrays = {f"curve_{name}": curve for name, curve in curves.items()}
        arrays |= {"curve_mcs": mcs_curves, "curve_steps": trained.curve_steps}
        return table_of(ensemble, trained, n_steps, last), arrays


def feature_mcs(sae: SAE, world: World, x: Any) -> dict[str, Any]:
    """The MCS of every feature at one point of the curves."""
    return {"mcs": mcs(world.target, sae.W_dec)}


def score(mcs_curves: np.ndarray, floor: float) -> dict[str, np.ndarray]:
    """The mean over features of MCS `[rows, n_features, points]`, its `position` between the random
    floor and 1, the share above .9 and the polarisation, each `[rows, points]`."""
    mmcs = mcs_curves.mean(1)
    return {
        "mmcs": mmcs,
        "position": (mmcs - floor) / (1 - floor),
        "mcs_above_0.9": (mcs_curves > 0.9).mean(1),
        "polarisation": np.asarray(polarisation(jnp.asarray(mcs_curves).swapaxes(1, 2), floor)),
    }
