"""toysae run: an experiment or a study, at the size that is asked for."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from .. import hosts
from ..checked import number
from ..checked import path as checked_path
from ..disk import write
from ..errors import require, unknown
from ..watch import doing
from .options import check_flags, flags, parsed, positional
from .show import OUT, print_frame, print_heading

_DRAWING = 2**27
"""Bytes that figures take while they are drawn."""


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes.

    Attributes:
        out: results directory; results/NAME if not given.
        figures_dir: where figures go; OUT/figures if not given.
        smoke: the experiment's own seconds-long version.
        full: its own large version, for a GPU.
        fresh: discard what runs have written in OUT and begin again; anything else there is left,
            and an OUT that is not a run's is refused. Without it, of the SAEs in OUT those that
            are asked for are used, whatever the settings of the run that made them.
        checkpoint_seconds: how often what is in training is saved; 0 for every chunk. Ctrl-C saves
            it too, and stops within about 10 s; the same command goes on, after a kill as well.
        split_batch: devices among which the samples of each SAE are split.
        split_latent: devices among which the latents of each SAE are split.
        many_hosts: this is one of many processes that train as one; see :mod:`toysae.hosts`.
        dry_run: only say what would be trained, and the memory, FLOPs and time it would take.
        quiet: no progress bar.
    """

    out: Path | None = None
    figures_dir: Path | None = None
    smoke: bool = False
    full: bool = False
    fresh: bool = False
    checkpoint_seconds: float = 60.0
    split_batch: int = 1
    split_latent: int = 1
    many_hosts: bool = False
    dry_run: bool = False
    quiet: bool = False


def run_command(args: list[str]) -> None:
    """`toysae run FILE`: an experiment or a study."""
    from ..runs.directory import Directory
    from ..sweeps import Experiment, load_experiment
    from ..sweeps.loading import name_of
    from ..sweeps.override import refuse_what_axes_set

    path, rest = positional(args, "an experiment file, e.g. experiments/recovery.py")
    # Without a file --help shows the fields that any experiment has.
    found = load_experiment(path) if path else Experiment("Any question")
    settable = found if isinstance(found, Experiment) else found.options
    names = [f.name for f in fields(RunOptions)] + [
        f.name for f in fields(settable) if f.name not in ("smoke", "full", "axes")
    ]
    check_flags(rest, "field", names)
    start = _sized(found, "--smoke" in rest, "--full" in rest)
    both = make_dataclass(
        "Run",
        [
            (
                "options",
                Annotated[RunOptions, tyro.conf.OmitArgPrefixes],
                field(default=RunOptions()),
            ),
            ("asked", Annotated[type(start), tyro.conf.OmitArgPrefixes], field(default=start)),
        ],
    )
    given: Any = parsed(both, rest, f"toysae run {path or 'FILE'}")
    options: RunOptions = given.options
    number("--checkpoint-seconds", options.checkpoint_seconds, 0)
    for option, folder in (("--out", options.out), ("--figures-dir", options.figures_dir)):
        if folder is not None and str(folder) != ".":
            checked_path(option, folder)
    name = name_of(Path(path)) + "-smoke" * options.smoke + "-full" * options.full
    out = options.out or Path("results") / name
    figures_dir = options.figures_dir or out / "figures"
    if hosts.is_first():
        print_heading(found.question)
    if isinstance(found, Experiment):
        refuse_what_axes_set(start, flags(rest))
        _run(given.asked, _of_experiment(given.asked, name), name, out, figures_dir, options)
    elif found.run is None:
        study = replace(found, options=given.asked)
        _run(study, _of_study(study), name, out, figures_dir, options)
    else:
        _refuse_for_studies(options)
        _check_room(out, figures_dir, [])
        Directory.claim(out)
        figures_dir.mkdir(parents=True, exist_ok=True)
        found.run(given.asked, out, figures_dir)


@dataclass(frozen=True)
class _Shown:
    """What is made of results.

    Attributes:
        figures: their names, where they are known before.
        tables: what is printed: titles and tables.
        files: whether the tables are written beside the results, named by their titles.
        draw: the figures: name, figure and table of each.
    """

    figures: Sequence[str]
    tables: Callable[[Any], Iterable[tuple[str, Any]]]
    files: bool
    draw: Callable[[Any], Iterable[tuple[str, Any, Any]]]


