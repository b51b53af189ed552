"""Digests of settings and of arrays, by which results are found again."""

import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import numpy as np

FORMAT = 5
"""The version of all results: counted up when the same settings give other numbers or columns."""


def add_arrays(content: Any, arrays: Iterable[np.ndarray]) -> None:
    """Adds the shapes, dtypes and bytes of arrays to a hash of hashlib."""
    for array in arrays:
        content.update(repr((array.shape, array.dtype.str)).encode())
        content.update(array.tobytes())


def digest(*texts: str) -> str:
    """A digest of some texts: 16 hex digits."""
    return sha256("\n".join(texts).encode()).hexdigest()[:16]


def canonical(value: dict[str, Any]) -> str:
    """The one JSON text of some settings. 1 and 1.0 are the same in it, as grids and the command
    line give floats."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
