"""Grids of worlds and SAEs, compiled group by group, resumable, on disk."""

from .experiment import Experiment, load_experiment
from .results import Results
from .run import run
from .summary import summarise_minima, summarise_runs
from .train import TrainResult, train

__all__ = [
    "Experiment", "Results", "TrainResult", "load_experiment", "run",
    "summarise_minima", "summarise_runs", "train",
]  # fmt: skip
