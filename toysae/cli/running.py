"""What all commands that train have in common: options, and the way from cells to figures."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hosts
from ..disk import write
from ..errors import require
from ..watch import doing
from .show import OUT, print_frame

if TYPE_CHECKING:
    from ..sweeps.run import Asked

at_work: ContextVar[bool] = ContextVar("at_work", default=False)
"""Whether this process is one of several that only train: tables and figures are left to others."""

_DRAWING = 2**27
"""Bytes that figures take while they are drawn."""


@dataclass(frozen=True)
class EngineOptions:
    """How a run is done.

    Attributes:
        out: results directory.
        fresh: discard what runs have written in OUT and begin again; anything else there is left,
            and an OUT that is not a run's is refused. Without it, of the SAEs in OUT those that
            are asked for are used, whatever the settings of the run that made them.
        checkpoint_seconds: how often what is in training is saved; 0 for every chunk. Ctrl-C saves
            it too, and stops within about 10 s; the same command goes on, after a kill as well.
        split_batch: devices among which the samples of each SAE are split.
        split_latent: devices among which the latents of each SAE are split.
        many_hosts: this is one of many processes that train as one; see :mod:`toysae.hosts`.
        launcher: "local:2" starts two processes that do the work,
            "slurm:partition=gpu,gpus=1,jobs=32,time=4h" as many jobs of Slurm (pip install
            'toysae[slurm]'). Others may be started by hand at any time: toysae work OUT.
        other_versions: also help processes that have another version of toysae or jax.
        dry_run: only say what would be trained, and the memory, FLOPs and time it would take.
        quiet: no progress bar.
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


@dataclass(frozen=True)
class Shown:
    """What is made of results.

    Attributes:
        figures: their names, where they are known before.
        tables: what is printed: titles and tables.
        files: whether the tables are written beside the results, named by their titles.
        draw: the figures: name, figure or HTML page, and table of each.
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
    """Runs what is asked for, or says what it would take; prints tables and draws figures.

    Args:
        asked: cells, and what they were made from.
        shown: what is made of the results.
        name: for titles.
        out: results directory.
        figures_dir: where figures go.
        o: how.
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
        made = plan(asked.cells, out, how)
        if not hosts.is_first():
            return
        if len(made.table):
            print_frame(made.table, f"{name}: what is left to train", constants=False)
        for line in made.lines:
            OUT.print(line, highlight=False, soft_wrap=True)
        return
    names = [f"{figure}{end}" for figure in shown.figures for end in (".png", ".csv")]
    hosts.on_first(check_room, out, figures_dir, [figures_dir / name for name in names])
    unfinished = None
    try:
        about = {**asked.about, "command": list(command), "folder": os.getcwd()}
        results = run(asked.cells, out, how, launch=launch, settings=asked.settings, about=about)
    except Unfinished as error:
        results, unfinished = Results(out), error
    # The others wait: a process that ends takes those down that go on.
    hosts.on_first(_show, results, shown, out, figures_dir, unfinished)


def _show(
    results: Any, shown: Shown, out: Path, figures_dir: Path, unfinished: Exception | None
) -> None:
    """Prints tables and draws figures of what is finished."""
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
    doing("making tables")
    for title, found in shown.tables(results):
        print_frame(found, title)
        if shown.files:
            name = f"{title}.csv"
            require(
                name not in NAMES, f"answer {title!r} is called like a run's own file: rename it"
            )
            directory.write({name: found.to_csv(index=False).encode()})
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
    where = f"{len(table)} SAEs in {out}/table.csv" if results.plan else f"tables in {out}"
    OUT.print(where, highlight=False, soft_wrap=True)
    if unfinished is not None:
        raise unfinished


def check_room(out: Path, figures_dir: Path, files: list[Path]) -> None:
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


_LEFT_OUT = {
    "--out": 2, "--figures-dir": 2, "--launcher": 2, "--checkpoint-seconds": 2, "--fresh": 1,
    "--dry-run": 1, "--many-hosts": 1, "--quiet": 1, "--other-versions": 1,
}  # fmt: skip
"""What is of the process that began, and how many words that is."""


def again(command: Sequence[str], out: Path) -> list[str]:
    """The command by which another process makes the same cells in the same directory."""
    words, kept = list(command), []
    while words:
        n = _LEFT_OUT.get(words[0].partition("=")[0], 0)
        taken, words = words[: max(n, 1)], words[max(n, 1) :]
        if n == 2 and "=" in taken[0]:
            words = taken[1:] + words
        if not n:
            kept += taken
    return [*kept, "--out", str(out.absolute())]
