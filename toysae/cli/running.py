"""The common part of all commands that train: options, and the way from cells to figures."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hosts
from ..disk import write
from ..errors import ToysaeError, require
from ..watch import doing
from .show import OUT, print_frame

if TYPE_CHECKING:
    from ..sweeps.run import Asked

at_work: ContextVar[bool] = ContextVar("at_work", default=False)
"""Whether this process only helps to train and leaves tables and figures to others."""

_PROGRAMS = 15
"""How many programs of a profile are printed."""

_DRAWING = 2**27
"""The bytes that figures take while they are drawn."""


@dataclass(frozen=True)
class EngineOptions:
    """How a run is done.

    Attributes:
        out: results directory.
        fresh: discard what runs have written in OUT and begin again; other files there are left,
            and an OUT that is not a run's is refused. Without it, the SAEs in OUT that are asked
            for are used, whatever the settings of the run that trained them.
        checkpoint_seconds: how often training is saved; 0 for every chunk. Ctrl-C saves it too, and
            stops within about 10 s; the same command then goes on, also after a kill.
        split_batch: devices among which the samples of each SAE are split.
        split_latent: devices among which the latents of each SAE are split.
        many_hosts: this is one of many processes that train as one; see :mod:`toysae.hosts`.
        launcher: "local:2" starts two processes that do the work, and
            "slurm:partition=gpu,gpus=1,jobs=32,time=4h" 32 jobs of Slurm (pip install
            'toysae[slurm]'). Others may be started by hand at any time: toysae work OUT.
        other_versions: also help processes that have another version of toysae or jax.
        dry_run: only print what would be trained, and the memory, FLOPs and time it would take.
        quiet: no progress bar.
        profile: say at the end where the time of this call went, up to then: a table of its phases,
            one of its programs, and a bar, also among the figures. Tracing is Python up to the
            program that XLA gets, compiling is XLA or loading a program that was kept, and running
            is all else.
    """

    out: Path | None = None
    fresh: bool = False
    checkpoint_seconds: float = 60.0
    split_batch: int = 1
    split_latent: int = 1
    many_hosts: bool = False
    launcher: str = ""
    other_versions: bool = False
    dry_run: bool = False
    quiet: bool = False
    profile: bool = False


@dataclass(frozen=True)
class Shown:
    """What a command shows of results.

    Attributes:
        figures: names of the figures, as far as they are known before.
        tables: gives the printed tables, each with its title.
        files: whether the tables are also written with the results, named by their titles.
        draw: gives the figures, each with its name, figure or HTML page, and table.
        whole: all of it needs every SAE that was asked for.
    """

    figures: Sequence[str]
    tables: Callable[[Any], Iterable[tuple[str, Any]]]
    files: bool
    draw: Callable[[Any], Iterable[tuple[str, Any, Any]]]
    whole: bool = False


def carry_out(
    asked: "Asked", shown: Shown, name: str, out: Path, figures_dir: Path, o: EngineOptions,
    command: Sequence[str] = (),
) -> None:  # fmt: skip
    """Runs cells, prints tables and draws figures; or, in a dry run, prints what it would take.

    Args:
        asked: the cells, and what they were made from.
        shown: what is shown of the results.
        name: for titles.
        out: results directory.
        figures_dir: directory of the figures.
        o: how they are run.
        command: that made the cells, for other processes that make them again.
    """
    from ..runs.launch import launcher
    from ..runs.options import Options
    from ..runs.plan import plan
    from ..runs.results import Results
    from ..runs.run import Unfinished, run
    from ..training.devices import Split

    split = Split(o.split_batch, o.split_latent)
    how = Options(o.fresh, o.quiet, o.checkpoint_seconds, split, asked.keep_weights,
                  wait=not at_work.get(), other_versions=o.other_versions)  # fmt: skip
    launch = launcher(o.launcher) if o.launcher else None
    require(launch is None or not o.many_hosts, "--launcher and --many-hosts: give one of them")
    if o.dry_run:
        left = plan(asked.cells, out, how)
        if not hosts.is_first():
            return
        if len(left.table):
            print_frame(left.table, f"{name}: what is left to train", constants=False)
        for line in left.lines:
            OUT.print(line, highlight=False, soft_wrap=True)
        return
    figures = [*shown.figures, *(["profile"] if o.profile else [])]
    names = [f"{figure}{end}" for figure in figures for end in (".png", ".csv")]
    names += ["programs.csv"] if o.profile else []
    hosts.on_first(check_room, out, figures_dir, [figures_dir / name for name in names])
    unfinished = None
    try:
        about = {**asked.about, "command": list(command), "folder": os.getcwd()}
        results = run(asked.cells, out, how, launch=launch, settings=asked.settings, about=about)
    except Unfinished as error:
        results, unfinished = Results(out), error
    # The others wait, as the end of one process would stop those that still run.
    hosts.on_first(_show_if_there, results, shown, out, figures_dir, unfinished)


def _show_if_there(
    results: Any, shown: Shown, out: Path, figures_dir: Path, unfinished: Exception | None
) -> None:
    """:func:`_show`, with a line of its own for results that another process discards meanwhile."""
    try:
        _show(results, shown, out, figures_dir, unfinished)
    except Exception as error:
        n_asked = sum(len(cell["keys"]) for cell in results.plan)
        if isinstance(error, ToysaeError) or unfinished or len(results.table) == n_asked:
            raise
        gone = f"another process has discarded what was trained in {out}, perhaps with --fresh"
        raise ToysaeError(f"{gone}: run the same command again") from error


def _show(
    results: Any, shown: Shown, out: Path, figures_dir: Path, unfinished: Exception | None
) -> None:
    """Prints tables and draws figures of the finished SAEs."""
    from ..plotting.style import save
    from ..programs import forget_if_short
    from ..runs.directory import Directory
    from ..runs.results import NAMES

    table = results.table
    if at_work.get():
        n_asked = sum(len(cell["keys"]) for cell in results.plan)
        OUT.print(f"no block is left to take: {len(table)} of {n_asked} SAEs are finished in {out}",
                  highlight=False, soft_wrap=True)  # fmt: skip
        return
    if unfinished is not None and (shown.whole or table.empty):
        raise unfinished
    directory = Directory.open(out)
    doing("making tables", phase="drawing")
    for title, frame in shown.tables(results):
        print_frame(frame, title)
        if shown.files:
            name = f"{title}.csv"
            own = name in NAMES
            require(not own, f"answer {title!r} has the name of a run's own file: rename it")
            directory.write({name: frame.to_csv(index=False).encode()})
    doing("drawing figures", phase="drawing")
    forget_if_short(_DRAWING)
    for title, figure, behind in shown.draw(results):
        for file in save(figure, behind, figures_dir, title, partial(_put, directory)):
            OUT.print(f"drew {file}", highlight=False, soft_wrap=True)
    where = f"{len(table)} SAEs in {out}/table.csv" if results.plan else f"tables in {out}"
    OUT.print(where, highlight=False, soft_wrap=True)
    if unfinished is not None:
        raise unfinished


def _put(directory: Any, path: Path, writer: Callable[[Path], Any]) -> None:
    """Writes a figure; inside the run's directory it is a file of the run."""
    name = directory.inside(path)
    if name is None:
        write(path, writer)
    else:
        directory.put({name: writer})


