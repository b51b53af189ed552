"""One compiled loop over steps, vmapped over worlds and members."""

from .chunks import Snapshot
from .loop import (
    Ensemble,
    Feed,
    Probe,
    Trained,
    advance,
    curve_points,
    probe_all,
    start,
    train_ensemble,
    trained,
)
from .state import Member, TrainState

__all__ = [
    "Ensemble", "Feed", "Member", "Probe", "Snapshot", "TrainState", "Trained", "advance",
    "curve_points", "probe_all", "start", "train_ensemble", "trained",
]  # fmt: skip
