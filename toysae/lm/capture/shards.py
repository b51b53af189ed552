"""Activations on disk: safetensors shards of one site, and a manifest that describes them.

    <site>/manifest.json          the model, text and site; each shard's rows, checksum and moments
    <site>/matrices.npz           axes of what writes to the site and reads it, for initialisations
    <site>/00000.safetensors      acts [rows, d], tokens, seq, doc, pos [rows], in sequence order

A shard holds whole sequences, and is listed once it is on the disk: a killed capture goes on after
the last shard listed.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...checked import Fields, read_json
from ...disk import file_sha256, write, write_bytes
from ...errors import ToysaeError, require, unknown

MANIFEST_VERSION = 1
MANIFEST, MATRICES = "manifest.json", "matrices.npz"
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}


def is_ours(name: str) -> bool:
    """Whether a capture writes files of that name."""
    return name in (MANIFEST, MATRICES) or bool(re.fullmatch(r"\d{5,}\.safetensors", name))


@dataclass(frozen=True)
class Shard:
    """One file of a site.

    Attributes:
        file: its name.
        first, last: its sequences, without `last` itself.
        rows: the number of activations.
        sha256: of the file.
        moments: sums over its rows of ‖x‖² and of ‖x‖, in float64.
    """

    file: str
    first: int
    last: int
    rows: int
    sha256: str
    moments: tuple[float, float]


@dataclass(frozen=True)
class Manifest:
    """A description of the activations of a site.

    Attributes:
        model: where the model came from.
        weights: checksum of its weights.
        site: by TransformerLens' name.
        d: width of the activations.
        dtype: of the activations on disk.
        centred: each activation's own mean over dimensions is subtracted, as in TransformerLens'
            processed residual stream.
        corpus: checksum of the token ids.
        first: positions before this one are left out.
        n_ctx: tokens of a sequence.
        n_seq: sequences in all.
        rows: activations in all.
        shards: the finished ones; none if the model is run anew in each epoch.
        live: the model is run instead of reading shards.
        version: of the format.
    """

    model: str
    weights: str
    site: str
    d: int
    dtype: str
    centred: bool
    corpus: str
    first: int
    n_ctx: int
    n_seq: int
    rows: int
    shards: tuple[Shard, ...] = ()
    live: bool = False
    version: int = field(default=MANIFEST_VERSION)

    @property
    def is_complete(self) -> bool:
        return self.live or sum(shard.rows for shard in self.shards) == self.rows

    def same_run(self, other: "Manifest") -> list[str]:
        """Lists the fields in which two captures differ, however far they have come."""
        names = [f.name for f in fields(self) if f.name not in ("shards", "model")]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of a site, whole or not at all."""
    write_bytes(folder / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a site's folder.

    Raises:
        ToysaeError: no manifest, a damaged one, or one of a newer toysae.
    """
    file = folder / MANIFEST
    require(file.is_file(), f"{folder} holds no {MANIFEST}: give the folder of a captured site")
    try:
        raw = Fields(read_json(file), file).value
        version = raw.get("version")
        require(
            version == MANIFEST_VERSION,
            f"{file} is of version {version!r}, this toysae reads {MANIFEST_VERSION}",
        )
        shards = tuple(Shard(**{**s, "moments": tuple(s["moments"])}) for s in raw.pop("shards"))
        return Manifest(**raw, shards=shards)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ToysaeError):
            raise
        raise ToysaeError(f"{file} is damaged ({error}): capture again") from error


@dataclass
class Rows:
    """Activations on their way into a shard, with the token and place of each."""

    acts: Float[np.ndarray, "rows d"]
    tokens: Int[np.ndarray, " rows"]
    seq: Int[np.ndarray, " rows"]
    doc: Int[np.ndarray, " rows"]
    pos: Int[np.ndarray, " rows"]


def write_shard(folder: Path, number: int, first: int, last: int, rows: Rows) -> Shard:
    """Writes one shard and returns its entry for the manifest.

    Raises:
        ToysaeError: activations that are not finite; the disk is full.
    """
    name = f"{number:05d}.safetensors"
    x = np.asarray(rows.acts, np.float32)
    bad = ~np.isfinite(x).all(1)
    require(not bad.any(), f"{bad.sum()} of {len(x)} activations are not finite, the first in "
            f"sequence {rows.seq[bad][:1]}: keep them in another type (--dtype bfloat16), or run "
            "the model in float32")  # fmt: skip
    squares = np.einsum("nd,nd->n", x, x, dtype=np.float64)
    tensors = {k: np.ascontiguousarray(v) for k, v in vars(rows).items()}
    tensors["sum"] = x.sum(0, dtype=np.float64)
    write(folder / name, lambda path: save_file(tensors, path), rows.acts.nbytes)
    moments = (float(squares.sum()), float(np.sqrt(squares).sum()))
    return Shard(name, first, last, len(x), file_sha256(folder / name), moments)


class Shards:
    """The activations of a captured site, memory-mapped, sequence after sequence.

    Args:
        folder: of the site.
        verify: whether to read every file once and compare its checksum.

    Raises:
        ToysaeError: an unfinished capture, or a shard that is missing, short, altered or from
            another run, by its name.
    """

    def __init__(self, folder: Path, verify: bool = True):
        self.folder, self.manifest = folder, read_manifest(folder)
        m = self.manifest
        require(not m.live, f"{folder} holds no activations: its model is run as they are needed")
        n_rows = sum(shard.rows for shard in m.shards)
        require(m.is_complete, f"{folder} holds {n_rows:,} of {m.rows:,} activations: run the same "
                "`toysae lm capture` again to finish it")  # fmt: skip
        self._files = [self._open(shard, verify) for shard in m.shards]
        self._slices = [file.get_slice("acts") for file in self._files]
        self._starts = np.searchsorted(self.column("seq"), np.arange(m.n_seq + 1))
        self._firsts = np.array([shard.first for shard in m.shards])
        self._offsets = np.concatenate([[0], np.cumsum([shard.rows for shard in m.shards])])

    @property
    def d(self) -> int:
        return self.manifest.d

    @property
    def dtype(self) -> Any:
        return DTYPES[self.manifest.dtype]

    @property
    def counts(self) -> Int[np.ndarray, " n_seq"]:
        """Rows of each sequence."""
        return np.diff(self._starts)

    def read(self, sequences: Int[np.ndarray, " n"]) -> Float[np.ndarray, "rows d"]:
        """Returns the activations of some sequences, one sequence after the other."""
        out = np.empty((int(self.counts[sequences].sum()), self.d), self.dtype)
        at = 0
        shard_of = np.searchsorted(self._firsts, sequences, "right") - 1
        for seq, shard in zip(sequences, shard_of, strict=True):
            start, end = self._starts[seq] - self._offsets[shard], self._starts[seq + 1]
            n = end - self._offsets[shard] - start
            out[at : at + n] = self._slices[shard][start : start + n]
            at += n
        return out

    def column(self, name: str) -> Int[np.ndarray, " rows"]:
        """Returns `tokens`, `seq`, `doc` or `pos` of every row.

        Raises:
            ToysaeError: no such column.
        """
        if name not in ("tokens", "seq", "doc", "pos"):
            raise unknown("column", name, ("tokens", "seq", "doc", "pos"))
        return np.concatenate([file.get_tensor(name) for file in self._files])

    def batches(self, size: int = 4096) -> Iterator[Float[np.ndarray, "n d"]]:
        """Yields all activations in the order of the text."""
        for acts in self._slices:
            n = acts.get_shape()[0]
            for start in range(0, n, size):
                yield acts[start : min(start + size, n)]

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """The mean over all rows, float64."""
        total = sum(file.get_tensor("sum") for file in self._files)
        return np.asarray(total, np.float64) / self.manifest.rows

    def _open(self, shard: Shard, verify: bool) -> Any:
        path, m = self.folder / shard.file, self.manifest
        remedy = "delete it and run the same `toysae lm capture` again"
        require(path.is_file(), f"shard {path} is missing: run the same `toysae lm capture` again")
        if verify:
            same = file_sha256(path) == shard.sha256
            require(same, f"shard {path} is not as it was written (short, altered or from another "
                    f"run): {remedy}")  # fmt: skip
        try:
            file = safe_open(path, framework="numpy")
            shape = file.get_slice("acts").get_shape()
        except (SafetensorError, OSError) as error:
            raise ToysaeError(f"shard {path} is damaged ({error}): {remedy}") from error
        require(shape == [shard.rows, m.d], f"shard {path} has activations {shape}, its manifest "
                f"says {[shard.rows, m.d]}: {remedy}")  # fmt: skip
        return file


def without_missing(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with its shards up to the first that is not on disk as it was written."""

    def is_whole(shard: Shard) -> bool:
        path = folder / shard.file
        return path.is_file() and file_sha256(path) == shard.sha256

    return replace(manifest, shards=tuple(takewhile(is_whole, manifest.shards)))


def site_folders(folder: Path) -> list[Path]:
    """Lists the folders of the sites captured in a folder."""
    return sorted(file.parent for file in folder.glob(f"*/{MANIFEST}"))


def find_site(folder: str | Path, site: str | None = None) -> Path:
    """Returns the folder of one site of a capture: the one named, or the only one.

    Raises:
        ToysaeError: no capture there, no such site, or several to choose from.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        require(site in (None, folder.name), f"{folder} is one site, and not {site}: give the "
                "folder above it")  # fmt: skip
        return folder
    sites = [path.name for path in site_folders(folder)]
    require(sites, f"{folder} holds no captured site: make one with `toysae lm capture`")
    if site is None:
        require(len(sites) == 1, f"{folder} holds {', '.join(sites)}: name one with --site")
        return folder / sites[0]
    if site not in sites:
        raise unknown("site", site, sites)
    return folder / site
