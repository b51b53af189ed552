"""Finished blocks on disk: each is whole, and says which SAEs it holds, or does not count.

blocks/<block>.csv            one row for each SAE: its scores
blocks/<block>.npz            arrays by row: MCS of every feature, curves, firings
blocks/<block>.safetensors    weights by row, if kept
blocks/<block>.json           keys of the rows, spec, numbers and data of their SAEs, provenance
broken/                       what was damaged, moved aside
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ..checked import Fields, parse_json
from ..digests import FORMAT
from ..errors import ToysaeError, require
from ..own_code import codes_of
from ..sae.files import as_json, classes_of
from .blocks import Block
from .directory import BROKEN, Directory

BLOCKS = "blocks"
TABLE, ARRAYS, WEIGHTS, MANIFEST = ".csv", ".npz", ".safetensors", ".json"


@dataclass(frozen=True)
class Stored:
    """A finished block.

    Attributes:
        directory: of the run.
        name: of the block.
        keys: of its rows.
        has_weights: whether they were kept.
    """

    directory: Directory
    name: str
    keys: tuple[str, ...]
    has_weights: bool

    @property
    def files(self) -> list[str]:
        """Their names in the directory."""
        endings = [TABLE, ARRAYS, *[WEIGHTS] * self.has_weights, MANIFEST]
        return [_file(self.name, ending) for ending in endings]

    def table(self) -> pd.DataFrame:
        """One row for each key."""
        return pd.read_csv(BytesIO(self._read(TABLE)))

    def arrays(self) -> dict[str, np.ndarray]:
        """By row, all but `curve_steps`."""
        with np.load(BytesIO(self._read(ARRAYS))) as file:
            return dict(file)

    def weights(self) -> dict[str, np.ndarray]:
        """By row."""
        return load_tensors(self._read(WEIGHTS))

    def manifest(self) -> Fields:
        """What is said of the SAEs, see :func:`manifest_of`."""
        name = _file(self.name, MANIFEST)
        return Fields(parse_json(self.directory.read(name), name), self.directory.path / name)

    def damage(self) -> str:
        """What is wrong with its files; "" if they are as written."""
        wrong = ((name, self.directory.wrong(name)) for name in self.files)
        return next((f"{PurePosixPath(name).name} {what}" for name, what in wrong if what), "")

    def _read(self, ending: str) -> bytes:
        return self.directory.read(_file(self.name, ending))


StoredPlaces = Mapping[str, tuple[Stored, int]]
"""Of each SAE by its key: the block that holds it, and its row there."""


def manifest_of(block: Block) -> dict[str, Any]:
    """What a block's manifest says of its SAEs, so that each can be made again: their spec, and
    where the user wrote code of it, a digest of that; their data; and by row, the numbers, the
    place of the world in the data and the seed of the SAE."""
    cell, members = block.cell, list(block.members)
    hypers, sae_seeds = cell.hypers
    n_worlds = len(block.worlds)
    by_row = {name: np.tile(values[members], n_worlds).tolist() for name, values in hypers.items()}
    return {
        "spec": as_json(cell.spec, "spec"),
        "code": codes_of(classes_of(cell.spec)),
        "hypers": by_row,
        "data": cell.data.manifest(),
        "worlds": np.repeat(block.worlds, len(members)).tolist(),
        "sae_seeds": np.tile(sae_seeds[members], n_worlds).tolist(),
        "n_steps": cell.n_steps,
        "batch_size": cell.batch_size,
        "measure": {"name": type(cell.measure).__name__, **cell.measure.identity()},
    }


def save_block(
    directory: Directory,
    name: str,
    keys: Iterable[str],
    table: pd.DataFrame,
    arrays: dict[str, np.ndarray],
    weights: dict[str, np.ndarray] | None,
    about: Mapping[str, Any],
) -> None:
    """Writes a finished block, the whole of it or nothing.

    Args:
        directory: of the run.
        name: of the block.
        keys: of the rows.
        table: one row for each.
        arrays: by row, all but `curve_steps`.
        weights: by row, or None if they are not kept.
        about: what else its manifest says, as JSON holds it.

    Raises:
        ToysaeError: the disk is full.
    """
    held = BytesIO()
    np.savez(held, allow_pickle=False, **arrays)
    files = {ARRAYS: held.getvalue(), TABLE: table.to_csv(index=False).encode()}
    if weights is not None:
        files[WEIGHTS] = save_tensors(weights)
    manifest = {"format": FORMAT, "keys": list(keys), **about}
    files[MANIFEST] = json.dumps(manifest, indent=1).encode()
    try:
        directory.write({_file(name, ending): data for ending, data in files.items()})
    except ToysaeError:
        directory.remove([n for n in (_file(name, e) for e in files) if n in directory.files])
        raise


def files_of(block: str) -> list[str]:
    """The names that a block's files have, if all are kept."""
    return [_file(block, ending) for ending in (TABLE, ARRAYS, WEIGHTS, MANIFEST)]


