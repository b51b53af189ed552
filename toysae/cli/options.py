"""Arguments that the commands share: positional ones, and options that are a world's fields."""

import re
from contextlib import redirect_stderr
from dataclasses import fields, make_dataclass
from difflib import get_close_matches
from io import StringIO
from typing import Annotated, Any, TypeVar

import tyro

from ..aliases import OLD_SETTINGS, renamed
from ..errors import ToysaeError, require

T = TypeVar("T")


def positional(args: list[str], what: str) -> tuple[str, list[str]]:
    """The first argument and the others, "" before --help; an error names `what` is missing."""
    if args and args[0] in ("-h", "--help"):
        return "", args  # the options show themselves
    require(bool(args) and args[0] and not args[0].startswith("-"), f"name {what}")
    return args[0], args[1:]


def world_options(
    names: list[str], own: dict[str, tuple[Any, Any]], args: list[str], prog: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the options of a command about worlds: the given ones of the fields that all these
    worlds have, and the command's own options, whose types and defaults are given by name."""
    from ..worlds.registry import about_field, kinds_of

    first, *others = map(kinds_of, names) if names else [{}]
    shared = {f: kind for f, (kind, _) in first.items() if all(f in other for other in others)}
    worlds = f"world{'s' * (len(names) > 1)} {' and '.join(map(repr, names))}"
    args = check_flags(args, f"field of {worlds}" if names else "option", [*shared, *own])
    alone = len(names) == 1  # each of several worlds keeps its own default, for which None stands
    rows = []
    for field, kind in shared.items():
        default = first[field][1] if alone else None
        kind = kind if alone and default is not None and kind is not bool else kind | None
        rows.append((field, Annotated[kind, tyro.conf.arg(help=about_field(field))], default))
    for name, (kind, default) in own.items():
        rows.append((name, Annotated[kind, tyro.conf.arg(help=_OWN[name])], default))
    values = vars(parsed(make_dataclass("Options", rows, frozen=True), args, prog))
    options = {name: values.pop(name) for name in own}
    return {field: value for field, value in values.items() if value is not None}, options


_OWN = {
    "cache": "keep what was computed, and use it again",
    "ceilings": "also what perfection and chance would score",
    "d_sae": "latents; as many as features if not given",
    "json": "as JSON, on one page",
    "n_samples": "samples to measure on",
    "row": "of the table of the run",
    "out": "a folder for figures and tables",
    "scores": "only these",
    "seed": "of the directions and of all else that is drawn once",
}
"""The help of the options of commands about worlds, besides a world's fields."""


def check_flags(args: list[str], kind: str, known: list[str]) -> list[str]:
    """Returns the arguments by today's names, and refuses options that are not `known`, naming the
    nearest one, which tyro does not."""
    given = flags(args)
    names = renamed(given, OLD_SETTINGS, known, _as_flag)
    for name, arg in names.items():
        if name != "help" and name not in known and name.removeprefix("no_") not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {_as_flag(near[0])}? " if near else ""
            raise ToysaeError(f"unknown {kind} {arg!r}: {hint}--help lists them")
    now = {old: new for old, new in zip(given, names, strict=True) if old != new}
    return [_as_flag(now[name]) + arg[2 + len(name) :] if (name := _name(arg)) in now else arg
            for arg in args]  # fmt: skip


def _as_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _name(arg: str) -> str:
    """The field that an argument names; "" if none."""
    return arg[2:].split("=")[0].replace("-", "_") if arg.startswith("--") else ""


def flags(args: list[str]) -> dict[str, str]:
    """The names of the fields that arguments set, each with its argument."""
    return {_name(arg): arg for arg in args if arg.startswith("--")}


def read_options(kind: type[T], args: list[str], prog: str, default: T | None = None) -> T:
    """Reads the fields of a dataclass from arguments, after :func:`check_flags`."""
    known = [f.name for f in fields(kind)]  # pyright: ignore[reportArgumentType]
    args = check_flags(args, "option", known)
    return parsed(kind, args, prog, **({} if default is None else {"default": default}))


def parsed(kind: type[T], args: list[str], prog: str, **default: Any) -> T:
    """Reads arguments with tyro, whose page about an error becomes one line.

    Raises:
        ToysaeError: a value of the wrong kind, one that is missing, or one without an option.
    """
    require("" not in args, "an empty text is given: write a value, or leave its option out")
    page = StringIO()
    try:
        with redirect_stderr(page):
            return tyro.cli(kind, args=args, prog=prog, **default)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ToysaeError(_in_a_line(page.getvalue(), args, prog)) from None


def _in_a_line(page: str, args: list[str], prog: str) -> str:
    """The error in a page of tyro as one line with what was typed and what to write."""
    lines = [line.strip("│╭╮╰╯ ") for line in page.splitlines()[1:]]  # less its title
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"[─-]{8,}", line)]
    first = rules.pop(0) + 1 if rules[:1] == [0] else 0
    end = rules[0] if rules else len(lines)
    error = " ".join(" ".join(lines[first:end]).split())
    option = re.match(r"Error parsing (--[\w.-]+)", error)
    if option is None:
        error = re.sub(r"^Error parsing \w+: (\w+: )?", "", error)  # a dataclass's own message
        strange = error.removeprefix("Unrecognized options: ")
        return error if strange == error else f"{strange}: not an option of {prog}, leave it out"
    takes = next((line for line in lines[end:] if line.startswith(option[1])), option[1])
    places = [i for i, arg in enumerate(args) if arg.split("=")[0] == option[1]] or [0]
    rest = args[places[-1] :]
    n = next((i for i, arg in enumerate(rest[1:], 1) if arg.startswith("--")), len(rest))
    typed = (arg if arg.isprintable() and arg.strip() else repr(arg) for arg in rest[:n])
    return f"{' '.join(typed)} cannot be read: write {takes}"


def count(text: str) -> int | None:
    """Reads a number of tokens, such as "10M" for 10,000,000; None for "".

    Raises:
        ToysaeError: it is not such a number.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMbB]?)", text.replace(",", "").replace("_", ""))
    if match is None:
        raise ToysaeError(f"tokens {text!r} is not a number such as 500k, 10M or 1000000")
    n = round(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[match[2].lower()])
    require(n >= 1, f"tokens {text!r} must be at least 1")
    return n
