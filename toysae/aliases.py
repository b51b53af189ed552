"""Old names that may still be typed, each noted once with what it is called now."""

import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from dataclasses import fields
from functools import cache, wraps
from typing import Any, TypeVar

from .errors import require, unknown

V = TypeVar("V")
C = TypeVar("C", bound=type)

OLD_SETTINGS = {
    "l1": "l1_coeff", "axes": "points", "resid_l1": "resid_l1_coeff", "mlp_l1": "mlp_l1_coeff"
}  # fmt: skip
"""Of experiments, studies, functions and commands: the old name, and today's."""
OLD_COLUMNS = {"l1": "sparsity", "group": "cell"}
"""Of the tables of runs."""
OLD_FIGURES = {"l1_by_size": "sparsity_by_size"}
"""Of any results."""

_BETWEEN = ("toysae", "importlib", "contextlib", "jaxtyping")
"""Whose calls lie between a user's line and a note about it."""


def renamed(
    given: Mapping[str, V], old: Mapping[str, str], known: Collection[str],
    spelled: Callable[[str], str] = str,
) -> dict[str, V]:  # fmt: skip
    """What is given, by today's names.

    Args:
        given: by old names or today's.
        old: names, with what they are now.
        known: what there is: a name is old where it is not there, and its successor is.
        spelled: how a user writes a name.

    Raises:
        ToysaeError: something is given by both of its names.
    """
    return {today(name, old, known, given, spelled): value for name, value in given.items()}


def today(
    name: str, old: Mapping[str, str], known: Collection[str], beside: Collection[str] = (),
    spelled: Callable[[str], str] = str,
) -> str:  # fmt: skip
    """Today's name of one thing, which is not also given `beside` it, see :func:`renamed`."""
    new = old.get(name, name)
    if name in known or new not in known:
        return name
    both = f"{spelled(name)} and {spelled(new)} are one"
    require(new not in beside, f"{both}: give {spelled(new)} alone")
    tell_once(spelled(name), spelled(new))
    return new


def accepts_old_names(kind: C) -> C:
    """Lets the fields of a dataclass be given by their old names too, and refuses other names."""
    init: Callable[..., None] = kind.__init__
    known = [field.name for field in fields(kind)]

    @wraps(init)
    def from_any_names(self: Any, *args: Any, **given: Any) -> None:
        given = renamed(given, OLD_SETTINGS, known)
        for name in given:
            if name not in known:
                raise unknown(f"field of {kind.__name__}", name, known)
        init(self, *args, **given)

    kind.__init__ = from_any_names
    return kind


@cache
def tell_once(old: str, new: str) -> None:
    """Says once in a process that something has another name now."""
    tell.get()(f"{old} is called {new} now: write {new}")


def _warn(text: str) -> None:
    """Of the nearest line that is a user's."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        frame = frame.f_back
    warnings.warn_explicit(text, FutureWarning, frame.f_code.co_filename, frame.f_lineno)


tell: ContextVar[Callable[[str], None]] = ContextVar("tell", default=_warn)
"""How a note is given: as a warning; the command line has a way of its own."""
