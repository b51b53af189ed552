"""Finished parts on disk: each is whole, and says which SAEs it holds, or does not count.

groups/<part>.csv            one row for each SAE
groups/<part>.npz            arrays by row: MCS of every feature, curves, firings
groups/<part>.safetensors    weights by row, if kept
groups/<part>.json           written last: keys of the rows, checksums, provenance
groups/broken/               what was damaged, moved aside
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ..disk import file_sha256, remove_temporaries, write_bytes
from ..errors import ToysaeError, require
from .content import FORMAT

TABLE, ARRAYS, WEIGHTS, MANIFEST = ".csv", ".npz", ".safetensors", ".json"


@dataclass(frozen=True)
class Stored:
    """A finished part.

    Attributes:
        folder: where its files are.
        name: of the part.
        keys: of its rows.
        files: size and checksum of each, by ending.
    """

    folder: Path
    name: str
    keys: tuple[str, ...]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def has_weights(self) -> bool:
        return WEIGHTS in self.files

    def path(self, ending: str) -> Path:
        return self.folder / f"{self.name}{ending}"

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
        for ending, seal in self.files.items():
            path = self.path(ending)
            if not path.is_file():
                return f"{path.name} is missing"
            has = path.stat().st_size
            if has != seal["bytes"]:
                return f"{path.name} has {has} bytes of {seal['bytes']}"
            if file_sha256(path) != seal["sha256"]:
                return f"{path.name} has other bytes than were written"
        return ""

    def _read(self, ending: str) -> bytes:
        path = self.path(ending)
        data = path.read_bytes() if path.is_file() else b""
        require(
            _sha256(data) == self.files[ending]["sha256"],
            f"{path} is damaged or missing: run the experiment again, which makes it anew",
        )
        return data


def save_part(
    folder: Path,
    name: str,
    keys: Iterable[str],
    table: pd.DataFrame,
    arrays: dict[str, np.ndarray],
    weights: dict[str, np.ndarray] | None,
    provenance: Mapping[str, Any],
) -> None:
    """Writes a finished part; its manifest comes last.

    Raises:
        ToysaeError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = BytesIO()
    np.savez(held, allow_pickle=False, **arrays)
    files = {ARRAYS: held.getvalue(), TABLE: table.to_csv(index=False).encode()}
    if weights is not None:
        files[WEIGHTS] = save_tensors(weights)
    try:
        for ending, data in files.items():
            write_bytes(folder / f"{name}{ending}", data)
        seals = {
            ending: {"bytes": len(data), "sha256": _sha256(data)} for ending, data in files.items()
        }
        manifest = {"format": FORMAT, "keys": list(keys), "files": seals, **provenance}
        write_bytes(folder / f"{name}{MANIFEST}", json.dumps(manifest, indent=1).encode())
    except ToysaeError:
        if not (folder / f"{name}{MANIFEST}").exists():
            for ending in files:
                (folder / f"{name}{ending}").unlink(missing_ok=True)
        raise


def stored_parts(folder: Path) -> list[Stored]:
    """Every finished part whose manifest can be read, by name."""
    found = (_stored(file) for file in sorted(folder.glob(f"*{MANIFEST}")))
    return [part for part in found if part is not None]


def find(parts: Iterable[Stored]) -> dict[str, tuple[Stored, int]]:
    """Where each SAE is: its part and row. Of two, the one with weights."""
    places: dict[str, tuple[Stored, int]] = {}
    for part in sorted(parts, key=lambda part: part.has_weights):
        places.update({key: (part, row) for row, key in enumerate(part.keys)})
    return places


def finished(places: Mapping[str, tuple[Stored, int]], with_weights: bool) -> set[str]:
    """The keys of what is there, and has its weights if it must."""
    return {key for key, (part, _) in places.items() if part.has_weights or not with_weights}


def set_broken_aside(folder: Path) -> Iterator[str]:
    """Moves what is no whole part into `broken`, and says of each what was wrong with it."""
    remove_temporaries(folder)
    whole = {part.name: part.damage() for part in stored_parts(folder)}
    for name in sorted({file.stem for file in folder.glob("*.*") if file.is_file()}):
        wrong = whole.get(name, f"{name}{MANIFEST} is missing or damaged")
        if wrong:
            (folder / "broken").mkdir(exist_ok=True)
            for file in folder.glob(f"{name}.*"):
                os.replace(file, folder / "broken" / file.name)
            yield f"{folder / name} is broken ({wrong}): moved to {folder / 'broken'}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _stored(manifest: Path) -> Stored | None:
    try:
        held = json.loads(manifest.read_bytes())
        files = {
            ending: {"bytes": int(seal["bytes"]), "sha256": str(seal["sha256"])}
            for ending, seal in held["files"].items()
        }
        keys = tuple(map(str, held["keys"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if not {TABLE, ARRAYS} <= set(files) <= {TABLE, ARRAYS, WEIGHTS}:
        return None
    return Stored(manifest.parent, manifest.stem, keys, files)
