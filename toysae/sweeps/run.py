"""Runs experiments and studies: makes their cells, and has the engine train them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import hosts
from ..errors import require
from ..runs.cell import Cell
from ..runs.directory import Directory
from ..runs.options import Options
from ..runs.plan import Plan
from ..runs.plan import plan as plan_cells
from ..runs.queue import Queue
from ..runs.results import Results
from ..runs.run import run as run_cells
from ..training.devices import UNSPLIT, Split
from .cells import cells
from .experiment import Experiment
from .study import Study


@dataclass(frozen=True)
class Asked:
    """What an experiment or a study asks the engine for.

    Attributes:
        cells: to train.
        settings: what they were made from, as JSON holds it.
        about: the question, and what is expected.
        keep_weights: whether the SAEs' weights are kept.
        prepared: the result of a study's `prepare`, if it has one.
    """

    cells: Sequence[Cell]
    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    keep_weights: bool
    prepared: tuple[Any, ...] = ()


def asked_of(experiment: Experiment | Study, out: str | Path, dry: bool = False) -> Asked:
    """Makes the cells of an experiment, or of a study with its options.

    Args:
        experiment: the experiment or study.
        out: the results directory, where a study keeps what it prepares.
        dry: write nothing.

    Raises:
        ToysaeError: bad input; if `dry`, a study that has not prepared everything.
    """
    about = {"question": experiment.question, "expected": experiment.expected}
    if isinstance(experiment, Experiment):
        return Asked(cells(experiment), experiment.settings(), about, experiment.save_params)
    study, prepared = experiment, ()
    if study.prepare is not None:
        prepared = (_prepared(study, study.prepare, Path(out), dry),)
    study_cells = study.cells(study.options, *prepared)
    return Asked(study_cells, asdict(study.options), about, study.keep_weights, prepared)


def _prepared(study: Study, prepare: Callable[[Any, Path], Any], out: Path, dry: bool) -> Any:
    """Has a study prepare in the results directory, which is first made that of a run. Of many
    processes the first writes, and all read."""
    left = study.unprepared(study.options, out) if dry else ""
    require(not left, f"{left}: run the study to do so; only then can it be planned")
    results = []

    def prepare_first() -> None:
        Directory.claim(out)
        with Queue(out, ()).planning():  # another process waits, and then finds it prepared
            results.append(prepare(study.options, out))

    if not dry:
        hosts.on_first(prepare_first)
    return results[0] if results else prepare(study.options, out)


def run(
    experiment: Experiment | Study,
    out: str | Path,
    fresh: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = 60.0,
    split: Split = UNSPLIT,
) -> Results:
    """Trains and scores what is not yet in `out`, see :func:`toysae.runs.run.run`.

    Args:
        experiment: to run; a study with other options is ``replace(study, options=...)``.
        out: the results directory. Its SAEs that are asked for are used, others are kept.
        fresh: discard what runs have written there and begin again; other files are left.
        quiet: no progress bar, and only lines about what went wrong.
        checkpoint_seconds: how often a block's training is saved; 0 for every chunk.
        split: how each SAE is split among several devices; only changes the order of sums.

    Returns:
        The complete results.

    Raises:
        ToysaeError: before anything trains, bad input, a process that trains other SAEs in the
            directory, or too little disk space; later, a full disk.
        Unfinished: some SAEs did not fit the device by themselves; all others are finished.
        Stopped: by Ctrl-C or SIGTERM, at the end of a chunk; the same call goes on.
    """
    asked = asked_of(experiment, out)
    options = Options(fresh, quiet, checkpoint_seconds, split, asked.keep_weights)
    return run_cells(asked.cells, out, options, settings=asked.settings, about=asked.about)


def plan(e: Experiment | Study, out: str | Path, split: Split = UNSPLIT) -> Plan:
    """Counts what a run would train, see :func:`toysae.runs.plan.plan`.

    Raises:
        ToysaeError: whatever a run refuses before training, except a full disk.
    """
    asked = asked_of(e, out, dry=True)
    return plan_cells(asked.cells, out, Options(split=split, keep_weights=asked.keep_weights))
