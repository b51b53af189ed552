"""toysae run: runs an experiment or a study at the wanted size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from .. import hosts
from ..aliases import OLD_FIGURES, today
from ..checked import number
from ..checked import path as checked_path
from ..errors import require, unknown
from .options import check_flags, flags, parsed, positional
from .running import EngineOptions, Shown, again, carry_out, check_room, profiled
from .show import OUT, print_heading


@dataclass(frozen=True)
class RunOptions(EngineOptions):
    """Options of `toysae run`.

    Attributes:
        out: results directory; results/NAME if not given.
        figures_dir: directory of the figures, where files of their names are replaced; OUT/figures
            if not given.
        smoke: run the experiment's own small version, which takes seconds.
        full: run its own large version, for a GPU.
    """

    figures_dir: Path | None = None
    smoke: bool = False
    full: bool = False


def run_command(args: list[str]) -> None:
    """Runs `toysae run FILE`, with the options and the fields of its experiment or study."""
    from ..sweeps import Experiment, load_experiment
    from ..sweeps.loading import file_of, name_of
    from ..sweeps.override import refuse_what_points_set
    from ..sweeps.run import asked_of

    path, rest = positional(args, "an experiment file, e.g. experiments/recovery.py")
    # Without a file --help shows the fields that any experiment has.
    experiment = load_experiment(path) if path else Experiment("Any question")
    settable = experiment if isinstance(experiment, Experiment) else experiment.options
    names = [f.name for f in fields(RunOptions)] + [
        f.name for f in fields(settable) if f.name not in ("smoke", "full", "points")
    ]
    rest = check_flags(rest, "field", names)
    start = _sized(experiment, "--smoke" in rest, "--full" in rest)
    both = make_dataclass(
        "Run",
        [
            (name, Annotated[type(default), tyro.conf.OmitArgPrefixes], field(default=default))
            for name, default in (("options", RunOptions()), ("settings", start))
        ],
    )
    read: Any = parsed(both, rest, f"toysae run {path or 'FILE'}")
    options: RunOptions = read.options
    number("--checkpoint-seconds", options.checkpoint_seconds, 0)
    for option, folder in (("--out", options.out), ("--figures-dir", options.figures_dir)):
        if folder is not None and str(folder) != ".":
            checked_path(option, folder)
    name = name_of(Path(path)) + "-smoke" * options.smoke + "-full" * options.full
    out = options.out or Path("results") / name
    figures_dir = options.figures_dir or out / "figures"
    if hosts.is_first():
        print_heading(experiment.question)
    command = again(["run", str(file_of(Path(path)).absolute()) if path else "", *rest], out)
    if isinstance(experiment, Experiment):
        refuse_what_points_set(start, flags(rest))
    with profiled(options, name, out, figures_dir):
        if isinstance(experiment, Experiment):
            asked, shown = asked_of(read.settings, out), _of_experiment(read.settings, name)
            carry_out(asked, shown, name, out, figures_dir, options, command)
        else:
            study = replace(experiment, options=read.settings)
            _carry_out_study(study, name, out, figures_dir, options, command)


def _carry_out_study(
    study: Any, name: str, out: Path, figures_dir: Path, o: RunOptions, command: Sequence[str]
) -> None:
    from ..sweeps.run import asked_of

    left = study.unprepared(study.options, out) if o.dry_run else ""
    if left:
        if hosts.is_first():
            line = f"{left}; only then is it known which SAEs are left to train"
            OUT.print(line, highlight=False, soft_wrap=True)
        return
    if study.prepare is not None and not o.dry_run:
        hosts.on_first(check_room, out, figures_dir, [])  # preparing may take hours
    asked = asked_of(study, out, o.dry_run)
    shown = Shown(
        (), lambda results: study.answer(study.options, results, *asked.prepared).items(), True,
        lambda results: study.draw(study.options, results, *asked.prepared), study.whole,
    )  # fmt: skip
    carry_out(asked, shown, name, out, figures_dir, o, command)


def _of_experiment(e: Any, name: str) -> Shown:
    from ..evaluation import summarise_minima, summarise_runs
    from ..plotting import FIGURES

    figures = [today(figure, OLD_FIGURES, FIGURES) for figure in e.figures]
    for figure in figures:
        if figure not in FIGURES:
            raise unknown("figure", figure, FIGURES)

    def tables(results: Any) -> Iterator[tuple[str, Any]]:
        table = results.table
        yield (f"{name}: best sparsity (chosen on the other world seeds), mean ± half-width of the "
               "95 % interval, or [its ends] (worlds)", summarise_runs(table))  # fmt: skip
        minima = summarise_minima(table)
        if len(minima):
            yield ("features missed: the optimiser's fault or the objective's? Share of worlds "
                   "[95 % interval]", minima)  # fmt: skip

    def draw(results: Any) -> Iterator[tuple[str, Any, Any]]:
        return ((figure, *FIGURES[figure](results)) for figure in figures)

    return Shown(figures, tables, False, draw)


def _sized(experiment, smoke: bool, full: bool):
    """The experiment, or the study's options, at the wanted size: its values are defaults, which
    fields given with --smoke or --full override."""
    from ..sweeps import Experiment

    require(not (smoke and full), "--smoke and --full: give one of them")
    if smoke:
        return experiment.smoked()
    if isinstance(experiment, Experiment):
        return experiment.at_full_size() if full else experiment
    require(not full, "this study has no full size: leave --full out, --help lists its options")
    return experiment.options