def _of_experiment(e: Any, name: str) -> _Shown:
    from ..evaluation import summarise_minima, summarise_runs
    from ..plotting import FIGURES

    for figure in e.figures:
        if figure not in FIGURES:
            raise unknown("figure", figure, FIGURES)

    def tables(results: Any) -> Iterator[tuple[str, Any]]:
        table = results.table
        yield (f"{name}: best L1 (chosen on the other world seeds), mean ± half-width of the 95 % "
               "interval, or [its ends] (worlds)", summarise_runs(table))  # fmt: skip
        minima = summarise_minima(table)
        if len(minima):
            yield ("features missed: the optimiser's fault or the objective's? Share of worlds "
                   "[95 % interval]", minima)  # fmt: skip

    def draw(results: Any) -> Iterator[tuple[str, Any, Any]]:
        return ((figure, *FIGURES[figure](results)) for figure in e.figures)

    return _Shown(e.figures, tables, False, draw)


def _of_study(study: Any) -> _Shown:
    return _Shown(
        (),
        lambda results: study.answer(study.options, results).items(),
        True,
        lambda results: study.draw(study.options, results),
    )


def _run(found: Any, shown: _Shown, name: str, out: Path, figures_dir: Path, o: RunOptions) -> None:
    from ..plotting.style import save
    from ..programs import forget_if_short
    from ..runs.directory import Directory
    from ..runs.plan import plan
    from ..runs.results import Results
    from ..runs.run import Options, Unfinished, run
    from ..sweeps.run import asked_of
    from ..training.devices import Split

    split, asked = Split(o.split_batch, o.split_latent), asked_of(found, out)
    how = Options(o.fresh, o.quiet, o.checkpoint_seconds, split, asked.keep_weights)
    if o.dry_run:
        made = plan(asked.cells, out, how)
        if not hosts.is_first():
            return
        if len(made.table):
            print_frame(made.table, f"{name}: what is left to train", constants=False)
        for line in made.lines:
            OUT.print(line, highlight=False, soft_wrap=True)
        return
    names = [f"{figure}{end}" for figure in shown.figures for end in (".png", ".csv")]
    hosts.on_first(_check_room, out, figures_dir, [figures_dir / name for name in names])
    unfinished = None
    try:
        results = run(asked.cells, out, how, settings=asked.settings, about=asked.about)
    except Unfinished as error:
        results, unfinished = Results(out), error
    if not hosts.is_first():
        return
    table = results.table
    if unfinished is not None and table.empty:
        raise unfinished
    directory = Directory.open(out)
    doing("making tables")
    for title, found in shown.tables(results):
        print_frame(found, title)
        if shown.files:
            directory.write({f"{title}.csv": found.to_csv(index=False).encode()})
    doing("drawing figures")
    forget_if_short(_DRAWING)

    def put(path: Path, writer: Callable[[Path], Any]) -> None:
        """Figures inside the run's directory are files of the run."""
        inside = directory.inside(path)
        if inside is None:
            write(path, writer)
        else:
            directory.put({inside: writer})

    for title, figure, behind in shown.draw(results):
        for file in save(figure, behind, figures_dir, title, put):
            OUT.print(f"drew {file}", highlight=False, soft_wrap=True)
    where = f"{len(table)} SAEs in {out}/table.csv" if asked.cells else f"tables in {out}"
    OUT.print(where, highlight=False, soft_wrap=True)
    if unfinished is not None:
        raise unfinished


def _check_room(out: Path, figures_dir: Path, files: list[Path]) -> None:
    """Refuses what could not be written in the end, before anything trains."""
    from ..runs.directory import Directory
    from ..runs.mark import check_ours, is_marked

    check_ours(out)
    if is_marked(out):
        directory = Directory.open(out)
        names = map(directory.inside, files)
        directory.check_free(name for name in names if name is not None)
    for option, folder in (("--out", out), ("--figures-dir", figures_dir)):
        there = folder.absolute()
        while not os.path.lexists(there):
            there = there.parent
        good = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
        require(good, f"cannot write to {there}: choose another {option}")


def _refuse_for_studies(o: RunOptions) -> None:
    """What only experiments know must not be left aside unsaid: --dry-run would train."""
    only = ("fresh", "checkpoint_seconds", "split_batch", "split_latent", "many_hosts", "dry_run")
    for name in only:
        option = f"--{name.replace('_', '-')}"
        given = getattr(o, name) != getattr(RunOptions(), name)
        require(not given, f"{option}: not for a study, which is no sweep of SAEs: leave it out")


def _sized(found, smoke: bool, full: bool):
    """What runs before its fields are overridden: the overrides of a size are defaults too, so
    that fields given beside --smoke or --full win over them."""
    from ..sweeps import Experiment

    require(not (smoke and full), "--smoke and --full: give one of them")
    if smoke:
        return found.smoked()
    if isinstance(found, Experiment):
        return found.at_full_size() if full else found
    require(not full, "this study has no full size: leave --full out, --help lists its options")
    return found.options
