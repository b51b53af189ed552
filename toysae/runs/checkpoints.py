"""Half-trained blocks on disk: the last two snapshots of each, to go on from after any stop.

checkpoints/<block>/part.json     which SAEs it trains, and for how many steps
checkpoints/<block>/<step>.npz    the state and the curves so far
"""

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np

from ..checked import Fields, parse_json
from ..errors import ToysaeError, require
from ..sae.arithmetic import DENSE, SPARSE
from ..training import Ensemble, Snapshot, start
from .directory import Directory
from .progress import say

KEPT = 2
CHECKPOINTS = "checkpoints"
_ABOUT = "part.json"
_WAYS = "ways"  # [stretches, 2]: the first step, and whether it is sparse
_POINTS = "points/"  # before the name of a curve; the state's names begin with a dot


@dataclass(frozen=True)
class Checkpoints:
    """The snapshots of one block.

    Attributes:
        directory: of the run.
        block: the block's name.
    """

    directory: Directory
    block: str

    def begin(self, keys: np.ndarray, n_steps: int) -> None:
        """Writes which SAEs are trained here: keys `[n_worlds, n_members]`, for `n_steps`."""
        about = {"keys": keys.tolist(), "n_steps": n_steps}
        self.directory.write({self._name(_ABOUT): json.dumps(about).encode()})

    def about(self) -> dict[str, Any] | None:
        """The `keys` and `n_steps` that :meth:`begin` wrote; None if damaged or missing."""
        name = self._name(_ABOUT)
        try:
            about = Fields(parse_json(self.directory.read(name), name), name)
            keys = np.array(about.items("keys"), str)
            require(keys.ndim == 2, f"{name} has no table of keys")
            return {"keys": keys, "n_steps": about.integer("n_steps", low=1)}
        except (ToysaeError, ValueError):
            return None

    def steps(self) -> list[int]:
        """The steps of the completely written snapshots, the last first."""
        stems = (PurePosixPath(name).stem for name in self.directory.names(self._folder))
        return sorted((int(stem) for stem in stems if stem.isdecimal()), reverse=True)

    def save(self, snapshot: Snapshot) -> None:
        """Writes a snapshot, and removes all but the last two.

        Raises:
            ToysaeError: the disk is full.
        """
        if snapshot.step in self.steps():
            return
        points = {f"{_POINTS}{name}": values for name, values in snapshot.points.items()}
        ways = np.array([(step, way == SPARSE) for step, way in snapshot.ways], np.int64)
        leaves = {**_leaves_by_path(snapshot.state), **points, _WAYS: ways}
        arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)

        name, n_bytes = self._snapshot(snapshot.step), sum(each.nbytes for each in arrays.values())
        self.directory.put({name: write}, {name: n_bytes})
        self._remove(self.steps()[KEPT:])

    def latest(self, ensemble: Ensemble) -> Snapshot | None:
        """The last undamaged snapshot of an ensemble; damaged ones are reported and removed."""
        for step in self.steps():
            try:
                return self._read(step, ensemble)
            except ToysaeError as error:
                say(f"checkpoint {self._snapshot(step)} is broken ({error}): going back before it")
                self._remove([step])
        return None

    def remove(self) -> None:
        """Removes all files of the block's training."""
        folder = f"{self._folder}/"
        self.directory.remove([n for n in self.directory.files if n.startswith(folder)])

    def _remove(self, steps: list[int]) -> None:
        if steps:
            self.directory.remove([self._snapshot(step) for step in steps])

    def _read(self, step: int, ensemble: Ensemble) -> Snapshot:
        data = self.directory.read(self._snapshot(step))
        try:
            with np.load(BytesIO(data), allow_pickle=False) as file:
                arrays = dict(file)
        except (ValueError, OSError, BadZipFile) as error:
            raise ToysaeError(f"it cannot be read: {error}") from error
        # Without the init: it changes no shape, and some compute outside of programs, where nothing
        # may be traced.
        shapes = jax.eval_shape(start, ensemble.once_started())
        names = [name for name in arrays if name.startswith(_POINTS)]
        points = {name.removeprefix(_POINTS): arrays.pop(name) for name in names}
        ways = _ways(arrays.pop(_WAYS, np.zeros((1, 2), np.int64)))
        wanted = _leaves_by_path(shapes)
        require(arrays.keys() == wanted.keys(), "it holds other arrays than this block has")
        for name, leaf in wanted.items():
            kind = (arrays[name].shape, arrays[name].dtype)
            require(kind == (leaf.shape, leaf.dtype), f"its {name} has another shape or dtype")
        state = jax.tree.unflatten(jax.tree.structure(shapes), [arrays[name] for name in wanted])
        return Snapshot(state, points, step, ways)

    @property
    def _folder(self) -> str:
        return f"{CHECKPOINTS}/{self.block}"

    def _name(self, file: str) -> str:
        return f"{self._folder}/{file}"

    def _snapshot(self, step: int) -> str:
        return self._name(f"{step}.npz")


def all_checkpoints(directory: Directory) -> list[Checkpoints]:
    """The checkpoints of every half-trained block, by name."""
    paths = (name.split("/") for name in directory.files if name.startswith(f"{CHECKPOINTS}/"))
    return [Checkpoints(directory, block) for block in sorted({path[1] for path in paths})]


def clear_away(directory: Directory, done: set[str]) -> list[np.ndarray]:
    """Removes the checkpoints that no run goes on from: of finished blocks, and without a snapshot.

    Returns:
        The keys `[n_worlds, n_members]` of each block that is left.
    """
    begun = []
    for each in all_checkpoints(directory):
        about = each.about()
        if about is None or not each.steps() or done.issuperset(about["keys"].reshape(-1).tolist()):
            each.remove()
        else:
            begun.append(about["keys"])
    return begun


def _leaves_by_path(state: Any) -> dict[str, Any]:
    """The leaves of a state by their place in it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _ways(table: np.ndarray) -> tuple[tuple[int, str], ...]:
    """The ways of a snapshot; those of older ones are dense."""
    fits = table.dtype == np.int64 and table.ndim == 2 and table.shape[1:] == (2,) and len(table)
    require(fits, "its table of ways has another shape or dtype")
    return tuple((step, SPARSE if is_sparse else DENSE) for step, is_sparse in table.tolist())
