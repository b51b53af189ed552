"""Half-trained parts on disk: the last two snapshots of each, to go on from after any stop.

checkpoints/<part>/part.json     which SAEs it trains, and for how many steps
checkpoints/<part>/<step>/       an orbax checkpoint of the state and the curves so far
checkpoints/<part>/<step>.json   written last: the checksum of every file in it
"""

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..disk import disk_is_full, file_sha256, free_bytes, telling_of_a_full_disk, write_bytes
from ..errors import ToysaeError
from ..training import Group, Snapshot, start
from .progress import say

KEPT = 2
_ABOUT = "part.json"


@dataclass(frozen=True)
class Checkpoints:
    """The snapshots of one part.

    Attributes:
        folder: theirs alone.
    """

    folder: Path

    def begin(self, keys: np.ndarray, n_steps: int) -> None:
        """Says what is trained here: keys `[n_worlds, n_members]` for `n_steps`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"keys": keys.tolist(), "n_steps": n_steps}
        write_bytes(self.folder / _ABOUT, json.dumps(about).encode())

    def about(self) -> dict[str, Any] | None:
        """What :meth:`begin` wrote, if it is there."""
        try:
            found = json.loads((self.folder / _ABOUT).read_bytes())
            return {"keys": np.array(found["keys"], str), "n_steps": int(found["n_steps"])}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def steps(self) -> list[int]:
        """Of the snapshots that were written to their end, the last first."""
        found = (file.stem for file in self.folder.glob("*.json"))
        return sorted((int(stem) for stem in found if stem.isdecimal()), reverse=True)

    def save(self, snapshot: Snapshot) -> None:
        """Writes a snapshot, and removes all but the last two.

        Raises:
            ToysaeError: the disk is full.
        """
        if snapshot.step in self.steps():
            return
        import orbax.checkpoint as ocp

        folder = self._step(snapshot.step)
        tree = _without_empty({"state": snapshot.state, "points": snapshot.points})
        need = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        if free_bytes(folder) < need:  # orbax would tell of it in many lines
            raise disk_is_full(folder, need)
        try:
            with telling_of_a_full_disk(folder, need), _quiet():
                _orbax().save(folder.absolute(), args=ocp.args.PyTreeSave(tree), force=True)
            about = {"points": sorted(snapshot.points), "files": _sums(folder)}
            write_bytes(self._manifest(snapshot.step), json.dumps(about).encode())
        except ToysaeError:
            self._cut_off(snapshot.step)
            raise
        for step in self.steps()[KEPT:]:
            self._drop(step)

    def latest(self, group: Group) -> Snapshot | None:
        """The last snapshot of a group that is whole; broken ones are named and removed."""
        for step in self.steps():
            try:
                return self._read(step, group)
            except Exception as error:  # orbax raises many kinds
                reason = " ".join(str(error).split())[:200]
                say(f"checkpoint {self._step(step)} is broken ({reason}): going back before it")
                self._drop(step)
        return None

    def remove(self) -> None:
        """All of it."""
        _remove(self.folder)

    def _read(self, step: int, group: Group) -> Snapshot:
        import orbax.checkpoint as ocp

        folder = self._step(step)
        about = json.loads(self._manifest(step).read_bytes())
        found = _sums(folder)
        for name in sorted({*found, *about["files"]}):
            if found.get(name) != about["files"].get(name):
                raise ToysaeError(f"{name} is not as it was written")
        # Read by shape into NumPy: which devices it was on then does not matter. Nor does the init,
        # and some compute outside of programs, where nothing may be traced.
        shapes = {
            "state": jax.eval_shape(start, group.once_started()),
            "points": {name: jax.ShapeDtypeStruct((1,), np.float32) for name in about["points"]},
        }
        kept = _without_empty(shapes)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), kept)
        with _quiet():
            tree = _orbax().restore(
                folder.absolute(), args=ocp.args.PyTreeRestore(kept, restore_args=as_numpy)
            )
        tree = jax.tree.map(
            lambda leaf, found: found if leaf.size else np.zeros(leaf.shape, leaf.dtype),
            shapes, tree,
        )  # fmt: skip
        return Snapshot(tree["state"], tree["points"], step)

    def _step(self, step: int) -> Path:
        return self.folder / str(step)

    def _manifest(self, step: int) -> Path:
        return self.folder / f"{step}.json"

    def _cut_off(self, step: int) -> None:
        """Removes what of a snapshot was written when that failed. Other threads of orbax may be
        writing still: it looks until nothing comes back."""
        for _ in range(40):
            own = [rest for rest in self.folder.iterdir() if rest.name.split(".")[0] == str(step)]
            if not own:
                return
            for rest in own:
                _remove(rest, ignore_errors=True)
            time.sleep(0.05)

    def _drop(self, step: int) -> None:
        self._manifest(step).unlink(missing_ok=True)
        _remove(self._step(step))


def all_checkpoints(folder: Path) -> list[Checkpoints]:
    """Those of every half-trained part."""
    return [Checkpoints(each) for each in sorted(folder.glob("*")) if each.is_dir()]


def clear_away(folder: Path, done: set[str]) -> list[np.ndarray]:
    """Removes what no run can go on from: finished parts, and snapshots that were cut off.

    Returns:
        The keys `[n_worlds, n_members]` of each part that is left.
    """
    begun = []
    for each in all_checkpoints(folder):
        about, steps = each.about(), each.steps()
        if about is None or not steps or done.issuperset(about["keys"].reshape(-1).tolist()):
            each.remove()
            continue
        kept = {_ABOUT, *(f"{step}{end}" for step in steps for end in ("", ".json"))}
        for rest in each.folder.iterdir():
            if rest.name not in kept:
                _remove(rest)
        begun.append(about["keys"])
    return begun


def _without_empty(tree: Any) -> Any:
    """None for each array without elements, which orbax refuses: the firings of no features."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, tree)


def _orbax() -> Any:
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's log: what goes wrong is raised, and told once."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _sums(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): file_sha256(file) for file in files}


def _remove(path: Path, ignore_errors: bool = False) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors)
    else:
        path.unlink(missing_ok=True)