@contextmanager
def profiled(o: EngineOptions, name: str, out: Path, figures_dir: Path) -> Iterator[None]:
    """Says at the end of the `with` block where its time went, if the options ask for it.

    Raises:
        ToysaeError: other processes would do the work.
    """
    if not o.profile:
        yield
        return
    require(not o.dry_run, "--profile and --dry-run: give one of them")
    require(not o.launcher, "--profile and --launcher: give one of them, as the time goes in the "
            "processes that are launched")  # fmt: skip
    from ..profiling import Profile

    with Profile() as profile:
        yield
        table, programs, line = profile.table(), profile.programs(), profile.summary()
    if not hosts.is_first():
        return
    from ..plotting.profile import profile_bars
    from ..plotting.style import save
    from ..runs.directory import Directory

    print_frame(table.round(3), f"{name}: where the time went, in seconds", constants=False)
    programs = programs[programs["compiled"] > 0]
    most = programs.head(_PROGRAMS).round(3)
    title = f"programs that took the most of it, by name; there are {len(programs)} names"
    print_frame(most, title, constants=False)
    OUT.print(line, highlight=False, soft_wrap=True)
    put = partial(_put, Directory.open(out))
    files = save(profile_bars(table, name), table, figures_dir, "profile", put)
    put(figures_dir / "programs.csv", lambda p: programs.to_csv(p, index=False))
    for file in (*files, figures_dir / "programs.csv"):
        OUT.print(f"wrote {file}", highlight=False, soft_wrap=True)


def check_room(out: Path, figures_dir: Path, files: list[Path]) -> None:
    """Refuses directories and files that could not be written later.

    Raises:
        ToysaeError: naming the first of them.
    """
    from ..runs.directory import Directory
    from ..runs.mark import check_ours, is_marked

    check_ours(out)
    if is_marked(out):
        directory = Directory.open(out)
        names = map(directory.inside, files)
        directory.check_free(name for name in names if name is not None)
    for option, folder in (("--out", out), ("--figures-dir", figures_dir)):
        existing = folder.absolute()
        while not os.path.lexists(existing):
            existing = existing.parent
        good = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
        if good and not existing.is_relative_to(out.absolute()):  # a run writes there at once
            # Permissions alone do not tell; a file without a name is seen by no one.
            try:
                tempfile.TemporaryFile(dir=existing).close()
            except OSError:
                good = False
        require(good, f"cannot write to {existing}: choose another {option}")


_LEFT_OUT = {
    "--out": 2, "--figures-dir": 2, "--launcher": 2, "--checkpoint-seconds": 2, "--fresh": 1,
    "--dry-run": 1, "--many-hosts": 1, "--quiet": 1, "--other-versions": 1,
    "--profile": 1,
}  # fmt: skip
"""Options that concern only the first process, and how many words each takes."""


def again(command: Sequence[str], out: Path) -> list[str]:
    """The command with which another process makes the same cells in the same directory."""
    kept, words = [], iter(command)
    for word in words:
        option, equals, _ = word.partition("=")
        n = _LEFT_OUT.get(option, 0)
        if not n:
            kept.append(word)
        elif n == 2 and not equals:
            next(words, None)  # its value
    return [*kept, "--out", str(out.absolute())]
