"""The commands of toysae: run, status, work, list, world, ceilings, score, export, bench, lm."""

import sys
from dataclasses import fields
from pathlib import Path

from rich.table import Table

from .. import __version__, aliases, hosts
from ..bits import in_32_bits
from ..devices import check_platform, use_all_cores
from ..errors import ToysaeError, require, unknown
from ..machine import check_addresses
from ..programs import keep_programs
from ..watch import take_again
from .export import export
from .options import check_flags, flags, parsed, positional, world_options
from .run import run_command
from .scores import ceilings, score
from .show import OUT, print_frame, print_names
from .work import work

_USAGE = """usage: toysae COMMAND

  run FILE [--smoke | --full] [--out DIR] [--FIELD VALUE ...]   run it, draw its figures
  work DIR                                             help with a run, from any machine
  status DIR                                           how much of a run is finished
  list [DIR | RECIPE]                                  experiments, worlds, recipes, inits
  world NAME [NAME ...] [--FIELD VALUE ...]            what worlds' generators realise
  ceilings NAME [--FIELD VALUE ...] [--d-sae N]        what perfection and chance would score
  score PATH --world NAME [--ceilings] [--json]        an SAE of ours or of another library
  score DIR --row N                                    an SAE of a run, on its own world
  export DIR OUT --row N                               an SAE of a run in SAELens' format, or ours
  bench [--preset ...] [--against sae-lens] [--out F]  samples/s, compared with SAELens
  lm COMMAND                                           SAEs on a language model's activations

toysae COMMAND --help shows the fields; toysae --version."""


@in_32_bits
def execute(args: list[str]) -> None:
    """Executes a command. Bad input gives one line on stderr and exit status 2."""
    before = aliases.tell.set(lambda text: print(f"toysae: {text}", file=sys.stderr))
    try:
        check_addresses()
        if not args or args[0] in ("-h", "--help"):
            OUT.print(_USAGE, highlight=False)
            return
        if args[0] == "--version":
            OUT.print(f"toysae {__version__}", highlight=False)
            return
        command, rest = args[0], args[1:]
        if command not in COMMANDS:
            raise unknown("command", command, COMMANDS)
        keep_programs()
        use_all_cores()
        if command == "run" and "many_hosts" in flags(rest):  # before jax counts its devices
            hosts.join()
            take_again()
        if command != "bench":  # whose children need the device for themselves
            check_platform()
        COMMANDS[command](rest)
    except ToysaeError as error:
        line = str(error).replace("\n", "\\n")  # a path may hold any character
        print(f"toysae: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        aliases.tell.reset(before)


def _status(args: list[str]) -> None:
    from ..sweeps import status

    path, rest = positional(args, "the directory of a run, e.g. results/recovery")
    check_flags(rest, "option", [])
    if not path:
        OUT.print("usage: toysae status DIR")
        return
    require(not rest, f"status takes one directory: leave out {' '.join(rest)}")
    print_frame(*status(path), constants=False)


def _list(args: list[str]) -> None:
    from ..sae import INITS, RECIPES
    from ..sweeps.experiment import describe
    from ..sweeps.loading import experiments_in, file_of
    from ..worlds import WORLDS
    from ..worlds.catalogue import FIRINGS
    from ..worlds.magnitudes import MAGNITUDES
    from ..worlds.probabilities import TAILS

    check_flags(args, "option", [])
    if args and args[0] in ("-h", "--help"):
        OUT.print("usage: toysae list [DIR | RECIPE]")
        return
    require(len(args) <= 1, f"list takes one name: leave out {' '.join(args[1:])}")
    if args and args[0] in RECIPES:
        _print_recipe(args[0])
        return
    directory = Path(args[0] if args else "experiments")
    if args and not directory.is_dir():
        raise unknown("recipe or directory of experiments", args[0], RECIPES)
    if directory.is_dir():
        table = Table("experiment", "question", "run time", title=f"experiments in {directory}")
        for path in experiments_in(directory):
            about = describe(file_of(path))
            if about is not None:
                table.add_row(str(path), *about)
        OUT.print(table)
    else:
        OUT.print("There is no folder experiments here: give one, or go to a checkout of toysae.")
    worlds = Table("world", "what it is", title="worlds")
    for name, row in WORLDS.items():
        worlds.add_row(name, row.about)
    OUT.print(worlds)
    for what, names in (("firing", FIRINGS), ("probs", TAILS), ("magnitude", MAGNITUDES)):
        print_names(what, names)
    recipes = Table("recipe", "what it is", "its number", title="recipes")
    for name, row in RECIPES.items():
        recipes.add_row(name, row.about, row.knob())
    OUT.print(recipes)
    print_names("inits", INITS)


def _print_recipe(name: str) -> None:
    """All that the table of recipes says of one."""
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
    from ..worlds import make_world, world_card

    first, rest = positional(args, "a world, e.g. sphere")
    if not first:
        _world_help()
        return
    names = [first]
    while rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
    n_samples = 131_072 if len(names) == 1 else 65_536
    own = {"seed": (int, 0), "n_samples": (int, n_samples), "out": (Path | None, None)}
    world_fields, options = world_options(names, own, rest, f"toysae world {' '.join(names)}")
    seed, n_samples, out = options["seed"], options["n_samples"], options["out"]
    worlds = [make_world(name, seed, **world_fields) for name in names]
    if len(worlds) == 1:
        table = Table("what", "realised", title=f"world {first}, seed {seed}")
        for row in world_card(worlds[0], n_samples).rows():
            table.add_row(*row)
        OUT.print(table)
    if len(worlds) > 1 or out is not None:
        _compare(worlds, seed, n_samples, out)


def _world_help() -> None:
    """Prints the usage of `toysae world` and the worlds."""
    from ..worlds import WORLDS

    usage = (
        "usage: toysae world NAME [NAME ...] [--seed N] [--n-samples N] [--out DIR] [--FIELD VALUE "
        "...]\n\ntoysae world NAME --help shows the world's fields. Worlds:"
    )
    OUT.print(usage, highlight=False)
    for name, row in WORLDS.items():
        OUT.print(f"  {name}: {row.about}", highlight=False)


def _compare(worlds: list, seed: int, n_samples: int, out: Path | None) -> None:
    """Prints the panels of several worlds side by side, and draws their figure."""
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

    args = check_flags(args, "option", [f.name for f in fields(BenchOptions)])
    for frame in bench(parsed(BenchOptions, args, "toysae bench")):
        print_frame(frame, "throughput")


def _lm(args: list[str]) -> None:
    from .lm import lm

    lm(args)


COMMANDS = {
    "run": run_command,
    "status": _status,
    "work": work,
    "list": _list,
    "world": _world,
    "ceilings": ceilings,
    "score": score,
    "export": export,
    "bench": _bench,
    "lm": _lm,
}
