"""toysae score and toysae ceilings: the scores of an SAE, and those to compare them with."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from ..disk import write
from ..errors import require, unknown
from ..lazy import pd
from .options import positional, world_options
from .show import OUT, print_heading

_CEILINGS_USAGE = """usage: toysae ceilings NAME [--seed N] [--n-samples N] [--d-sae N] [--out DIR]
                       [--no-cache] [--FIELD VALUE ...]

toysae ceilings NAME --help shows the world's fields."""
_SCORE_USAGE = """usage: toysae score PATH --world NAME [--seed N] [--n-samples N] [--ceilings]
                    [--json] [--scores NAME ...] [--FIELD VALUE ...]
       toysae score DIR --row N                     on the world that it was trained on

PATH: an SAE file of toysae, or a folder of SAELens, dictionary_learning or sparsify.
DIR: the directory of a run; with --world its SAE is scored on that one.
toysae score PATH --world NAME --help shows the world's fields."""
_TITLES = {
    "d_sae": "d_sae", "mmcs": "mmcs", "mcs_above_0.9": ">.9", "mcc": "mcc", "l0": "l0",
    "ev": "EV", "f1": "F1", "auroc": "AUROC",
}  # fmt: skip
_COMPARED = {"l0": "l0", "mmcs": "mmcs", "mcs_above_0.9": "MCS > .9", "ev": "EV", "f1": "F1"}
_SHARES = (0.5, 1.0, 2.0)  # of the true L0, near which a method's rows are printed
_CEILINGS_NOTE = (
    ">.9: share of features with MCS > .9. Rows: nearest to 1/2, 1 and 2 times the true L0 (--out "
    "DIR keeps all); scores as in toysae score. None is a bound: training can end elsewhere than "
    "at the truth."
)
_NUMBERS = {"l1_coeff": "L1", "threshold": "t"}


def ceilings(args: list[str]) -> None:
    """Prints the ceilings and floors of a world."""
    from ..evaluation.ceilings import at_l0
    from ..evaluation.ceilings import ceilings as table_of
    from ..recovery import limits
    from ..worlds import make_world

    name, rest = positional(args, "a world, e.g. sphere")
    if not name:
        OUT.print(_CEILINGS_USAGE, highlight=False)
        return
    own = {"seed": (int, 0), "n_samples": (int, 65_536), "d_sae": (int | None, None),
           "out": (Path | None, None), "cache": (bool, True)}  # fmt: skip
    fields, o = world_options([name], own, rest, f"toysae ceilings {name}")
    seed = o["seed"]
    world = make_world(name, seed, **fields)
    with _warnings_as_lines():
        frame = table_of(world, o["d_sae"], o["n_samples"], seed, o["cache"])
    true_l0 = float(frame["true_l0"].mean())
    shown = sorted({i for share in _SHARES for i in at_l0(frame, share * true_l0).index})
    for kind, rows in frame.loc[shown].groupby("kind"):
        title = f"world {name}, seed {seed}: {kind}s"
        table = _table(title, ("method", "at"), _TITLES.values())
        for method, points in rows.groupby("method", sort=False):
            for i, (_, row) in enumerate(points.iterrows()):
                numbers = (_number(row[column]) for column in _TITLES)
                table.add_row(str(method) if i == 0 else "", _at(row), *numbers)
        OUT.print(table)
    OUT.print(str(limits(world, seed=seed)), highlight=False)
    OUT.print(_CEILINGS_NOTE, highlight=False)
    if o["out"] is not None:
        o["out"].mkdir(parents=True, exist_ok=True)
        file = o["out"] / "ceilings.csv"
        write(file, lambda path: frame.to_csv(path, index=False))
        OUT.print(f"wrote {file}", highlight=False, soft_wrap=True)


def _table(title: str, words: Iterable[str], numbers: Iterable[str]) -> Table:
    """A table that fits into 80 columns, with columns of words and of numbers."""
    gap = 1 if OUT.width >= 90 else 0
    table = Table(title=title, box=SIMPLE, pad_edge=False, padding=(0, gap, 0, gap))
    for column in words:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _at(row: pd.Series) -> str:
    """A method's number, e.g. "L1 0.15"."""
    number = str(row["number"])
    name = _NUMBERS.get(number, number)
    return name if isnan(row["value"]) else f"{name} {row['value']:.2g}"


def _number(value: float) -> str:
    if isnan(value):
        return "-"
    return f"{value:.0f}" if value == int(value) and value > 1 else f"{value:.3f}"


