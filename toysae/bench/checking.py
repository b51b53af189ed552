"""Whether SAEs recover the features on this device whatever the arithmetic of their products."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from ..recovery.intervals import student_t
from ..recovery.probe import recovery_probe
from ..sae.arithmetic import FUSED
from ..training import train_ensemble
from .presets import Preset, preset_ensemble
from .timing import seconds_of

CHECKED = ("float32", "bfloat16", FUSED)
"""Dense and sparse steps are float32 in another order."""


@dataclass(frozen=True)
class RecoveryCheck:
    """The same SAEs on the same batches, trained in each arithmetic.

    Attributes:
        shape: of the ensemble; its members are the seeds.
        l1_coeff: of all.
        n_steps: of training.
        margin: of the 95 % interval of an MMCS less that in float32, for it to be called unharmed.
    """

    shape: Preset
    l1_coeff: float
    n_steps: int
    margin: float = 0.02

    def time(self, seconds: float, rounds: int) -> dict[str, Any]:
        """A row: the MMCS in float32, what each other arithmetic adds to it with the interval over
        seeds, and the seconds of each training with compiling, however many were asked for."""
        mmcs, took = {}, {}
        for arithmetic in CHECKED:
            if arithmetic == FUSED and jax.default_backend() == "cpu":
                continue  # it has an interpreter there, for tests
            mmcs[arithmetic], took[arithmetic] = self.trained(arithmetic)
        plain = mmcs["float32"]
        row: dict[str, Any] = {
            "shape": self.shape.shape,
            "SAEs": self.shape.n_members,
            "steps": self.n_steps,
            "mmcs float32": round(float(plain.mean()), 4),
        }
        for arithmetic, found in mmcs.items():
            if arithmetic != "float32":
                more = student_t(found - plain)
                row[f"{arithmetic} adds"] = f"{more:.4f}"
                row[f"{arithmetic} unharmed"] = more.mean - more.half_width > -self.margin
        row |= {f"{arithmetic} s": round(s, 2) for arithmetic, s in took.items()}
        return {**row, "rounds": {name: found.tolist() for name, found in mmcs.items()}}

    def trained(self, arithmetic: str) -> tuple[np.ndarray, float]:
        """The MMCS of each seed after training, and the seconds that it took."""
        p = replace(self.shape, arithmetic=arithmetic)
        numbers = {"l1_coeff": self.l1_coeff, "lr": 3e-3}
        ensemble, curves = preset_ensemble(p, numbers), {}

        def train() -> None:
            curves.update(train_ensemble(ensemble, self.n_steps, recovery_probe, 1).curves)

        took = seconds_of(train)
        return curves["mmcs"][0, :, -1].astype(np.float64), took
