"""Toy models of superposition (Elhage et al. 2022): their training, geometry, closed forms.

>>> model = tms_preset("tms-5-2", seed=0)
>>> directions, rows, kept = model.directions()
"""

from .closed_form import expected_loss, optimum, three_in_two, two_in_one
from .geometry import (
    POLYTOPES,
    Directions,
    dimensions_per_feature,
    feature_dimensionality,
    overlap,
    tms_directions,
)
from .model import FEATURE_KINDS, PAIRS, TMSHypers, TMSParams, TMSSpec
from .phases import PhaseChange, phase_change
from .presets import TMS_PRESETS, TMSMatrix, TMSPreset, importance_decay, tms_preset
from .train import TrainedTMS, models_of_point, tms_hypers, train_tms

__all__ = [
    "FEATURE_KINDS", "PAIRS", "POLYTOPES", "TMS_PRESETS", "Directions", "PhaseChange", "TMSHypers",
    "TMSMatrix", "TMSParams", "TMSPreset", "TMSSpec", "TrainedTMS", "dimensions_per_feature",
    "expected_loss", "feature_dimensionality", "importance_decay", "models_of_point", "optimum",
    "overlap", "phase_change", "three_in_two", "tms_directions", "tms_hypers", "tms_preset",
    "train_tms", "two_in_one",
]  # fmt: skip
