"""What users call is held against its own annotations, at the face of each package.

Inside the house functions trust each other; arguments from outside pass here first. An argument
becomes what its annotation says (NumPy's numbers Python's, lists and float64 the arrays that are
meant, one text a list of one), or it is refused in a sentence that names it. Shapes that bear the
same name must agree, as in ``[n_features, d_in]`` beside ``[d_sae, d_in]``.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from jax.core import Tracer

from . import checked
from .annotations import OrNaN, Refused, admitted
from .errors import ToysaeError, unknown

P = ParamSpec("P")
T = TypeVar("T")
__all__ = ["OrNaN", "check_fields", "guard", "guarded"]


def guard(face: dict[str, Any]) -> None:
    """Puts a door before every function of a package's `__all__`.

    Args:
        face: the package's `globals()`.
    """
    for name in face["__all__"]:
        if _is_function(face.get(name)):
            face[name] = guarded(face[name])


def _is_function(made: Any) -> bool:
    """Plain, jitted or cached."""
    marks = ("__code__", "lower", "cache_info")
    return not inspect.isclass(made) and any(hasattr(made, mark) for mark in marks)


def guarded(fn: Callable[P, T]) -> Callable[P, T]:
    """The function behind a door. It can be jitted, vmapped and differentiated as before."""
    signature = inspect.signature(fn)
    hints = _hints(fn)

    @wraps(fn)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        if any(isinstance(value, Tracer) for value in (*args, *kwargs.values())):
            return fn(*args, **kwargs)  # inside other compiled code
        bound, sizes = _bind(fn.__name__, signature, args, kwargs), {}
        for name, value in bound.arguments.items():
            if name not in hints:
                continue
            kind, hint = signature.parameters[name].kind, hints[name]
            if kind is inspect.Parameter.VAR_POSITIONAL:
                several = enumerate(value)
                value = tuple(_told(fn, f"{name}[{i}]", v, hint, {}) for i, v in several)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                for own, given in value.items():  # kept as they are: a whole number may be a size
                    _told(fn, own, given, hint, {})
            else:
                value = _told(fn, name, value, hint, sizes)
            bound.arguments[name] = value
        return fn(*bound.args, **bound.kwargs)

    for name in _OF_JITTED:
        if hasattr(fn, name):
            setattr(called, name, getattr(fn, name))
    return called


_OF_JITTED = ("lower", "trace", "eval_shape", "clear_cache")


def check_fields(made: Any) -> None:
    """Refuses a dataclass whose fields are not of the kinds that it declares.

    Raises:
        ToysaeError: naming the first one.
    """
    for name, hint in _hints(type(made)).items():
        _told(type(made), name, getattr(made, name), hint, {})


def _told(fn: Callable[..., Any], name: str, value: Any, hint: Any, sizes: dict[str, int]) -> Any:
    """:func:`admitted`, with errors that say whose argument it is."""
    try:
        return admitted(name, value, hint, sizes)
    except Refused as refused:
        what = f"{name} {checked.shown(value)} is not {refused}"
        raise ToysaeError(f"{fn.__name__}: {what}") from None
    except ToysaeError as error:
        raise ToysaeError(f"{fn.__name__}: {error}") from None


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """The annotations that can be evaluated: some name what is imported for type checkers alone."""
    found, space = {}, getattr(inspect.unwrap(fn), "__globals__", {})
    for name, hint in inspect.get_annotations(inspect.unwrap(fn)).items():
        try:
            found[name] = eval(hint, space) if isinstance(hint, str) else hint
        except NameError:
            continue
    found.pop("return", None)
    return found


def _bind(
    name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    for given in kwargs:
        known = signature.parameters
        if given not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise unknown(f"argument of {name}", given, known)
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ToysaeError(f"{name}: {error}: write {name}{_short(signature)}") from None


def _short(signature: inspect.Signature) -> str:
    required = [p for p in signature.parameters.values() if p.default is p.empty]
    more = ", ..." if len(required) < len(signature.parameters) else ""
    return f"({', '.join(p.name for p in required)}{more})"
