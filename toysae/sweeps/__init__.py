"""Experiments, studies and `train`: they make cells for the engine and read its results."""

from ..door import guard
from ..runs.plan import Plan
from ..runs.results import Results
from ..runs.run import Unfinished
from ..runs.status import status
from ..watch import Stopped
from .experiment import Experiment
from .loading import load_experiment
from .run import plan, run
from .study import Study
from .train import TrainResult, train

__all__ = [
    "Experiment", "Plan", "Results", "Stopped", "Study", "TrainResult", "Unfinished",
    "load_experiment", "plan", "run", "status", "train",
]  # fmt: skip

guard(globals())