def score(args: list[str]) -> None:
    """Prints the scores of an SAE on a world."""
    from ..evaluation.ceilings import at_l0
    from ..evaluation.ceilings import ceilings as table_of
    from ..interop import score as score_file
    from ..runs.mark import is_marked
    from ..runs.results import Results
    from ..worlds import make_world

    path, rest = positional(args, "an SAE file or folder")
    if not path:
        OUT.print(_SCORE_USAGE, highlight=False)
        return
    rest = [word for arg in rest for word in (arg.split("=", 1) if "--world=" in arg else [arg])]
    of_run = is_marked(Path(path))
    own = {"seed": (int, 0), "n_samples": (int, 65_536), "ceilings": (bool, False),
           "json": (bool, False), "scores": (tuple[str, ...], ())}  # fmt: skip
    own |= {"row": (int, 0)} if of_run else {}
    name = ""
    if "--world" in rest[:-1]:
        place = rest.index("--world")
        name = rest[place + 1]
        rest = rest[:place] + rest[place + 2 :]
    require(name or of_run, "name the world to score on: --world NAME")
    prog = f"toysae score {path}" + (f" --world {name}" if name else "")
    fields, o = world_options([name] if name else [], own, rest, prog)
    seed, n_samples, limits = o["seed"], o["n_samples"], None
    results = Results.load(path) if of_run else None
    sae = path if results is None else results.sae(o["row"])
    if name or results is None:
        world = make_world(name, seed, **fields)
    else:
        world = results.world(o["row"])
        name = f"{world.name} of row {o['row']}"
    with _warnings_as_lines():
        scored = score_file(sae, world, n_samples, seed)
        row = scored.table.iloc[0]
        _check_scores(row, o["scores"])
        if o["ceilings"]:
            limits = at_l0(table_of(world, int(row["d_sae"]), n_samples, seed), float(row["l0"]))
    if o["json"]:
        more = {} if limits is None else {"ceilings": json.loads(limits.to_json(orient="records"))}
        print(json.dumps({**json.loads(scored.to_json()), **more}, indent=1))
        return
    print_heading(f"{path} on world {name}, seed {seed}")
    OUT.print(_in_columns(row[list(o["scores"])] if o["scores"] else row))
    if limits is not None:
        _print_comparison(row, limits)


def _check_scores(row: pd.Series, names: tuple[str, ...]) -> None:
    """Refuses scores that a row does not have, unknown ones or such that cannot be measured."""
    for name in names:
        if name not in row:
            raise unknown("score", name, map(str, row.index))
        value = row[name]
        require(
            not (isinstance(value, float) and isnan(value)),
            f"score {name!r} cannot be measured of this SAE on this world: leave it out of "
            "--scores (without it, all that cannot be are listed)",
        )


def _in_columns(row: pd.Series) -> Table:
    """A table of all scores, as many to a line as the terminal has room for; those that could not
    be measured are named below it."""
    scores = {str(name): value for name, value in row.items()}
    missing = [name for name, v in scores.items() if isinstance(v, float) and isnan(v)]
    shown = {name: f"{v:.4g}" if isinstance(v, float) else str(v) for name, v in scores.items()
             if name not in (*missing, "sae", "world")}  # fmt: skip
    width = max(map(len, shown)) + max(map(len, shown.values())) + 4
    across = max(OUT.width // width, 1)
    down = -(-len(shown) // across)
    table = Table.grid(padding=(0, 2, 0, 0))
    items = list(shown.items())
    for i in range(down):
        table.add_row(*(cell for name, value in items[i::down] for cell in (name, value)))
    if missing:
        table.caption = f"not measurable here: {', '.join(missing)}"
        table.caption_justify = "left"
    return table


def _print_comparison(row: pd.Series, limits: pd.DataFrame) -> None:
    """Prints the SAE between the ceilings and the floors of its world, each at the nearest L0."""
    title = "compared with, each at the nearest L0"
    table = _table(title, ("", "method", "at"), _COMPARED.values())
    for kind in ("ceiling", "this SAE", "floor"):
        if kind == "this SAE":
            table.add_row(kind, "", "", *(_number(row[c]) for c in _COMPARED), style="bold")
        for _, other in limits[limits["kind"] == kind].iterrows():
            scores = (_number(other[column]) for column in _COMPARED)
            table.add_row(kind, other["method"], _at(other), *scores)
        table.add_section()
    OUT.print(table)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Prints warnings of the `with` block as one line each on stderr, none twice."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"toysae: warning: {message}", file=sys.stderr)
