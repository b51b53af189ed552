"""Checks of the arguments of public functions against their annotations.

Functions of toysae trust each other; arguments from outside are checked here first. An argument is
converted to what its annotation says (NumPy's numbers to Python's, lists and float64 to the arrays
that are meant, one text to a list of one), or refused in a sentence that names it. Dimensions of
the same name must agree, as in ``[n_features, d_in]`` and ``[d_sae, d_in]``.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

from jax.core import Tracer

from . import checked
from .aliases import OLD_SETTINGS, renamed
from .annotations import OrNaN, Refused, admitted
from .errors import ToysaeError, unknown

P = ParamSpec("P")
T = TypeVar("T")
__all__ = ["OrNaN", "admit_fields", "check_fields", "guard", "guarded"]


def guard(face: dict[str, Any]) -> None:
    """Replaces every function of a package's `__all__` by :func:`guarded`.

    Args:
        face: the package's `globals()`.
    """
    for name in face["__all__"]:
        if _is_function(face.get(name)):
            face[name] = guarded(face[name])


def _is_function(value: Any) -> bool:
    """Whether a value is a plain, jitted or cached function."""
    marks = ("__code__", "lower", "cache_info")
    return not inspect.isclass(value) and any(hasattr(value, mark) for mark in marks)


def guarded(fn: Callable[P, T]) -> Callable[P, T]:
    """Returns the function with checked arguments. It can be jitted, vmapped and differentiated as
    before."""
    signature = inspect.signature(fn)
    hints_of = cache(_hints)  # when first called: some name packages that are not imported before

    @wraps(fn)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        hints = hints_of(fn)
        bound, sizes = _bind(fn.__name__, signature, args, kwargs), {}
        for name, value in bound.arguments.items():
            if name not in hints or _is_traced(value):
                continue
            kind, hint = signature.parameters[name].kind, hints[name]
            if kind is inspect.Parameter.VAR_KEYWORD:
                continue  # the function checks these itself
            if kind is inspect.Parameter.VAR_POSITIONAL:
                several = enumerate(value)
                value = tuple(asked(fn.__name__, f"{name}[{i}]", v, hint) for i, v in several)
            else:
                value = asked(fn.__name__, name, value, hint, sizes)
            bound.arguments[name] = value
        return fn(*bound.args, **bound.kwargs)

    for name in _OF_JITTED:
        if hasattr(fn, name):
            setattr(called, name, getattr(fn, name))
    return called


def _is_traced(value: Any) -> bool:
    """Whether a value is traced by jax, so that only the compiled code can check it."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    several = value if isinstance(value, tuple | list) else (value,)
    return any(isinstance(one, Tracer) for one in several)


_OF_JITTED = ("lower", "trace", "eval_shape", "clear_cache")


def asked(owner: str, name: str, value: Any, hint: Any, sizes: dict[str, int] | None = None) -> Any:
    """Converts a value as its annotation wants it, see :func:`toysae.annotations.admitted`.

    Raises:
        ToysaeError: it is refused; with its name and its owner.
    """
    try:
        return admitted(name, value, hint, {} if sizes is None else sizes)
    except Refused as refused:
        what = f"{name} {checked.shown(value)} is not {refused}"
        raise ToysaeError(f"{owner}: {what}") from None
    except ToysaeError as error:
        raise ToysaeError(f"{owner}: {error}") from None


def check_fields(instance: Any) -> None:
    """Refuses an instance of a dataclass whose fields are not of their declared kinds.

    Raises:
        ToysaeError: naming the first such field.
    """
    for name, hint in _hints(type(instance)).items():
        asked(type(instance).__name__, name, getattr(instance, name), hint)


def admit_fields(instance: Any) -> None:
    """:func:`check_fields` of a frozen dataclass, whose fields become what they declare: one number
    a tuple of one, NumPy's numbers Python's."""
    for name, hint in _hints(type(instance)).items():
        value = asked(type(instance).__name__, name, getattr(instance, name), hint)
        object.__setattr__(instance, name, value)


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """The annotations that can be evaluated: some have names that only type checkers import."""
    fn = inspect.unwrap(fn)
    module = sys.modules.get(fn.__module__)
    hints, space = {}, getattr(fn, "__globals__", vars(module) if module else {})
    for name, hint in inspect.get_annotations(fn).items():
        try:
            hints[name] = eval(hint, space) if isinstance(hint, str) else hint
        except NameError:
            continue
    hints.pop("return", None)
    return hints


def _bind(
    name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    known = signature.parameters
    kwargs = renamed(kwargs, OLD_SETTINGS, known)
    for given in kwargs:
        if given not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise unknown(f"argument of {name}", given, known)
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ToysaeError(f"{name}: {error}: write {name}{_short(signature)}") from None


def _short(signature: inspect.Signature) -> str:
    known = [
        p for p in signature.parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    required = [p for p in known if p.default is p.empty]
    more = ", ..." if len(required) < len(signature.parameters) else ""
    return f"({', '.join(p.name for p in required)}{more})"
