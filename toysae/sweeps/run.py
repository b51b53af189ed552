"""An experiment or a study through the engine: its cells are made, run, and their results read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import hosts
from ..errors import require
from ..runs.cell import Cell
from ..runs.directory import Directory
from ..runs.mark import check_ours
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
    """What the engine is asked for.

    Attributes:
        cells: to train.
        settings: what they were made from, as JSON holds it.
        about: the question, and what is expected.
        keep_weights: of the SAEs.
        prepared: what a study's `prepare` gave, if it has one.
    """

    cells: Sequence[Cell]
    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    keep_weights: bool
    prepared: tuple[Any, ...] = ()


def asked_of(found: Experiment | Study, out: str | Path, dry: bool = False) -> Asked:
    """What an experiment, or a study with its options, asks for.

    Args:
        found: either.
        out: the results directory, where a study keeps what it prepares.
        dry: nothing is written.

    Raises:
        ToysaeError: bad input; if `dry`, a study that has not prepared all.
    """
    about = {"question": found.question, "expected": found.expected}
    if isinstance(found, Experiment):
        return Asked(cells(found), found.settings(), about, found.save_params)
    prepared = () if found.prepare is None else (_prepared(found, found.prepare, Path(out), dry),)
    made = found.cells(found.options, *prepared)
    return Asked(made, asdict(found.options), about, found.keep_weights, prepared)


def _prepared(study: Study, prepare: Callable[[Any, Path], Any], out: Path, dry: bool) -> Any:
    """What a study prepares in the results directory, which becomes a run's before: only an empty
    one can. Of many processes the first writes, and all read."""
    left = study.unprepared(study.options, out) if dry else ""
    require(not left, f"{left}: run the study to do so; only then can it be planned")
    made = []

    def make() -> None:
        check_ours(out)
        Directory.claim(out)
        with Queue(out, ()).planning():  # another process waits, and finds it made
            made.append(prepare(study.options, out))

    if not dry:
        hosts.on_first(make)
    return made[0] if made else prepare(study.options, out)


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
        experiment: what to run; of a study with other options, ``replace(study, options=...)``.
        out: the results directory; of the SAEs in it those that it asks for are used, the
            others are kept.
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
    asked = asked_of(experiment, out)
    options = Options(fresh, quiet, checkpoint_seconds, split, asked.keep_weights)
    return run_cells(asked.cells, out, options, settings=asked.settings, about=asked.about)


def plan(e: Experiment | Study, out: str | Path, split: Split = UNSPLIT) -> Plan:
    """Counts what a run would train, see :func:`toysae.runs.plan.plan`.

    Raises:
        ToysaeError: what a run refuses before training, but for a full disk.
    """
    asked = asked_of(e, out, dry=True)
    return plan_cells(asked.cells, out, Options(split=split, keep_weights=asked.keep_weights))
