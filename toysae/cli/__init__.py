"""The command line: toysae run | status | list | world | ceilings | score | bench."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from ..devices import use_all_cores
from ..disk import cache_dir
from ..errors import ToysaeError, require, unknown
from .options import check_flags, flags, positional, world_options
from .scores import ceilings, score
from .show import OUT, print_frame

USAGE = """usage: toysae COMMAND

  run FILE [--smoke | --full] [--out DIR] [--FIELD VALUE ...]   run it, draw its figures
  status DIR                                           what of a run is finished
  list [DIR | RECIPE]                                  experiments, worlds, recipes, inits
  world NAME [NAME ...] [--FIELD VALUE ...]            what worlds' generators realise
  ceilings NAME [--FIELD VALUE ...] [--d-sae N]        what perfection and chance would score
  score PATH --world NAME [--ceilings] [--json]        an SAE of ours or of another library
  bench [--preset ...] [--against sae-lens] [--out F]  samples/s beside the device and SAELens

toysae COMMAND --help shows the fields."""


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes.

    Attributes:
        out: results directory; results/NAME if not given.
        figures_dir: where figures go; OUT/figures if not given.
        smoke: the experiment's own seconds-long version.
        full: its own large version, for a GPU.
        fresh: discard what is in OUT and begin again. Without it, of the SAEs in OUT those that
            are asked for are used, whatever the settings of the run that made them.
        checkpoint_seconds: how often what is in training is saved; 0 for every chunk. Ctrl-C saves
            it too, and stops within about 10 s; the same command goes on, after a kill as well.
        split_batch: devices among which the samples of each SAE are split.
        split_latent: devices among which the latents of each SAE are split.
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
    dry_run: bool = False
    quiet: bool = False


def main(argv: Sequence[str] | None = None) -> None:
    """The console script. Bad input is one line on stderr and exit status 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if not args or args[0] in ("-h", "--help"):
            OUT.print(USAGE, markup=False, highlight=False)
            return
        command, rest = args[0], args[1:]
        if command not in COMMANDS:
            raise unknown("command", command, COMMANDS)
        _use_compilation_cache()
        use_all_cores()
        COMMANDS[command](rest)
    except ToysaeError as error:
        print(f"toysae: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        again = shlex.join(["toysae", *(arg for arg in args if arg != "--fresh")])
        what = str(stop) or "stopped; what is finished is kept"
        print(f"toysae: {what}. Go on with: {again}", file=sys.stderr)
        raise SystemExit(getattr(stop, "status", 130)) from None


def _use_compilation_cache() -> None:
    """Compiled programs outlive the process, so a second start is quick."""
    import jax

    if jax.config.values.get("jax_compilation_cache_dir") is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _run(args: list[str]) -> None:
    from ..sweeps import Experiment, load_experiment
    from ..sweeps.override import refuse_what_axes_set

    path, rest = positional(args, "an experiment file, e.g. experiments/recovery.py")
    found = load_experiment(path)
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
    given: Any = tyro.cli(both, args=rest, prog=f"toysae run {path}")
    options: RunOptions = given.options
    name = Path(path).stem + "-smoke" * options.smoke + "-full" * options.full
    out = options.out or Path("results") / name
    figures_dir = options.figures_dir or out / "figures"
    OUT.print(f"[bold]{found.question}[/bold]", highlight=False)
    if isinstance(found, Experiment):
        refuse_what_axes_set(start, flags(rest))
        _run_experiment(given.asked, name, out, figures_dir, options)
    else:
        out.mkdir(parents=True, exist_ok=True)
        figures_dir.mkdir(parents=True, exist_ok=True)
        found.run(given.asked, out, figures_dir)


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


def _run_experiment(experiment, name: str, out: Path, figures_dir: Path, o: RunOptions) -> None:
    from ..plotting import FIGURES, draw
    from ..sweeps import Results, Unfinished, plan, run, summarise_minima, summarise_runs
    from ..training.devices import Split

    for figure in experiment.figures:
        if figure not in FIGURES:
            raise unknown("figure", figure, FIGURES)
    split = Split(o.split_batch, o.split_latent)
    if o.dry_run:
        made = plan(experiment, out, split)
        if len(made.table):
            print_frame(made.table, f"{name}: what is left to train", constants=False)
        for line in made.lines:
            OUT.print(line, highlight=False, soft_wrap=True)
        return
    unfinished = None
    try:
        results = run(experiment, out, o.fresh, o.quiet, o.checkpoint_seconds, split)
    except Unfinished as error:
        results, unfinished = Results.load(out), error
        if results.table.empty:
            raise
    table = results.table
    print_frame(summarise_runs(table), f"{name}: best L1 (chosen on the other world seeds), "
                f"mean ± half-width of the 95 % interval (worlds)")  # fmt: skip
    minima = summarise_minima(table)
    if len(minima):
        print_frame(minima, "features missed: the optimiser's fault or the objective's? Share of "
                    "worlds [95 % interval]")  # fmt: skip
    for file in draw(results, experiment.figures, figures_dir):
        OUT.print(f"drew {file}", highlight=False, soft_wrap=True)
    OUT.print(f"{len(table)} SAEs in {out}/table.csv", highlight=False, soft_wrap=True)
    if unfinished is not None:
        raise unfinished


def _status(args: list[str]) -> None:
    from ..sweeps import status

    path, rest = positional(args, "the directory of a run, e.g. results/recovery")
    check_flags(rest, "option", [])
    print_frame(*status(path), constants=False)


def _list(args: list[str]) -> None:
    from ..sae import INITS, RECIPES
    from ..sweeps import load_experiment
    from ..worlds import WORLDS
    from ..worlds.catalogue import FIRINGS
    from ..worlds.magnitudes import MAGNITUDES
    from ..worlds.probabilities import TAILS

    if args and args[0] in RECIPES:
        _print_recipe(args[0])
        return
    directory = Path(args[0]) if args else Path("experiments")
    if not directory.is_dir():
        raise unknown("recipe or directory of experiments", args[0], RECIPES)
    table = Table("experiment", "question", "run time", title=f"experiments in {directory}")
    for file in sorted(directory.glob("*.py")):
        experiment = load_experiment(file)
        table.add_row(str(file), experiment.question, experiment.run_time)
    OUT.print(table)
    worlds = Table("world", "what it is", title="worlds")
    for name, row in WORLDS.items():
        worlds.add_row(name, row.about)
    OUT.print(worlds)
    OUT.print(f"[bold]firing[/bold]: {', '.join(FIRINGS)}", highlight=False)
    OUT.print(f"[bold]probs[/bold]: {', '.join(TAILS)}", highlight=False)
    OUT.print(f"[bold]magnitude[/bold]: {', '.join(MAGNITUDES)}", highlight=False)
    recipes = Table("recipe", "what it is", "its number", title="recipes")
    for name, row in RECIPES.items():
        recipes.add_row(name, row.about, row.knob())
    OUT.print(recipes)
    OUT.print(f"[bold]inits[/bold]: {', '.join(INITS)}", highlight=False)


def _print_recipe(name: str) -> None:
    """All that a row of the table says."""
    from ..sae import RECIPES

    row = RECIPES[name]
    table = Table("what", "value", title=f"recipe {name}")
    table.add_row("is", row.about)
    for kind, numbers in (("toy", row.toy), ("paper", row.paper)):
        for number, value in numbers.items():
            table.add_row(f"{kind}: {number}", f"{value:g}")
    if row.paper and "l1_coeff" in row.paper:
        table.add_row("paper: l1 convention", row.convention)
    if row.notes:
        table.add_row("notes", row.notes)
    OUT.print(table)


def _world(args: list[str]) -> None:
    from ..worlds import make_world

    first, rest = positional(args, "a world, e.g. sphere")
    names = [first]
    while rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
    n_samples = 131_072 if len(names) == 1 else 65_536
    own = {"seed": (int, 0), "n_samples": (int, n_samples), "out": (Path | None, None)}
    chosen, given = world_options(names, own, rest, f"toysae world {' '.join(names)}")
    seed, n_samples, out = given["seed"], given["n_samples"], given["out"]
    worlds = [make_world(name, seed, **chosen) for name in names]
    if len(worlds) == 1:
        table = Table("what", "realised", title=f"world {first}, seed {seed}")
        for row in worlds[0].card(n_samples).rows():
            table.add_row(*row)
        OUT.print(table)
    if len(worlds) > 1 or out is not None:
        _compare(worlds, seed, n_samples, out)


def _compare(worlds: list, seed: int, n_samples: int, out: Path | None) -> None:
    """The panels of several worlds side by side, and their figure."""
    from ..plotting.panel import panel_figure
    from ..plotting.style import save
    from ..worlds.panel import compare_panels, world_panel

    panels = {world.name: world_panel(world, n_samples) for world in worlds}
    if len(worlds) > 1:
        table = Table("what", *panels, title=f"worlds side by side, seed {seed}")
        for row in compare_panels(*panels.values()):
            table.add_row(*row)
        OUT.print(table)
    if out is not None:
        for file in save(*panel_figure(panels), out, "-".join(panels)):
            OUT.print(f"drew {file}", highlight=False, soft_wrap=True)


def _bench(args: list[str]) -> None:
    from ..bench.run import BenchOptions, bench

    check_flags(args, "option", [f.name for f in fields(BenchOptions)])
    for frame in bench(tyro.cli(BenchOptions, args=args, prog="toysae bench")):
        print_frame(frame, "throughput")


COMMANDS = {
    "run": _run,
    "status": _status,
    "list": _list,
    "world": _world,
    "ceilings": ceilings,
    "score": score,
    "bench": _bench,
}
