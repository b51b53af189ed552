"""Digests of settings and of arrays, by which what was computed is found again."""

import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import numpy as np

FORMAT = 4
"""Counted up by hand when the same settings come to give other numbers, or other columns."""


def add_arrays(found: Any, arrays: Iterable[np.ndarray]) -> None:
    """Adds arrays to what a digest is of: shapes, dtypes and bytes."""
    for array in arrays:
        found.update(repr((array.shape, array.dtype.str)).encode())
        found.update(array.tobytes())


def digest(*texts: str) -> str:
    """16 hex digits of some texts."""
    return sha256("\n".join(texts).encode()).hexdigest()[:16]


def canonical(value: dict[str, Any]) -> str:
    """The one JSON text of some settings, with 1 and 1.0 the same: grids and the command line give
    floats."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
