"""The disk space that a run will take, counted from shapes before anything trains."""

from collections.abc import Collection
from pathlib import Path

from ..disk import free_bytes, size
from ..errors import require
from ..recovery.mcs import EDGES
from ..runs.checkpoints import KEPT
from ..training.memory import bytes_of, state_shapes
from .parts import Part

_ROW = 2_000  # of an SAE in its part's table and in the whole one
_FEATURE = 24  # of an SAE's arrays, for each feature
_FILES = 2**14  # what a file system adds to the few files of a part
_CHECKPOINT = 2**14  # and to a checkpoint
_POINT = 4 * (len(EDGES) + 12)  # of an SAE's curves, for each of their points


def check_space(path: Path, parts: Collection[Part], n_points: int, save_params: bool) -> None:
    """Refuses a run whose files will not fit where they go.

    Args:
        path: the results directory.
        parts: what will be trained.
        n_points: of the learning curves.
        save_params: whether weights are kept.

    Raises:
        ToysaeError: with the estimate, what is free, and what to write instead.
    """
    weights, arrays, checkpoints = _bytes(parts, n_points, save_params)
    need, free = weights + arrays + checkpoints, free_bytes(path)
    without = " or --no-save-params" if save_params else ""
    require(
        need <= free,
        f"{path} will take about {size(need)} more (weights {size(weights)}, scores and curves "
        f"{size(arrays)}, checkpoints {size(checkpoints)}) and {size(free)} are free: make "
        f"room, or choose another --out{without}",
    )


def disk_bytes(parts: Collection[Part], n_points: int, save_params: bool) -> int:
    """About what the files of parts take at most at once."""
    return sum(_bytes(parts, n_points, save_params))


def _bytes(parts: Collection[Part], n_points: int, save_params: bool) -> tuple[int, int, int]:
    """Of weights, of scores and curves, and of checkpoints."""
    weights = arrays = checkpoint = 0
    for part in parts:
        group = part.group()
        state, n_rows = state_shapes(group), group.n_rows
        row = _ROW + _FEATURE * group.worlds.n_features + 4 * group.spec.d_sae + _POINT * n_points
        arrays += n_rows * row + _FILES
        weights += bytes_of((state.members.params, state.members.run)) * save_params
        curves = _POINT * n_points * n_rows
        checkpoint = max(checkpoint, bytes_of(state) + curves + _CHECKPOINT)
    return weights, arrays, checkpoint * (KEPT + 1)  # one more while it is written
