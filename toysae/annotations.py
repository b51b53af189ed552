"""Conversion of an argument to what its annotation asks for, or the words to refuse it with."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray

from . import checked
from .errors import ToysaeError, require
from .machine import check_bytes

_MOST_VALUES = 1_000_000
_LARGE = 2**24

OrNaN = Annotated[float, "NaN where there is none"]
"""A number that may be missing."""

_REMEDIES = {
    "World": ": give make_world('sphere'), say",
    "SAE": ": give the sae(row) of a train result, or load_sae(path)",
    "Results": ": make it with an Experiment and run",
    "DataFrame": ": give a table such as that of a run or of train",
    "Points": ": give points.grid(...), say",
    "SAESpec": ": give make_spec('untied', d_in, d_sae), say",
}


class Refused(Exception):
    """A value is not what its annotation asks for; the message says what it should be."""


def admitted(name: str, value: Any, hint: Any, sizes: dict[str, int]) -> Any:
    """Converts a value as its annotation wants it.

    Args:
        name: of the argument.
        value: of the argument.
        hint: its annotation.
        sizes: of the dimensions known so far, by name; those of `value` are added.

    Raises:
        Refused: another kind of value.
        ToysaeError: a number, text or path that is out of range.
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
            raise Refused("None")
        return None
    is_listing = isinstance(origin, type) and issubclass(origin, Iterable)
    if is_listing and not issubclass(origin, Mapping | np.ndarray):
        return _listed(name, value, origin, args)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(args) == 2:
        if not isinstance(value, Mapping):
            raise Refused("a mapping")
        return {k: admitted(f"{name}[{k!r}]", v, args[1], {}) for k, v in value.items()}
    kind = origin or hint
    if kind is Callable or kind is get_origin(Callable[[], None]):
        if not callable(value):
            raise Refused("a function")
        return value
    if kind is Hashable:
        try:
            hash(value)
        except TypeError:
            raise Refused("a plain value") from None
    if isinstance(kind, type) and not isinstance(value, kind):
        raise Refused(f"{_a(kind.__name__)}{_REMEDIES.get(kind.__name__, '')}")
    return value


def _integer(name: str, value: Any) -> int:
    number = checked.integer(name, value)
    require(abs(number) <= 2**53, f"{name} {checked.shown(value)} is out of range")
    return number


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


def _one_of(name: str, value: Any, kinds: tuple[Any, ...], sizes: dict[str, int]) -> Any:
    """Converts a value to the first kind that fits, arrays last, as a number also fits an array."""
    if value is None and NoneType in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not NoneType)
    wanted: list[str] = []
    for kind in sorted(kinds, key=_is_array):
        try:
            return admitted(name, value, kind, sizes)
        except Refused as refused:
            wanted.append(str(refused))
        except ToysaeError as error:
            # A number that is out of range is not refused for its kind.
            if len(kinds) == 1 or (kind in (int, float) and isinstance(value, int | float)):
                raise error from None
            wanted.append(_a(_kind_of(kind)))
    raise Refused(" or ".join(dict.fromkeys(wanted)))


def _listed(name: str, value: Any, origin: Any, args: tuple[Any, ...]) -> Any:
    """Converts a sequence, set or iterable; one value stands for a list of one."""
    each = args[0] if args else Any
    if origin is tuple and args and args[-1] is not Ellipsis:
        if not isinstance(value, tuple | list) or len(value) != len(args):
            raise Refused(f"{len(args)} values")
        pairs = zip(value, args, strict=True)
        return tuple(admitted(name, one, kind, {}) for one, kind in pairs)
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape) > 1:
        raise Refused(f"a list of {_kind_of(each)}s")
    if isinstance(value, str | bytes) or not isinstance(value, Iterable) or shape == ():
        try:
            value = [admitted(name, value, each, {})]
        except (Refused, ToysaeError):
            raise Refused(f"a list of {_kind_of(each)}s") from None
    if isinstance(value, Mapping) and issubclass(origin, Sequence):
        raise Refused(f"a list of {_kind_of(each)}s")
    if isinstance(value, Iterator) and not issubclass(origin, Sequence):
        return value  # its values are not read ahead
    if isinstance(origin, type) and issubclass(origin, Set) and not isinstance(value, Set):
        raise Refused("a set")
    values = list(islice(value, _MOST_VALUES + 1))
    require(len(values) <= _MOST_VALUES, f"{name} has more than {_MOST_VALUES:,} values")
    if not _are_plain(values, each):
        values = [admitted(f"{name}[{i}]", one, each, {}) for i, one in enumerate(values)]
    return tuple(values) if origin is tuple else values


