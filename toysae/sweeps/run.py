"""An experiment through the engine: its cells are made, run, and their results read."""

from pathlib import Path

from ..runs.plan import Plan
from ..runs.plan import plan as plan_cells
from ..runs.results import Results
from ..runs.run import Options
from ..runs.run import run as run_cells
from ..training.devices import UNSPLIT, Split
from .cells import cells
from .experiment import Experiment


def run(
    experiment: Experiment,
    out: str | Path,
    fresh: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = 60.0,
    split: Split = UNSPLIT,
) -> Results:
    """Trains and scores what is not yet in `out`, see :func:`toysae.runs.run.run`.

    Args:
        experiment: what to run.
        out: the results directory; of the SAEs in it those that the experiment asks for are used,
            the others are kept.
        fresh: discard what runs have written there and begin again; anything else is left.
        quiet: no progress bar, and only lines about what went wrong.
        checkpoint_seconds: how often a block's training is saved while it lasts; 0 for every chunk.
        split: of each SAE among several devices; changes no result but by the order of sums.

    Returns:
        The complete results.

    Raises:
        ToysaeError: bad input, another process at the same directory, or too little disk space,
            before anything trains; a full disk.
        Unfinished: SAEs that did not fit the device even alone; all others are finished.
        Stopped: by Ctrl-C or SIGTERM, at the end of a chunk; the same call goes on.
    """
    e = experiment
    options = Options(fresh, quiet, checkpoint_seconds, split, e.save_params)
    about = {"question": e.question, "expected": e.expected}
    return run_cells(cells(e), out, options, settings=e.settings(), about=about)


def plan(e: Experiment, out: str | Path, split: Split = UNSPLIT) -> Plan:
    """Counts what a run of an experiment would train, see :func:`toysae.runs.plan.plan`.

    Raises:
        ToysaeError: what a run refuses before training, but for a full disk.
    """
    return plan_cells(cells(e), out, Options(split=split, keep_weights=e.save_params))
