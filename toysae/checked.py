"""Checks of values from outside: arguments, command lines, other people's files.

A value passes if it is of the wanted kind and in the wanted range. The error names it and says
what to write. JSON is read strictly: no name twice, no NaN, no infinity, no endless nesting.
"""

import json
import math
import os
import reprlib
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, TypeVar

from .errors import ToysaeError, require, unknown

MOST_JSON = 2**26
"""The most bytes of a JSON file that is read: no configuration is nearly as large."""

T = TypeVar("T")
_MISSING = object()
_MOST_VALUES = 100_000
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_LONGEST = 200  # characters: nested tables can be long although each is short


def shown(value: object) -> str:
    """A value as a short line for a message: arrays by dtype and shape, other objects by kind."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{dtype}[{','.join(map(str, shape))}]"
    if isinstance(value, _PLAIN):
        text = " ".join(_SHORT.repr(value).split())
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    return f"(a {type(value).__name__})"


_PLAIN = str | bytes | int | float | complex | list | tuple | dict | set | PurePath | type(None)


def integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """A whole number as a Python int; NumPy's integers are taken, bools and floats are not.

    Raises:
        ToysaeError: another kind of value, or outside [low, high].
    """
    value = as_python(value)
    if isinstance(value, bool) or not isinstance(value, int):
        almost = isinstance(value, float) and value.is_integer()
        hint = f": write {int(value)}" if almost else ""
        raise ToysaeError(f"{name} {shown(value)} is not a whole number{hint or _range(low, high)}")
    _within(name, value, low, high)
    return value


FLOAT32_MAX = 3.4028234e38


def number32(name: str, value: Any) -> float:
    """A :func:`number` that a float32 can hold.

    Raises:
        ToysaeError: another kind of value, not finite, or too large.
    """
    converted = number(name, value)
    fits = abs(converted) <= FLOAT32_MAX
    require(fits, f"{name} {shown(value)} is outside the range of float32: at most 3.4e38")
    return converted


def number(
    name: str, value: Any, low: float | None = None, high: float | None = None,
    *, above: float | None = None, below: float | None = None,
) -> float:  # fmt: skip
    """A finite number as a Python float; integers are taken, bools are not.

    Args:
        name: of the value, as the user wrote it.
        value: to check.
        low: the smallest allowed value.
        high: the largest allowed value.
        above: the value must be larger than this.
        below: the value must be smaller than this.

    Raises:
        ToysaeError: another kind of value, not finite, or outside its range.
    """
    value = as_python(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ToysaeError(f"{name} {shown(value)} is not a number")
    try:
        converted = float(value)
    except OverflowError:
        converted = math.inf
    require(math.isfinite(converted), f"{name} {shown(value)} is not finite: give a finite number")
    _within(name, converted, low, high)
    require(above is None or converted > above, f"{name} {converted:g} must be larger than {above}")
    require(below is None or converted < below, f"{name} {converted:g} must be below {below}")
    return converted


def text(name: str, value: Any, choices: Iterable[str] | None = None) -> str:
    """A string, one of `choices` if there are any.

    Raises:
        ToysaeError: another kind of value, or not one of the choices.
    """
    require(isinstance(value, str), f"{name} {shown(value)} is not a text")
    require("\0" not in value, f"{name} {shown(value)} holds a character that no text has")
    if choices is not None and value not in (known := list(choices)):
        raise unknown(name, value, known)
    return value


def seed(name: str, value: Any) -> int:
    """A seed: a whole number of 31 bits, so that no two seeds give the same key.

    Raises:
        ToysaeError: another kind of value, or out of range.
    """
    return integer(name, value, 0, 2**31 - 1)


def several(name: str, values: Any, check: Callable[[str, Any], T]) -> tuple[T, ...]:
    """One value or several, each of which passes `check`. A text is one value, not its letters.

    Raises:
        ToysaeError: no value, one that does not pass, or one that is there twice.
    """
    one = isinstance(values, str) or not isinstance(values, Iterable)
    one = one or getattr(values, "ndim", 1) == 0
    listed = [values] if one else list(islice(values, _MOST_VALUES + 1))
    require(len(listed) <= _MOST_VALUES, f"{name} has more than {_MOST_VALUES:,} values")
    passed = tuple(check(name, value) for value in listed)
    require(passed, f"{name} is empty: give at least one value")
    twice = [value for value, n in Counter(passed).items() if n > 1]
    require(not twice, f"{name} has {shown(twice[:1])} twice: leave one out")
    return passed


def path(name: str, value: Any) -> Path:
    """A path, from a path or a text.

    Raises:
        ToysaeError: another kind of value, or an empty path.
    """
    good = isinstance(value, str | os.PathLike) and str(value) not in ("", ".")
    good = good and "\0" not in str(value)
    longest = max((len(os.fsencode(part)) for part in Path(str(value)).parts), default=0)
    require(longest < 256, f"{name} {shown(value)} has a part of {longest:,} bytes: at most 255")
    require(good, f"{name} {shown(value)} is not a path")
    return Path(value)


def flag(name: str, value: Any) -> bool:
    """True or False, but no other value that Python takes for them.

    Raises:
        ToysaeError: another value.
    """
    value = as_python(value)
    require(isinstance(value, bool), f"{name} {shown(value)} is neither true nor false")
    return value


class Fields:
    """A JSON object whose fields are read by name and kind; errors say in which file.

    Args:
        value: that should be an object.
        where: its name in messages: a path, followed by the name of a field if it is inside one.

    Raises:
        ToysaeError: `value` is not an object.
    """

    def __init__(self, value: Any, where: str | Path):
        require(isinstance(value, dict), f"{where} is not a JSON object but {shown(value)}")
        self.where, self.value, self._read = str(where), value, set()

    def __contains__(self, name: str) -> bool:
        return name in self.value

    def any(self, name: str, default: Any = _MISSING) -> Any:
        """The value of a field, of any kind."""
        self._read.add(name)
        if name in self.value:
            return self.value[name]
        require(default is not _MISSING, f"{self.where} has no field {name!r}")
        return default

    def integer(
        self, name: str, default: Any = _MISSING, low: int | None = None, high: int | None = None
    ) -> Any:
        """A whole number, or the default as it is."""
        value = self.any(name, default)
        return value if name not in self.value else integer(self._label(name), value, low, high)

    def number(self, name: str, default: Any = _MISSING, **within: float | None) -> Any:
        """A finite number, or the default as it is; ranges as in :func:`number`."""
        value = self.any(name, default)
        return value if name not in self.value else number(self._label(name), value, **within)

    def text(self, name: str, default: Any = _MISSING, choices: Iterable[str] | None = None) -> Any:
        """A string, or the default as it is."""
        value = self.any(name, default)
        return value if name not in self.value else text(self._label(name), value, choices)

    def flag(self, name: str, default: Any = _MISSING) -> Any:
        """True or False, or the default as it is."""
        value = self.any(name, default)
        return value if name not in self.value else flag(self._label(name), value)

    def items(self, name: str, default: Any = _MISSING) -> Any:
        """A list, or the default as it is."""
        value = self.any(name, default)
        if name in self.value:
            require(isinstance(value, list), f"{self._label(name)} {shown(value)} is not a list")
        return value

    def object(self, name: str, default: Any = _MISSING) -> "Fields":
        """An object inside this one."""
        return Fields(self.any(name, default), self._label(name))

    def unread(self) -> list[str]:
        """The names of the fields that have not been read."""
        return sorted(set(self.value) - self._read)

    def _label(self, name: str) -> str:
        return f"{self.where}: {name}"


def read_regular(path: Path, most: int = MOST_JSON, kind: str = "file") -> bytes:
    """Reads a regular file; a pipe or a device might never end.

    Args:
        path: of the file.
        most: bytes that it may have.
        kind: its name in messages.

    Raises:
        ToysaeError: it is missing, not a regular file, larger than `most`, or cannot be read.
    """
    try:
        require(stat.S_ISREG(os.stat(path).st_mode), f"{path} is not a regular file")
        # Non-blocking, in case it has become a pipe meanwhile.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            require(size <= most, f"{path} has {size:,} bytes, and a {kind} has at most {most:,}")
            data = file.read(size + 1)  # allocates as many at once
    except FileNotFoundError as error:
        raise ToysaeError(f"there is no {kind} {path}") from error
    except OSError as error:
        raise ToysaeError(f"cannot read {path} ({error.strerror})") from error
    require(len(data) <= size, f"{path} grows while it is read")
    return data


def parse_json(data: bytes | str, where: str | Path, finite: bool = True) -> Any:
    """Reads a JSON text that can be read in only one way.

    Args:
        data: the text.
        where: its name in messages.
        finite: whether Python's NaN and Infinity are refused.

    Raises:
        ToysaeError: not JSON; a name twice in an object; NaN or an infinite number; nested too
            deep.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        numbers = {"parse_constant": _not_a_number, "parse_float": _finite} if finite else {}
        return json.loads(text, object_pairs_hook=_once, **numbers)
    except ToysaeError as error:
        raise ToysaeError(f"{where} {error}") from None
    except RecursionError:
        raise ToysaeError(f"{where} is nested too deep to be read") from None
    except ValueError as error:
        raise ToysaeError(f"{where} is not JSON ({error})") from None


def read_json(path: Path, kind: str = "file") -> Any:
    """Reads a JSON file with :func:`read_regular` and :func:`parse_json`."""
    return parse_json(read_regular(path, MOST_JSON, kind), path)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ToysaeError(f"has {shown(twice)} twice: which one is meant?")
    return fields


def _not_a_number(constant: str) -> None:
    raise ToysaeError(f"holds {constant}, which is not a number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ToysaeError(f"holds {shown(digits)}, which is too large for a number")
    return value


def as_python(value: Any) -> Any:
    """Converts scalars and 0-dimensional arrays of NumPy and jax to Python's numbers."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        with suppress(NotImplementedError):  # a random key
            return value.item()
    return value


def _within(name: str, value: float, low: float | None, high: float | None) -> None:
    good = (low is None or value >= low) and (high is None or value <= high)
    require(good, f"{name} {value:,} is out of range{_range(low, high)}" if not good else "")


def _range(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    if high is None:
        return f": write at least {low:,}"
    if low is None:
        return f": write at most {high:,}"
    return f": write {low:,} to {high:,}"