def _are_plain(values: list[Any], each: Any) -> bool:
    """Whether all values are already of the wanted kinds: a quick check for long lists."""
    kinds = set(get_args(each)) or {each}
    if not kinds <= {int, float, str} or not {type(value) for value in values} <= kinds:
        return False
    texts = [value for value in values if isinstance(value, str)]
    numbers = [value for value in values if isinstance(value, float)]
    return all(map(isfinite, numbers)) and not any("\0" in text for text in texts)


def _array(name: str, value: Any, hint: Any, sizes: dict[str, int]) -> Any:
    """Converts to an array of the wanted kind and shape; whole numbers will do for floats."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        if not hasattr(hint, "dim_str") or not isinstance(value, hint):
            raise Refused(_wanted(hint, sizes))
        return value
    on_host = getattr(hint, "array_type", hint) is np.ndarray
    array = _numbers(name, value)
    kinds = [str(kind) for kind in getattr(hint, "dtypes", ())]
    if kinds and all("float" in kind for kind in kinds):
        if array.dtype.kind in "biuf" and (not on_host or array.dtype.kind != "f"):
            array = array.astype(np.float64 if on_host else np.float32)
    elif isinstance(array, np.ndarray) and array.dtype.kind in "iu" and array.size and not on_host:
        fits = int(array.min()) >= -(2**31) and int(array.max()) < 2**31
        require(fits, f"{name} has numbers beyond 32 bits")
    array = np.asarray(array) if on_host else jnp.asarray(array)
    if hasattr(hint, "dim_str"):
        fits = isinstance(array, hint) and _fits(array.shape, hint.dim_str.split(), sizes)
        if not fits:
            raise Refused(_wanted(hint, sizes))
    return array


def _fits(shape: tuple[int, ...], dims: list[str], sizes: dict[str, int]) -> bool:
    """Whether the named dimensions have the same sizes as others of their name."""
    free = [i for i, dim in enumerate(dims) if dim[0] in "*."]
    if free:  # stands for any number of dimensions
        dims = [*dims[: free[0]], *dims[free[0] + 1 :]]
        shape = (*shape[: free[0]], *shape[len(shape) - len(dims) + free[0] :])
    named = [(dim, size) for dim, size in zip(dims, shape, strict=True) if dim.isidentifier()]
    named = [(dim, size) for dim, size in named if dim[0] != "_"]
    return all(sizes.setdefault(dim, size) == size for dim, size in named)


def _numbers(name: str, value: Any) -> Any:
    """Converts a list, table or array of numbers to an array."""
    if not hasattr(value, "dtype"):
        if isinstance(value, str | bytes | Mapping | Set) or callable(value) or value is None:
            raise Refused("an array of numbers")
        try:
            value = np.asarray(value)
        except (ValueError, TypeError, OverflowError):
            raise Refused("an array of numbers, with rows of one length") from None
    if not isinstance(value, jax.Array | np.ndarray):
        value = np.asarray(value)
    if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool):
        raise Refused("an array of numbers")
    if value.size > _LARGE:
        check_bytes(f"{name} of shape {list(value.shape)}", 4 * value.size, "give a smaller one")
    return value


def _wanted(hint: Any, sizes: Mapping[str, int]) -> str:
    """An array annotation in words, with the sizes that are known."""
    if not hasattr(hint, "dim_str"):
        return "an array of numbers"
    kind, dims = hint.__name__.split("[")[0].lower(), hint.dim_str.split()
    if "key" in kind or "prng" in kind:
        return "a random key such as jax.random.key(0)"
    known = [f"{dim} {sizes[dim]}" for dim in dims if dim in sizes]
    with_sizes = f" with {', '.join(known)}" if known else ""
    return f"{_a(kind)} array [{', '.join(dims)}]{with_sizes}" if dims else _a(kind)


def _kind_of(kind: Any) -> str:
    words = {bool: "bool", int: "whole number", float: "number", str: "text", Path: "path"}
    return words.get(kind, getattr(kind, "__name__", "value"))


def _a(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeiou' or word.startswith('SAE') else 'a'} {word}"
