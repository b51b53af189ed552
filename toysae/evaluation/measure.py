"""Measures: what is scored of the SAEs of a cell once they are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..lazy import pd
from ..recovery.mcs import EDGES
from ..recovery.probe import recovery_probe
from ..training import Ensemble, Probe, Trained
from .scoring import score_ensemble

_ROW = 2_000  # bytes of a row in two tables
_FEATURE = 24  # bytes of a row's arrays for each feature
_POINT = 4 * (len(EDGES) + 12)  # bytes of a row's curves for each of their points


class Measure(ABC):
    """What is measured of trained SAEs. Its :meth:`identity` is in the keys of SAEs, so that
    results of another measure are never taken for its own."""

    curve_points: int
    """The number of points of the learning curves."""

    @property
    @abstractmethod
    def probe(self) -> Probe:
        """What gives one point of the learning curves."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that decides the numbers of this measure, as JSON holds it."""

    @abstractmethod
    def __call__(
        self, ensemble: Ensemble, trained: Trained, n_steps: int
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        """Measures every SAE of a trained ensemble.

        Returns:
            A table with one row for each SAE in [world, member] order, and arrays whose leading
            axis is those rows, all but `curve_steps`.
        """

    def row_bytes(self, ensemble: Ensemble) -> int:
        """About how many bytes a row and its arrays take on disk."""
        curves = _POINT * self.curve_points
        return _ROW + _FEATURE * ensemble.worlds.n_features + 4 * ensemble.spec.d_sae + curves

    def curve_bytes(self) -> int:
        """About how many bytes a row's learning curves take in a checkpoint."""
        return _POINT * self.curve_points


@dataclass(frozen=True)
class RecoveryScores(Measure):
    """Recovery of the true features: :func:`toysae.evaluation.scoring.score_ensemble`.

    Attributes:
        n_eval: samples that each SAE is scored on.
        curve_points: points of the learning curves.
    """

    n_eval: int
    curve_points: int

    @property
    def probe(self) -> Probe:
        return recovery_probe

    def identity(self) -> dict[str, Any]:
        return {"n_eval": self.n_eval, "curve_points": self.curve_points}

    def __call__(
        self, ensemble: Ensemble, trained: Trained, n_steps: int
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        return score_ensemble(ensemble, trained, n_steps, self.n_eval)
