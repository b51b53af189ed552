"""Checks that a GGUF file holds what its header says, before anything is read from it.

The `gguf` library reads arrays entry by entry, so that it never finishes with a length of 10^12 in
a file of 100 bytes. Layout: github.com/ggml-org/ggml, docs/gguf.md.
"""

from pathlib import Path

import numpy as np

from ...checked import integer
from ...errors import require

_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each type of value; 8 is a string, 9 an array."""
_STRING, _ARRAY = 8, 9
_MOST_AXES = 4


class _Cursor:
    """A position in the file's header, which refuses to go beyond the end of the file."""

    def __init__(self, path: Path):
        self.path, self.data, self.at = path, np.memmap(path, np.uint8, "r"), 0

    def skip(self, n: int) -> int:
        """Goes on by n bytes and returns the position before."""
        before, left = self.at, len(self.data) - self.at
        require(n <= left, f"{self.path} is truncated or damaged: its header tells of {n:,} bytes "
                f"where {left:,} are left")  # fmt: skip
        self.at += n
        return before

    def number(self, n_bytes: int) -> int:
        """Reads an unsigned little-endian number."""
        at = self.skip(n_bytes)
        return int.from_bytes(self.data[at : at + n_bytes].tobytes(), "little")

    def value(self, kind: int) -> None:
        """Passes over a value of a type."""
        if kind == _STRING:
            self.skip(self.number(8))
        elif kind == _ARRAY:
            each, length = self.number(4), self.number(8)
            require(each == _STRING or each in _BYTES,
                    f"{self.path} is damaged: an array of type {each}")  # fmt: skip
            if each != _STRING:
                self.skip(length * _BYTES[each])
                return
            require(8 * length <= len(self.data) - self.at,
                    f"{self.path} is truncated or damaged: {length:,} texts")  # fmt: skip
            for _ in range(length):
                self.skip(self.number(8))
        else:
            require(kind in _BYTES, f"{self.path} is damaged: a value of type {kind}")
            self.skip(_BYTES[kind])


def check_gguf(path: Path) -> None:
    """Walks through the header of a GGUF file of version 2 or 3.

    Raises:
        ToysaeError: another kind of file, or one whose header announces more than it holds.
    """
    require(path.is_file() and path.stat().st_size >= 24, f"{path} is not a GGUF file")
    cursor = _Cursor(path)
    magic, version = bytes(cursor.data[:4]), int.from_bytes(cursor.data[4:8].tobytes(), "little")
    require(magic == b"GGUF" and version in (2, 3),
            f"{path} is not a GGUF file of version 2 or 3")  # fmt: skip
    cursor.skip(8)
    n_tensors, n_fields = cursor.number(8), cursor.number(8)
    for _ in range(integer(f"{path}: number of fields", n_fields, 0, len(cursor.data))):
        cursor.value(_STRING)
        cursor.value(cursor.number(4))
    for _ in range(integer(f"{path}: number of tensors", n_tensors, 0, len(cursor.data))):
        cursor.value(_STRING)
        n_axes = integer(f"{path}: axes of a tensor", cursor.number(4), 0, _MOST_AXES)
        n_values = 1
        for _ in range(n_axes):
            n_values *= cursor.number(8)
        # No quantisation has fewer than a bit for each value.
        require(n_values <= 8 * len(cursor.data), f"{path} is damaged: a tensor of {n_values:,} "
                f"values in a file of {len(cursor.data):,} bytes")  # fmt: skip
        cursor.skip(4 + 8)
