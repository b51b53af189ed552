"""The one error that users see: it names the wrong value and says what to write instead."""

from collections.abc import Iterable
from difflib import get_close_matches


class ToysaeError(ValueError):
    """Bad input. The command line prints it as one line and exits with status 2."""


def unknown(kind: str, given: object, known: Iterable[str]) -> ToysaeError:
    """The error for a name that is not among the known ones, with the nearest of them."""
    known = sorted(known)
    by_lower = {name.lower(): name for name in reversed(known)}
    lower = given.lower() if isinstance(given, str) else ""
    near = get_close_matches(lower, by_lower, n=1, cutoff=0.4) if lower else []
    hint = f"did you mean {by_lower[near[0]]!r}? " if near else ""
    shown = " ".join(repr(given).split())
    shown = shown if len(shown) < 120 else f"{shown[:100]}..."
    return ToysaeError(f"unknown {kind} {shown}: {hint}known: {', '.join(known)}")


def require(condition: object, message: str) -> None:
    """Raises :class:`ToysaeError` with `message` unless `condition` is true."""
    if not condition:
        raise ToysaeError(message)
