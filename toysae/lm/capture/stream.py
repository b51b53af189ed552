"""Activations in a shuffled order: each of them once an epoch, at bounded memory.

Sequences are shuffled over the whole epoch, then read some thousands at a time into a buffer whose
rows are shuffled. Both orders depend only on the seed and the epoch, so the stream can start at any
place, and shards or a model run anew give the same order (and the same bits, if the site was
captured alone in batches of the same size).
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from ...errors import require

BUFFER_ROWS = 262_144
HELD_OUT = 65_536
_MOST_HELD_OUT = 0.1  # of all rows


@runtime_checkable
class Source(Protocol):
    """Activations by sequence: :class:`toysae.lm.capture.shards.Shards`, or a model that is run."""

    @property
    def d(self) -> int: ...

    @property
    def dtype(self) -> Any: ...

    @property
    def counts(self) -> Int[np.ndarray, " n_seq"]: ...

    def read(self, sequences: Int[np.ndarray, " n"], /) -> Float[np.ndarray, "rows d"]: ...


def split_off(
    counts: Int[np.ndarray, " n_seq"], n_held_out: int = HELD_OUT
) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Splits sequences into (those to train on, those held out), whatever the training's seeds.

    Args:
        counts: rows of each sequence.
        n_held_out: rows to hold out, at most a tenth of all; at least one sequence.

    Raises:
        ToysaeError: fewer than two sequences.
    """
    require(
        len(counts) >= 2,
        f"{len(counts)} sequences cannot be split into some to train on and some to test: capture "
        "more tokens",
    )
    order = np.random.default_rng(0x5EED).permutation(len(counts))
    n_rows = min(n_held_out, _MOST_HELD_OUT * counts.sum())
    n = int(np.searchsorted(np.cumsum(counts[order]), n_rows)) + 1
    n = min(n, len(counts) - 1)
    return np.sort(order[n:]), np.sort(order[:n])


def spread_sequences(
    counts: Int[np.ndarray, " n_seq"], n_rows: int | None
) -> Int[np.ndarray, " n"]:
    """Sequences with about `n_rows` activations, evenly over the text; all if None."""
    share = 1.0 if n_rows is None else min(1.0, n_rows / counts.sum())
    n = max(1, round(share * len(counts)))
    return np.unique(np.linspace(0, len(counts) - 1, n).round().astype(int))


class Stream:
    """An endless stream of rows, epoch after epoch.

    Args:
        source: of the activations.
        sequences: which to read.
        seed: of the order.
        buffer_rows: about how many rows are held in memory and shuffled at a time.
    """

    def __init__(
        self,
        source: Source,
        sequences: Int[np.ndarray, " n"],
        seed: int,
        buffer_rows: int = BUFFER_ROWS,
    ):
        counts = source.counts[sequences]
        require(counts.sum() > 0, "there are no activations to train on: capture more tokens")
        require(buffer_rows >= 1, f"buffer_rows {buffer_rows} must be at least 1")
        self._source, self._sequences, self._seed = source, sequences, seed
        self._counts = counts
        self.n_rows = int(counts.sum())
        self._per_buffer = max(1, int(buffer_rows * len(counts) / self.n_rows))
        self._epoch = (-1, np.empty(0, int), np.empty(0, int))
        self._buffer = (-1, -1, np.empty((0, source.d)), np.empty(0, int))
        self.row_bytes = source.d * np.dtype(source.dtype).itemsize

    def rows(self, start: int, n: int) -> Float[np.ndarray, "n d"]:
        """Returns rows `start` to `start + n - 1` of the stream."""
        out = np.empty((n, self._source.d), self._source.dtype)
        at = 0
        while at < n:
            epoch, place = divmod(start + at, self.n_rows)
            edges = self._order(epoch)[1]
            b = int(np.searchsorted(edges, place, "right")) - 1
            offset = place - edges[b]
            buffer, shuffle = self._read(epoch, b)
            some = shuffle[offset : offset + n - at]
            out[at : at + len(some)] = buffer[some]
            del buffer  # otherwise the next one would be a second in memory
            at += len(some)
        return out

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's order of sequences, and the row at which each of its buffers begins."""
        if self._epoch[0] != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._counts))
            rows = np.concatenate([[0], np.cumsum(self._counts[order])])
            cuts = np.append(np.arange(0, len(order), self._per_buffer), len(order))
            self._epoch = (epoch, order, rows[cuts])
        return self._epoch[1:]

    def _read(self, epoch: int, b: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a buffer as they were read, and the order in which to return them."""
        if self._buffer[:2] != (epoch, b):
            order, _ = self._order(epoch)
            some = order[b * self._per_buffer : (b + 1) * self._per_buffer]
            self._buffer = (-1, -1, np.empty(0), np.empty(0, int))  # two would not fit the bound
            rows = self._source.read(self._sequences[some])
            shuffle = np.random.default_rng([self._seed, epoch, b]).permutation(len(rows))
            self._buffer = (epoch, b, rows, shuffle)
        return self._buffer[2:]