def stored_blocks(directory: Directory, broken: Collection[str] = ()) -> list[Stored]:
    """Every finished block, by name.

    Args:
        directory: of the run.
        broken: names of blocks that are left out, see :func:`broken_blocks`.

    Raises:
        ToysaeError: a manifest is not as it was written.
    """
    names = directory.names(BLOCKS)
    found = []
    for file in names:
        if file.endswith(MANIFEST) and PurePosixPath(file).stem not in broken:
            block = _stored(directory, file)
            if set(block.files) <= set(names):
                found.append(block)
    return found


def find(blocks: Iterable[Stored]) -> StoredPlaces:
    """Where each SAE is: its block and row. Of two, the one with weights."""
    places: dict[str, tuple[Stored, int]] = {}
    for block in sorted(blocks, key=lambda block: block.has_weights):
        places.update({key: (block, row) for row, key in enumerate(block.keys)})
    return places


def finished_keys(places: StoredPlaces, with_weights: bool) -> set[str]:
    """The keys of what is there, and has its weights if it must."""
    return {key for key, (block, _) in places.items() if block.has_weights or not with_weights}


def broken_blocks(directory: Directory) -> dict[str, tuple[str, list[str]]]:
    """By name, what is no whole block: what is wrong with it, and its files."""
    together: dict[str, list[str]] = {}
    for name in directory.files:
        if str(PurePosixPath(name).parent) == BLOCKS:
            together.setdefault(PurePosixPath(name).stem, []).append(name)
    found = {}
    for block, names in together.items():
        try:
            wrong = _stored(directory, _file(block, MANIFEST)).damage()
        except ToysaeError:
            manifest = _file(block, MANIFEST)
            wrong = f"{block}{MANIFEST} {directory.wrong(manifest) or 'is not a manifest'}"
        if wrong:
            found[block] = (wrong, names)
    return found


def set_broken_aside(directory: Directory) -> Iterator[str]:
    """Moves what is no whole block aside, and says of each what was wrong with it. What a run did
    not come to write to its end is removed."""
    for block, (wrong, names) in broken_blocks(directory).items():
        moved = directory.set_aside(names)
        if moved:
            path = directory.path
            yield f"{path / BLOCKS / block} is broken ({wrong}): moved to {path / BROKEN}"


def manifest_name(block: str) -> str:
    """The name of a block's manifest, the last of its files to be there."""
    return _file(block, MANIFEST)


def _file(block: str, ending: str) -> str:
    return f"{BLOCKS}/{block}{ending}"


def _stored(directory: Directory, manifest: str) -> Stored:
    held = Fields(parse_json(directory.read(manifest), manifest), manifest)
    block = PurePosixPath(manifest).stem
    keys = held.items("keys")
    require(all(isinstance(key, str) for key in keys), f"{manifest} has no list of keys")
    return Stored(directory, block, tuple(keys), _file(block, WEIGHTS) in directory.files)
