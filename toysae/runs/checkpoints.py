"""Half-trained parts on disk: the last two snapshots of each, to go on from after any stop.

checkpoints/<part>/part.json     which SAEs it trains, and for how many steps
checkpoints/<part>/<step>.npz    the state and the curves so far
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
from ..training import Ensemble, Snapshot, start
from .directory import Directory
from .progress import say

KEPT = 2
CHECKPOINTS = "checkpoints"
_ABOUT = "part.json"
_POINTS = "points/"  # before the name of a curve; the state's names begin with a dot


@dataclass(frozen=True)
class Checkpoints:
    """The snapshots of one part.

    Attributes:
        directory: of the run.
        part: its name.
    """

    directory: Directory
    part: str

    def begin(self, keys: np.ndarray, n_steps: int) -> None:
        """Says what is trained here: keys `[n_worlds, n_members]` for `n_steps`."""
        about = {"keys": keys.tolist(), "n_steps": n_steps}
        self.directory.write({self._name(_ABOUT): json.dumps(about).encode()})

    def about(self) -> dict[str, Any] | None:
        """What :meth:`begin` wrote, if it is there and whole."""
        name = self._name(_ABOUT)
        try:
            found = Fields(parse_json(self.directory.read(name), name), name)
            keys = np.array(found.items("keys"), str)
            require(keys.ndim == 2, f"{name} has no table of keys")
            return {"keys": keys, "n_steps": found.integer("n_steps", low=1)}
        except (ToysaeError, ValueError):
            return None

    def steps(self) -> list[int]:
        """Of the snapshots that were written to their end, the last first."""
        found = (PurePosixPath(name).stem for name in self.directory.names(self._folder))
        return sorted((int(stem) for stem in found if stem.isdecimal()), reverse=True)

    def save(self, snapshot: Snapshot) -> None:
        """Writes a snapshot, and removes all but the last two.

        Raises:
            ToysaeError: the disk is full.
        """
        if snapshot.step in self.steps():
            return
        points = {f"{_POINTS}{name}": values for name, values in snapshot.points.items()}
        arrays = {n: np.asarray(leaf) for n, leaf in {**_named(snapshot.state), **points}.items()}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)

        name, n_bytes = self._snapshot(snapshot.step), sum(each.nbytes for each in arrays.values())
        self.directory.put({name: write}, {name: n_bytes})
        self._remove(self.steps()[KEPT:])

    def latest(self, ensemble: Ensemble) -> Snapshot | None:
        """The last snapshot of an ensemble that is whole; broken ones are named and left behind."""
        for step in self.steps():
            try:
                return self._read(step, ensemble)
            except ToysaeError as error:
                say(f"checkpoint {self._snapshot(step)} is broken ({error}): going back before it")
                self._remove([step])
        return None

    def remove(self) -> None:
        """All of it."""
        folder = PurePosixPath(self._folder)
        self.directory.remove(
            [name for name in self.directory.files if PurePosixPath(name).parent == folder]
        )

    def _remove(self, steps: list[int]) -> None:
        if steps:
            self.directory.remove([self._snapshot(step) for step in steps])

    def _read(self, step: int, ensemble: Ensemble) -> Snapshot:
        data = self.directory.read(self._snapshot(step))
        try:
            with np.load(BytesIO(data), allow_pickle=False) as file:
                held = dict(file)
        except (ValueError, OSError, BadZipFile) as error:
            raise ToysaeError(f"it cannot be read: {error}") from error
        # The init changes no shape, and some compute outside of programs, where nothing may be
        # traced.
        shapes = jax.eval_shape(start, ensemble.once_started())
        points = {n.removeprefix(_POINTS): held.pop(n) for n in [*held] if n.startswith(_POINTS)}
        wanted = _named(shapes)
        require(held.keys() == wanted.keys(), "it holds other arrays than this part has")
        for name, leaf in wanted.items():
            kind = (held[name].shape, held[name].dtype)
            require(kind == (leaf.shape, leaf.dtype), f"its {name} is of another shape or kind")
        state = jax.tree.unflatten(jax.tree.structure(shapes), [held[name] for name in wanted])
        return Snapshot(state, points, step)

    @property
    def _folder(self) -> str:
        return f"{CHECKPOINTS}/{self.part}"

    def _name(self, file: str) -> str:
        return f"{self._folder}/{file}"

    def _snapshot(self, step: int) -> str:
        return self._name(f"{step}.npz")


def all_checkpoints(directory: Directory) -> list[Checkpoints]:
    """Those of every half-trained part."""
    paths = [PurePosixPath(name) for name in directory.files]
    parts = {path.parent.name for path in paths if str(path.parent.parent) == CHECKPOINTS}
    return [Checkpoints(directory, part) for part in sorted(parts)]


def clear_away(directory: Directory, done: set[str]) -> list[np.ndarray]:
    """Removes what no run can go on from: finished blocks, and those without a snapshot.

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


def _named(state: Any) -> dict[str, Any]:
    """The leaves by their place in the state."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
