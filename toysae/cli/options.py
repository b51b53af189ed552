"""What the commands share: positional arguments, and options that are a world's fields."""

import re
from dataclasses import fields, make_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

import tyro

from ..errors import ToysaeError, require

T = TypeVar("T")


def positional(args: list[str], what: str) -> tuple[str, list[str]]:
    if args and args[0] in ("-h", "--help"):
        return "", args  # the options show themselves
    require(bool(args) and args[0] and not args[0].startswith("-"), f"name {what}")
    return args[0], args[1:]


def world_options(
    names: list[str], own: dict[str, tuple[Any, Any]], args: list[str], prog: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields given of those that all these worlds have, and the command's own options, which
    are (type, default) by name."""
    from ..worlds import WORLDS, world_fields

    for name in names:
        world_fields(name)  # unknown names are refused before anything is drawn
    first, *others = (WORLDS[name].fields for name in names)
    shared = {f: kind for f, (kind, _) in first.items() if all(f in other for other in others)}
    worlds = f"world{'s' * (len(names) > 1)} {' and '.join(map(repr, names))}"
    check_flags(args, f"field of {worlds}", [*shared, *own])
    options = make_dataclass(
        "Options",
        # Of several worlds each keeps its own default, for which None stands.
        [
            (field, kind | None, WORLDS[names[0]].fields[field][1] if len(names) == 1 else None)
            for field, kind in shared.items()
        ]
        + [(name, kind, default) for name, (kind, default) in own.items()],
        frozen=True,
    )
    given = vars(tyro.cli(options, args=args, prog=prog))
    rest = {name: given.pop(name) for name in own}
    return {field: value for field, value in given.items() if value is not None}, rest


def check_flags(args: list[str], kind: str, known: list[str]) -> None:
    """tyro knows unknown options too, but answers with a page; this is one line."""
    for name, arg in flags(args).items():
        if name != "help" and name not in known and name.removeprefix("no_") not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean --{near[0].replace('_', '-')}? " if near else ""
            raise ToysaeError(f"unknown {kind} {arg!r}: {hint}--help lists them")


def flags(args: list[str]) -> dict[str, str]:
    """The fields that arguments name, each with the argument itself."""
    return {arg[2:].split("=")[0].replace("-", "_"): arg for arg in args if arg.startswith("--")}


def read_options(kind: type[T], args: list[str], prog: str, default: T | None = None) -> T:
    """The fields of a dataclass, from arguments."""
    check_flags(args, "option", [f.name for f in fields(kind)])  # pyright: ignore[reportArgumentType]
    if default is None:
        return tyro.cli(kind, args=args, prog=prog)
    return tyro.cli(kind, args=args, prog=prog, default=default)


def count(text: str) -> int | None:
    """ "10M" as 10,000,000; None for nothing.

    Raises:
        ToysaeError: no such number.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMbB]?)", text.replace(",", "").replace("_", ""))
    if match is None:
        raise ToysaeError(f"tokens {text!r} is no number such as 500k, 10M or 1000000")
    n = round(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[match[2].lower()])
    require(n >= 1, f"tokens {text!r} must be at least 1")
    return n
