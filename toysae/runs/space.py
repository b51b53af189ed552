"""The disk space that a run will take, estimated from shapes before anything trains."""

from collections.abc import Collection
from pathlib import Path

from ..disk import free_bytes, size
from ..errors import require
from ..training.memory import bytes_of, state_shapes
from .blocks import Block
from .checkpoints import KEPT

_FILES = 2**14  # bytes that a file system adds to the few files of a block
_CHECKPOINT = 2**14  # and to a checkpoint


def check_space(path: Path, blocks: Collection[Block], keep_weights: bool) -> None:
    """Refuses a run whose files will not fit on the disk.

    Args:
        path: the results directory.
        blocks: that will be trained.
        keep_weights: whether weights are kept.

    Raises:
        ToysaeError: with the estimate, the free space, and what to write instead.
    """
    weights, arrays, checkpoints = _bytes(blocks, keep_weights)
    need, free = weights + arrays + checkpoints, free_bytes(path)
    without = " or --no-save-params" if keep_weights else ""
    require(
        need <= free,
        f"{path} will take about {size(need)} more (weights {size(weights)}, scores and curves "
        f"{size(arrays)}, checkpoints {size(checkpoints)}) and {size(free)} are free: make "
        f"room, or choose another --out{without}",
    )


def disk_bytes(blocks: Collection[Block], keep_weights: bool) -> int:
    """About the most bytes that the files of blocks take at once."""
    return sum(_bytes(blocks, keep_weights))


def _bytes(blocks: Collection[Block], keep_weights: bool) -> tuple[int, int, int]:
    """The bytes of weights, of scores and curves, and of checkpoints."""
    weights = arrays = checkpoint = 0
    for block in blocks:
        ensemble, measure = block.ensemble(), block.cell.measure
        state, n_rows = state_shapes(ensemble), ensemble.n_rows
        arrays += n_rows * measure.row_bytes(ensemble) + _FILES
        weights += bytes_of((state.members.params, state.members.run)) * keep_weights
        curves = measure.curve_bytes() * n_rows
        checkpoint = max(checkpoint, bytes_of(state) + curves + _CHECKPOINT)
    return weights, arrays, checkpoint * (KEPT + 1)  # one more while it is written
