"""What users call is held against its own annotations, at the face of each package.

Inside the house functions trust each other; arguments from outside pass here first. An argument
becomes what its annotation says (NumPy's numbers Python's, lists and float64 the arrays that are
meant, one text a list of one), or it is refused in a sentence that names it. Shapes that bear the
same name must agree, as in ``[n_features, d_in]`` beside ``[d_sae, d_in]``.
"""

import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from functools import wraps
from itertools import islice
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import AbstractArray

from . import checked
from .errors import ToysaeError, require, unknown
from .machine import check_bytes

P = ParamSpec("P")
T = TypeVar("T")
_MOST_VALUES = 1_000_000
_LARGE = 2**24


OrNaN = Annotated[float, "NaN where there is none"]
"""A number that may be missing."""

_REMEDIES = {
    "World": ": give make_world('sphere'), say",
    "SAE": ": give the sae(row) of a train result, or load_sae(path)",
    "Results": ": make it with an Experiment and run",
    "DataFrame": ": give a table such as that of a run or of train",
    "Points": ": give axes.grid(...), say",
    "SAESpec": ": give make_spec('untied', d_in, d_sae), say",
}


class _Refused(Exception):
    """What an argument should have been."""


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
    except _Refused as refused:
        what = f"{name} {checked.shown(value)} is not {refused}"
        raise ToysaeError(f"{fn.__name__}: {what}") from None
    except ToysaeError as error:
        raise ToysaeError(f"{fn.__name__}: {error}") from None


def admitted(name: str, value: Any, hint: Any, sizes: dict[str, int]) -> Any:
    """A value as its annotation wants it.

    Args:
        name: of the argument.
        value: of it.
        hint: its annotation.
        sizes: of the dimensions known so far, by name; it is added to.

    Raises:
        ToysaeError: a number, text or path that is not what it should be.
    """
    if hint == OrNaN and isinstance(value, float | np.floating) and np.isnan(value):
        return float("nan")
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if isinstance(hint, TypeVar):
        hint = hint.__bound__ or Any
    if hint is Any or isinstance(hint, str):
        return value
    origin, args = get_origin(hint), get_args(hint)
    if _is_array(hint):
        return _array(name, value, hint, sizes)
    if hint in _ARRAY_LIKE:
        return _numbers(name, value)
    if origin in (Union, UnionType):
        return _one_of(name, value, args, sizes)
    if origin is Literal:
        return checked.text(name, value, args)
    if hint in _SCALARS:
        return _SCALARS[hint](name, value)
    if hint in (None, NoneType):
        if value is not None:
            raise _Refused("None")
        return None
    if origin is tuple or origin is list or (isinstance(origin, type) and _is_listing(origin)):
        return _listed(name, value, origin, args)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(args) == 2:
        if not isinstance(value, Mapping):
            raise _Refused("a mapping")
        return {k: admitted(f"{name}[{k!r}]", v, args[1], {}) for k, v in value.items()}
    kind = origin or hint
    if kind is Callable or kind is get_origin(Callable[[], None]):
        if not callable(value):
            raise _Refused("a function")
        return value
    if kind is Hashable:
        try:
            hash(value)
        except TypeError:
            raise _Refused("a plain value") from None
    if isinstance(kind, type) and not isinstance(value, kind):
        raise _Refused(f"{_a(kind.__name__)}{_REMEDIES.get(kind.__name__, '')}")
    return value


def _integer(name: str, value: Any) -> int:
    found = checked.integer(name, value)
    require(abs(found) <= 2**53, f"{name} {checked.shown(value)} is out of range")
    return found


_SCALARS: dict[Any, Callable[[str, Any], Any]] = {
    bool: checked.flag,
    int: _integer,
    float: checked.number,
    str: checked.text,
    Path: checked.path,
}
_ARRAY_LIKE = (np.typing.ArrayLike, jax.typing.ArrayLike)


def _is_array(hint: Any) -> bool:
    plain = np.ndarray in (hint, get_origin(hint)) or hint is jax.Array
    return plain or (isinstance(hint, type) and issubclass(hint, AbstractArray))


def _is_listing(kind: type) -> bool:
    return issubclass(kind, Iterable) and not issubclass(kind, Mapping | np.ndarray)


def _one_of(name: str, value: Any, kinds: tuple[Any, ...], sizes: dict[str, int]) -> Any:
    """The first that fits, arrays last: a number is a number before it is an array of one."""
    if value is None and NoneType in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not NoneType)
    said: list[str] = []
    for kind in sorted(kinds, key=_is_array):
        try:
            return admitted(name, value, kind, sizes)
        except _Refused as refused:
            said.append(str(refused))
        except ToysaeError as error:
            # A number that is out of range is not refused for its kind.
            if len(kinds) == 1 or (kind in (int, float) and isinstance(value, int | float)):
                raise error from None
            said.append(_a(_kind_of(kind)))
    raise _Refused(" or ".join(dict.fromkeys(said)))


