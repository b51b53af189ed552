"""Grids of worlds and SAEs, compiled group by group, resumable, on disk."""

from ..door import guard
from ..watch import Stopped
from .experiment import Experiment
from .loading import load_experiment
from .plan import Plan, plan
from .results import Results
from .run import Unfinished, run
from .status import status
from .train import TrainResult, train

__all__ = [
    "Experiment", "Plan", "Results", "Stopped", "TrainResult", "Unfinished", "load_experiment",
    "plan", "run", "status", "train",
]  # fmt: skip

guard(globals())
