"""Finished parts on disk: each is whole, and says which SAEs it holds, or does not count.

groups/<part>.csv            one row for each SAE
groups/<part>.npz            arrays by row: MCS of every feature, curves, firings
groups/<part>.safetensors    weights by row, if kept
groups/<part>.json           keys of the rows, provenance
broken/                      what was damaged, moved aside
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
from ..runs.directory import BROKEN, Directory

FOLDER = "groups"
TABLE, ARRAYS, WEIGHTS, MANIFEST = ".csv", ".npz", ".safetensors", ".json"


@dataclass(frozen=True)
class Stored:
    """A finished part.

    Attributes:
        directory: of the run.
        name: of the part.
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

    def damage(self) -> str:
        """What is wrong with its files; "" if they are as written."""
        wrong = ((name, self.directory.wrong(name)) for name in self.files)
        return next((f"{PurePosixPath(name).name} {what}" for name, what in wrong if what), "")

    def _read(self, ending: str) -> bytes:
        return self.directory.read(_file(self.name, ending))


def save_part(
    directory: Directory,
    name: str,
    keys: Iterable[str],
    table: pd.DataFrame,
    arrays: dict[str, np.ndarray],
    weights: dict[str, np.ndarray] | None,
    provenance: Mapping[str, Any],
) -> None:
    """Writes a finished part, the whole of it or nothing.

    Raises:
        ToysaeError: the disk is full.
    """
    held = BytesIO()
    np.savez(held, allow_pickle=False, **arrays)
    files = {ARRAYS: held.getvalue(), TABLE: table.to_csv(index=False).encode()}
    if weights is not None:
        files[WEIGHTS] = save_tensors(weights)
    manifest = {"format": FORMAT, "keys": list(keys), **provenance}
    files[MANIFEST] = json.dumps(manifest, indent=1).encode()
    try:
        directory.write({_file(name, ending): data for ending, data in files.items()})
    except ToysaeError:
        directory.remove([n for n in (_file(name, e) for e in files) if n in directory.files])
        raise


def files_of(part: str) -> list[str]:
    """The names that a part's files have, if all are kept."""
    return [_file(part, ending) for ending in (TABLE, ARRAYS, WEIGHTS, MANIFEST)]


def stored_parts(directory: Directory, broken: Collection[str] = ()) -> list[Stored]:
    """Every finished part, by name.

    Args:
        directory: of the run.
        broken: names of parts that are left out, see :func:`broken_parts`.

    Raises:
        ToysaeError: a manifest is not as it was written.
    """
    names = directory.names(FOLDER)
    found = []
    for file in names:
        if file.endswith(MANIFEST) and PurePosixPath(file).stem not in broken:
            part = _stored(directory, file)
            if set(part.files) <= set(names):
                found.append(part)
    return found


def find(parts: Iterable[Stored]) -> dict[str, tuple[Stored, int]]:
    """Where each SAE is: its part and row. Of two, the one with weights."""
    places: dict[str, tuple[Stored, int]] = {}
    for part in sorted(parts, key=lambda part: part.has_weights):
        places.update({key: (part, row) for row, key in enumerate(part.keys)})
    return places


def finished(places: Mapping[str, tuple[Stored, int]], with_weights: bool) -> set[str]:
    """The keys of what is there, and has its weights if it must."""
    return {key for key, (part, _) in places.items() if part.has_weights or not with_weights}


def broken_parts(directory: Directory) -> dict[str, tuple[str, list[str]]]:
    """By name, what is no whole part: what is wrong with it, and its files."""
    together: dict[str, list[str]] = {}
    for name in directory.files:
        if str(PurePosixPath(name).parent) == FOLDER:
            together.setdefault(PurePosixPath(name).stem, []).append(name)
    found = {}
    for part, names in together.items():
        try:
            wrong = _stored(directory, _file(part, MANIFEST)).damage()
        except ToysaeError:
            manifest = _file(part, MANIFEST)
            wrong = f"{part}{MANIFEST} {directory.wrong(manifest) or 'is not a manifest'}"
        if wrong:
            found[part] = (wrong, names)
    return found


def set_broken_aside(directory: Directory) -> Iterator[str]:
    """Moves what is no whole part aside, and says of each what was wrong with it. What a run did
    not come to write to its end is removed."""
    for part, (wrong, names) in broken_parts(directory).items():
        moved = directory.set_aside(names)
        if moved:
            path = directory.path
            yield f"{path / FOLDER / part} is broken ({wrong}): moved to {path / BROKEN}"


def _file(part: str, ending: str) -> str:
    return f"{FOLDER}/{part}{ending}"


def _stored(directory: Directory, manifest: str) -> Stored:
    held = Fields(parse_json(directory.read(manifest), manifest), manifest)
    part = PurePosixPath(manifest).stem
    keys = held.items("keys")
    require(all(isinstance(key, str) for key in keys), f"{manifest} has no list of keys")
    return Stored(directory, part, tuple(keys), _file(part, WEIGHTS) in directory.files)
