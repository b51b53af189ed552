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
from .aliases import SETTINGS, renamed
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
        bound, sizes = _bind(fn.__name__, signature, args, kwargs), {}
        for name, value in bound.arguments.items():
            if name not in hints or _is_traced(value):
                continue
            kind, hint = signature.parameters[name].kind, hints[name]
            if kind is inspect.Parameter.VAR_KEYWORD:
                continue  # of names and kinds that the function knows itself
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
    """Inside other compiled code: what is known of it is left to that."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    several = value if isinstance(value, tuple | list) else (value,)
    return any(isinstance(one, Tracer) for one in several)


_OF_JITTED = ("lower", "trace", "eval_shape", "clear_cache")


def asked(whose: str, name: str, value: Any, hint: Any, sizes: dict[str, int] | None = None) -> Any:
    """One value as an annotation wants it, see :func:`toysae.annotations.admitted`.

    Raises:
        ToysaeError: it is not; with its name, and whose it is.
    """
    try:
        return admitted(name, value, hint, {} if sizes is None else sizes)
    except Refused as refused:
        what = f"{name} {checked.shown(value)} is not {refused}"
        raise ToysaeError(f"{whose}: {what}") from None
    except ToysaeError as error:
        raise ToysaeError(f"{whose}: {error}") from None


def check_fields(made: Any) -> None:
    """Refuses a dataclass whose fields are not of the kinds that it declares.

    Raises:
        ToysaeError: naming the first one.
    """
    for name, hint in _hints(type(made)).items():
        asked(type(made).__name__, name, getattr(made, name), hint)


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
    known = signature.parameters
    kwargs = renamed(kwargs, SETTINGS, known)
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