def _listed(name: str, value: Any, origin: Any, args: tuple[Any, ...]) -> Any:
    """Sequences, sets and iterables; one value stands for a list of one."""
    each = args[0] if args else Any
    if origin is tuple and args and args[-1] is not Ellipsis:
        if not isinstance(value, tuple | list) or len(value) != len(args):
            raise _Refused(f"{len(args)} values")
        pairs = zip(value, args, strict=True)
        return tuple(admitted(name, one, kind, {}) for one, kind in pairs)
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape) > 1:
        raise _Refused(f"a list of {_kind_of(each)}s")
    if isinstance(value, str | bytes) or not isinstance(value, Iterable) or shape == ():
        try:
            value = [admitted(name, value, each, {})]
        except (_Refused, ToysaeError):
            raise _Refused(f"a list of {_kind_of(each)}s") from None
    if isinstance(value, Mapping) and issubclass(origin, Sequence):
        raise _Refused(f"a list of {_kind_of(each)}s")
    if isinstance(value, Iterator) and not issubclass(origin, Sequence):
        return value  # each as it comes
    if isinstance(origin, type) and issubclass(origin, Set) and not isinstance(value, Set):
        raise _Refused("a set")
    found = list(islice(value, _MOST_VALUES + 1))
    require(len(found) <= _MOST_VALUES, f"{name} has more than {_MOST_VALUES:,} values")
    if not _are_plain(found, each):
        found = [admitted(f"{name}[{i}]", one, each, {}) for i, one in enumerate(found)]
    return tuple(found) if origin is tuple else found


def _are_plain(values: list[Any], each: Any) -> bool:
    """Long lists of what is asked for already, mostly."""
    kinds = set(get_args(each)) or {each}
    if not kinds <= {int, float, str} or not {type(value) for value in values} <= kinds:
        return False
    texts = [value for value in values if isinstance(value, str)]
    numbers = [value for value in values if isinstance(value, float)]
    return all(map(isfinite, numbers)) and not any("\0" in text for text in texts)


def _array(name: str, value: Any, hint: Any, sizes: dict[str, int]) -> Any:
    """An array of the kind and shape that is asked for; whole numbers will do for floats."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        if not hasattr(hint, "dim_str") or not isinstance(value, hint):
            raise _Refused(_wanted(hint, sizes))
        return value
    on_host = getattr(hint, "array_type", hint) is np.ndarray
    found = _numbers(name, value)
    kinds = [str(kind) for kind in getattr(hint, "dtypes", ())]
    if kinds and all("float" in kind for kind in kinds):
        if found.dtype.kind in "biuf" and (not on_host or found.dtype.kind != "f"):
            found = found.astype(np.float64 if on_host else np.float32)
    elif isinstance(found, np.ndarray) and found.dtype.kind in "iu" and found.size and not on_host:
        fits = int(found.min()) >= -(2**31) and int(found.max()) < 2**31
        require(fits, f"{name} has numbers beyond 32 bits")
    found = np.asarray(found) if on_host else jnp.asarray(found)
    if hasattr(hint, "dim_str"):
        dims = hint.dim_str.split()
        fits = isinstance(found, hint) and _fits(found.shape, dims, sizes)
        if not fits:
            raise _Refused(_wanted(hint, sizes))
    return found


def _fits(shape: tuple[int, ...], dims: list[str], sizes: dict[str, int]) -> bool:
    """Whether the named dimensions have the sizes that others of the same name have."""
    free = [i for i, dim in enumerate(dims) if dim[0] in "*."]
    if free:  # as many dimensions there as are left
        dims = [*dims[: free[0]], *dims[free[0] + 1 :]]
        shape = (*shape[: free[0]], *shape[len(shape) - len(dims) + free[0] :])
    named = [(dim, size) for dim, size in zip(dims, shape, strict=True) if dim.isidentifier()]
    named = [(dim, size) for dim, size in named if dim[0] != "_"]
    return all(sizes.setdefault(dim, size) == size for dim, size in named)


def _numbers(name: str, value: Any) -> Any:
    """Lists, tables and arrays, if they hold numbers."""
    if not hasattr(value, "dtype"):
        if isinstance(value, str | bytes | Mapping | Set) or callable(value) or value is None:
            raise _Refused("an array of numbers")
        try:
            value = np.asarray(value)
        except (ValueError, TypeError, OverflowError):
            raise _Refused("an array of numbers, with rows of one length") from None
    if not isinstance(value, jax.Array | np.ndarray):
        value = np.asarray(value)
    if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool):
        raise _Refused("an array of numbers")
    if value.size > _LARGE:
        check_bytes(f"{name} of shape {list(value.shape)}", 4 * value.size, "give a smaller one")
    return value


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


def _wanted(hint: Any, sizes: Mapping[str, int]) -> str:
    if not hasattr(hint, "dim_str"):
        return "an array of numbers"
    of, dims = hint.__name__.split("[")[0].lower(), hint.dim_str.split()
    if "key" in of or "prng" in of:
        return "a random key such as jax.random.key(0)"
    known = [f"{dim} {sizes[dim]}" for dim in dims if dim in sizes]
    beside = f" with {', '.join(known)}" if known else ""
    return f"{_a(of)} array [{', '.join(dims)}]{beside}" if dims else f"{_a(of)}"


def _kind_of(kind: Any) -> str:
    words = {bool: "bool", int: "whole number", float: "number", str: "text", Path: "path"}
    return words.get(kind, getattr(kind, "__name__", "value"))


def _a(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"
