"""Finished blocks on disk: each is complete and names the SAEs it holds, or it does not count.

blocks/<block>.csv            one row for each SAE: its scores
blocks/<block>.npz            arrays by row: MCS of every feature, curves, firings
blocks/<block>.safetensors    weights by row, if kept
blocks/<block>.json           keys of the rows, spec, numbers and data of their SAEs, provenance
broken/                       damaged files, moved aside
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ..checked import Fields, parse_json
from ..digests import FORMAT
from ..errors import ToysaeError, require
from ..lazy import pd
from ..own_code import codes_of
from ..sae.files import as_json, classes_of
from .blocks import Block
from .directory import Directory

BLOCKS = "blocks"
TABLE, ARRAYS, WEIGHTS, MANIFEST = ".csv", ".npz", ".safetensors", ".json"


@dataclass(frozen=True)
class Stored:
    """A finished block.

    Attributes:
        directory: of the run.
        name: of the block.
        keys: of its rows.
        has_weights: whether the weights were kept.
    """

    directory: Directory
    name: str
    keys: tuple[str, ...]
    has_weights: bool

    @property
    def files(self) -> list[str]:
        """The names of its files in the directory."""
        return files_of(self.name, self.has_weights)

    def table(self) -> bytes:
        """The text of its table, CSV with one row for each key."""
        return self._read(TABLE)

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays, all but `curve_steps` with a leading row axis."""
        with np.load(BytesIO(self._read(ARRAYS))) as file:
            return dict(file)

    def weights(self) -> dict[str, np.ndarray]:
        """Its weights, with a leading row axis."""
        return load_tensors(self._read(WEIGHTS))

    def manifest(self) -> Fields:
        """Its manifest, see :func:`manifest_of`."""
        name = _file(self.name, MANIFEST)
        return Fields(parse_json(self.directory.read(name), name), self.directory.path / name)

    def damage(self) -> str:
        """What is wrong with its files; "" if they are as they were written."""
        for name in self.files:
            if problem := self.directory.wrong(name):
                return f"{PurePosixPath(name).name} {problem}"
        return ""

    def _read(self, ending: str) -> bytes:
        return self.directory.read(_file(self.name, ending))


Place = tuple[Stored, int]
"""The block that holds an SAE, and its row there."""

StoredPlaces = Mapping[str, Place]
"""The place of each SAE by its key."""


def manifest_of(block: Block) -> dict[str, Any]:
    """The part of a block's manifest from which each of its SAEs can be made again: the spec, with
    a digest of the user's own code in it; the data; and by row, the numbers, the place of the
    world in the data and the seed of the SAE."""
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
    """Writes a finished block, all of it or nothing.

    Args:
        directory: of the run.
        name: of the block.
        keys: of the rows.
        table: one row for each key.
        arrays: by row, all but `curve_steps`.
        weights: by row, or None if they are not kept.
        about: the rest of its manifest, as JSON holds it.

    Raises:
        ToysaeError: the disk is full.
    """
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    files = {ARRAYS: buffer.getvalue(), TABLE: table.to_csv(index=False).encode()}
    if weights is not None:
        files[WEIGHTS] = save_tensors(weights)
    manifest = {"format": FORMAT, "keys": list(keys), **about}
    files[MANIFEST] = json.dumps(manifest, indent=1).encode()
    try:
        directory.write({_file(name, ending): data for ending, data in files.items()})
    except ToysaeError:
        directory.remove([n for n in (_file(name, e) for e in files) if n in directory.files])
        raise


def files_of(block: str, with_weights: bool = True) -> list[str]:
    """The names of a block's files."""
    endings = (TABLE, ARRAYS, *[WEIGHTS] * with_weights, MANIFEST)
    return [_file(block, ending) for ending in endings]


def stored_blocks(directory: Directory) -> list[Stored]:
    """Every finished block, by name.

    Raises:
        ToysaeError: a manifest is not as it was written.
    """
    names = directory.names(BLOCKS)
    present = set(names)
    blocks = [_stored(directory, name) for name in names if name.endswith(MANIFEST)]
    return [block for block in blocks if present.issuperset(block.files)]


def find(blocks: Iterable[Stored]) -> StoredPlaces:
    """The place of each SAE; of one that two blocks hold, that with weights."""
    places: dict[str, Place] = {}
    for block in sorted(blocks, key=lambda block: block.has_weights):
        places.update({key: (block, row) for row, key in enumerate(block.keys)})
    return places


def finished_keys(places: StoredPlaces, with_weights: bool) -> set[str]:
    """The keys of the SAEs that are stored, `with_weights` only those that have their weights."""
    return {key for key, (block, _) in places.items() if block.has_weights or not with_weights}


def checked_blocks(
    directory: Directory,
) -> tuple[list[Stored], dict[str, tuple[str, list[str]]]]:
    """Reads all files of all blocks.

    Returns:
        The undamaged blocks, and for each other one by name, what is wrong and its files.
    """
    names_by_block: dict[str, list[str]] = {}
    for name in directory.files:
        if str(PurePosixPath(name).parent) == BLOCKS:
            names_by_block.setdefault(PurePosixPath(name).stem, []).append(name)
    undamaged, broken = [], {}
    for manifest in sorted(_file(name, MANIFEST) for name in names_by_block):
        name = PurePosixPath(manifest).stem
        try:
            block = _stored(directory, manifest)
            problem = block.damage()
        except ToysaeError:
            block = None
            problem = f"{name}{MANIFEST} {directory.wrong(manifest) or 'is not a manifest'}"
        if block is None or problem:
            broken[name] = (problem, names_by_block[name])
        else:
            undamaged.append(block)
    return undamaged, broken


def manifest_name(block: str) -> str:
    """The name of a block's manifest, which is written last of its files."""
    return _file(block, MANIFEST)


def _file(block: str, ending: str) -> str:
    return f"{BLOCKS}/{block}{ending}"


def _stored(directory: Directory, manifest: str) -> Stored:
    fields = Fields(parse_json(directory.read(manifest), manifest), manifest)
    block = PurePosixPath(manifest).stem
    keys = fields.items("keys")
    require(all(isinstance(key, str) for key in keys), f"{manifest} has no list of keys")
    return Stored(directory, block, tuple(keys), _file(block, WEIGHTS) in directory.files)
