"""Grids of worlds and SAEs, compiled group by group, resumable, on disk."""

from ..door import guard
from ..watch import Stopped
from . import axes
from .axes import Points
from .experiment import Experiment
from .loading import load_experiment
from .plan import Plan, plan
from .results import Results
from .run import Unfinished, run
from .status import status
from .summary import summarise_minima, summarise_runs
from .train import TrainResult, train

__all__ = [
    "Experiment", "Plan", "Points", "Results", "Stopped", "TrainResult", "Unfinished", "axes",
    "load_experiment", "plan", "run", "status", "summarise_minima", "summarise_runs", "train",
]  # fmt: skip

guard(globals())
