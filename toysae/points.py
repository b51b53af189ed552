"""The points of a sweep as values that are multiplied, added, spaced and drawn.

>>> zipped(l0=(2, 4), k=(2, 4)) * grid(lr=(1e-3, 3e-3)) + grid(l0=8, k=8, lr=1e-3)
5 points of l0, k, lr

Order: a sum keeps that of its terms; in a product, and in a grid, the last factor varies fastest.
"""

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax
import numpy as np

from . import checked
from .checked import shown
from .door import guard
from .errors import require

_MOST = 100_000  # values of a dimension

Value = float | str
"""What a point sets: a number or a name."""

Values = Value | Sequence[Value] | np.ndarray | jax.Array
"""One value, or those of a dimension."""


@dataclass(frozen=True)
class Points:
    """Points of a sweep; each is what it sets, by name. Iterating gives a dict for each.

    Attributes:
        rows: (name, value) pairs of each point. One point that sets nothing, if not given.
    """

    rows: tuple[tuple[tuple[str, Value], ...], ...] = ((),)

    def __post_init__(self) -> None:
        require(self.rows, "no points: give at least one")
        for name, value in itertools.chain.from_iterable(self.rows):
            require(
                isinstance(value, int | float | str),
                f"{name} {checked.shown(value)} is neither a number nor a name: give one",
            )

    @classmethod
    def of(cls, points: Iterable[Mapping[str, Any]]) -> "Points":
        """From a mapping for each point."""
        return cls(
            tuple(tuple((n, checked.as_python(v)) for n, v in point.items()) for point in points)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that some point sets, in the order of first appearance."""
        return tuple(dict.fromkeys(name for row in self.rows for name, _ in row))

    def __iter__(self) -> Iterator[dict[str, Value]]:
        return (dict(row) for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        plural = "" if len(self) == 1 else "s"
        return f"{len(self)} point{plural} of {', '.join(self.names) or 'nothing'}"

    def __mul__(self, other: "Points") -> "Points":
        """Every pair of points, those of `other` varying fastest.

        Raises:
            ToysaeError: a name on both sides, or a side that is not points.
        """
        _check_points(other)
        both = [name for name in self.names if name in other.names]
        require(not both, f"{', '.join(both)} on both sides of a product: write a sum, or one of "
                "the two")  # fmt: skip
        return Points(tuple(a + b for a in self.rows for b in other.rows))

    def __add__(self, other: "Points") -> "Points":
        """The points of both, in order. They may set different names.

        Raises:
            ToysaeError: a side that is not points.
        """
        _check_points(other)
        return Points(self.rows + other.rows)


def _check_points(other: object) -> None:
    good = isinstance(other, Points)
    require(good, f"{shown(other)} is not points: make some with grid(), zipped() or random()")


def grid(**dimensions: Values) -> Points:
    """Every combination of the values given; one value, or several, by name.

    Raises:
        ToysaeError: a dimension without a value.
    """
    points = Points()
    for name, values in dimensions.items():
        points = points * zipped(**{name: values})
    return points


def zipped(**dimensions: Values) -> Points:
    """The first values together, then the second ones, and so on.

    Raises:
        ToysaeError: dimensions of different lengths, or without a value.
    """
    columns = {name: _listed(name, values) for name, values in dimensions.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    said = ", ".join(f"{name} {n}" for name, n in lengths.items())
    require(len(set(lengths.values())) <= 1, f"zipped dimensions differ in length: {said}")
    rows = zip(*columns.values(), strict=True)
    if not dimensions:
        return Points()
    return Points.of(dict(zip(columns, row, strict=True)) for row in rows)


def chain(*points: Points) -> Points:
    """The points of all, in order."""
    return Points(tuple(row for each in points for row in each.rows))


def linear(low: float, high: float, n: int) -> tuple[float, ...]:
    """`n` values from `low` to `high` at equal distances."""
    require(n >= 1, f"n {n} must be at least 1")
    return tuple(np.linspace(low, high, n).tolist())


def log_spaced(low: float, high: float, n: int) -> tuple[float, ...]:
    """`n` values from `low` to `high` at equal ratios.

    Raises:
        ToysaeError: an end that is not positive.
    """
    require(n >= 1, f"n {n} must be at least 1")
    require(low > 0 and high > 0, f"log_spaced({low:g}, {high:g}): both ends must be above 0")
    return tuple(np.geomspace(low, high, n).tolist())


@dataclass(frozen=True)
class Range:
    """Of one dimension of :func:`random`: from the quantile in [0, 1) to the value."""

    at: Callable[[float], Value]


def uniform(low: float, high: float) -> Range:
    """Uniform in [low, high).

    Raises:
        ToysaeError: ends in the wrong order.
    """
    require(low <= high, f"uniform({low:g}, {high:g}): the first end must be the smaller one")
    return Range(lambda u: low + u * (high - low))


def log_uniform(low: float, high: float) -> Range:
    """Its logarithm uniform in [log low, log high).

    Raises:
        ToysaeError: an end that is not positive, or ends in the wrong order.
    """
    require(low > 0 and high > 0, f"log_uniform({low:g}, {high:g}): both ends must be above 0")
    require(low <= high, f"log_uniform({low:g}, {high:g}): the first end must be the smaller one")
    return Range(lambda u: low * (high / low) ** u)


def random(n: int, seed: int, **ranges: Range | Values) -> Points:
    """`n` random points, the first of which are those of a smaller `n`.

    Args:
        n: how many.
        seed: of the draws. Each dimension has a stream of its own: adding one leaves the others.
        **ranges: :func:`uniform`, :func:`log_uniform`, or a tuple to choose from.

    Raises:
        ToysaeError: no point, no dimension, or one without a value.
    """
    require(n >= 1, f"n {n} must be at least 1")
    seed = checked.seed("seed", seed)
    require(ranges, "random points of nothing: give a range, e.g. lr=log_uniform(1e-4, 1e-2)")
    columns = {}
    for name, given in ranges.items():
        at = given.at if isinstance(given, Range) else _choice(_listed(name, given))
        draws = np.random.default_rng([seed, zlib.crc32(name.encode())]).random(n)
        columns[name] = [at(float(u)) for u in draws]
    return zipped(**columns)


def _choice(values: list[Any]) -> Callable[[float], Value]:
    return lambda u: values[int(u * len(values))]


def _listed(name: str, values: Any) -> list[Any]:
    shape = getattr(values, "shape", ())
    require(len(shape) < 2, f"{name} has shape {list(shape)}: give a list of values")
    one = isinstance(values, str | bytes) or not isinstance(values, Iterable)
    one = one or (hasattr(values, "shape") and shape == ())
    listed = [checked.as_python(v) for v in islice([values] if one else values, _MOST + 1)]
    require(len(listed) <= _MOST, f"{name} has more than {_MOST:,} values")
    require(len(listed) > 0, f"{name} is an empty grid: give at least one value")
    return listed


__all__ = ["Points", "Range", "chain", "grid", "linear", "log_spaced", "log_uniform", "random",
           "uniform", "zipped"]  # fmt: skip

guard(globals())
