"""One compiled loop over steps, vmapped over worlds and members."""

from .chunks import Snapshot
from .loop import (
    Feed,
    Group,
    Probe,
    Trained,
    advance,
    curve_points,
    probe_all,
    start,
    train_group,
    trained,
)
from .state import Member, TrainState

__all__ = [
    "Feed", "Group", "Member", "Probe", "Snapshot", "TrainState", "Trained", "advance",
    "curve_points", "probe_all", "start", "train_group", "trained",
]  # fmt: skip
