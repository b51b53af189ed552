"""Files that are whole or missing: atomic writes, and tensors with one JSON text."""

import dataclasses
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import FunctionType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .errors import ToysaeError, require

TEMPORARY = ".tmp"
"""The ending of the folders in which files are written before they get their names."""


def cache_dir() -> Path:
    """The folder of files that can be made again: ``$XDG_CACHE_HOME/toysae`` or
    ``~/.cache/toysae``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toysae"


def write(path: Path, writer: Callable[[Path], Any], need: int | None = None) -> None:
    """Writes a file through a temporary one that is on the disk before it gets its name, so that
    `path` is never half written, whatever stops the process or the machine. The temporary file has
    a folder of its own, also for those that a library makes next to it.

    Args:
        path: of the file; its folder exists.
        writer: writes the file at the path that it is given.
        need: its size in bytes, where known, for the message about a full disk.

    Raises:
        ToysaeError: the disk is full, see :func:`disk_is_full`; nothing can be written there.
    """
    room = None
    try:
        with telling_of_a_full_disk(path, need), telling_of_no_access(path):
            room = Path(mkdtemp(TEMPORARY, f".{path.name}.", path.parent))
            writer(temporary := room / path.name)
            temporary.chmod(_usual_mode(room))  # some libraries let nobody else read their files
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        if room is not None:
            shutil.rmtree(room, ignore_errors=True)


def _usual_mode(folder: Path) -> int:
    """The mode of a file that this process makes."""
    (probe := folder / ".mode").touch()
    return probe.stat().st_mode


def remove_temporaries(folder: Path, ours: Callable[[str], bool]) -> None:
    """Removes half-written files that a killed process left, if their names are `ours`."""
    for each in folder.glob(f".*{TEMPORARY}"):
        name = each.name.removesuffix(TEMPORARY)[1:].rpartition(".")[0]
        if ours(name) and each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes data with :func:`write`."""
    write(path, lambda temporary: temporary.write_bytes(data), len(data))


@contextmanager
def telling_of_a_full_disk(path: Path, need: int | None = None) -> Iterator[None]:
    """Turns errors about a full disk in the `with` block, of any library, into our own.

    Raises:
        ToysaeError: :func:`disk_is_full`.
    """
    try:
        yield
    except Exception as error:
        # Libraries in C++ raise their own errors with the system's words in them.
        if any(
            getattr(error, "errno", None) == code or os.strerror(code) in str(error)
            for code in (errno.ENOSPC, errno.EDQUOT)
        ):
            raise disk_is_full(path, need) from error
        raise


@contextmanager
def telling_of_no_access(path: Path) -> Iterator[None]:
    """Turns errors of the system about a path in the `with` block into our own.

    Raises:
        ToysaeError: no folder of that path, a file in its place, or no permission.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ACCESS:
            raise
        why = f"{path} ({error.strerror})"
        raise ToysaeError(f"cannot write {why}: choose another place") from error


_NO_ACCESS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip


def disk_is_full(path: Path, need: int | None = None) -> ToysaeError:
    """The error for a file without room on the disk, with its bytes if known and those free."""
    needs = "" if need is None else f"it needs {size(need)} and "
    return ToysaeError(
        f"cannot write {path}: the disk is full, {needs}{size(free_bytes(path))} are free; what is "
        "finished is kept: make room and run the same command again"
    )


def free_bytes(path: Path) -> int:
    """The free bytes on the disk where `path` is, or will be."""
    while not path.exists():
        path = path.absolute().parent
    return shutil.disk_usage(path).free


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file of any size, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size(n_bytes: float) -> str:
    """A number of bytes as text, e.g. "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.3g} {unit}" if n_bytes < 1000 else f"{n_bytes:.0f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} GiB"


def sync(path: Path) -> None:
    """Makes sure that a file or folder is on the disk and not only in memory."""
    if os.name != "posix":  # elsewhere it cannot be opened for this
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_tensors(path: Path, tensors: dict[str, np.ndarray], entry: str, text: str) -> None:
    """Writes a safetensors file with `text` and a checksum as its only metadata, under the name
    `entry` (the order of several entries is not fixed); its folder is made if need be."""
    with telling_of_no_access(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {entry: f"{text}\n{_sum(tensors, text)}"}

    write(path, lambda temporary: save_file(tensors, temporary, metadata))


def _sum(tensors: dict[str, np.ndarray], text: str) -> str:
    """A checksum of the text and of all tensors, whatever their order."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype.name} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def read_tensors(path: Path, entry: str, kind: str) -> tuple[dict[str, np.ndarray], str]:
    """Reads the tensors and the text of a file that :func:`write_tensors` wrote.

    Args:
        path: of the file.
        entry: the name of its metadata.
        kind: of the file, for messages, e.g. "world".

    Raises:
        ToysaeError: no such file, a truncated or damaged one, or one without that entry.
    """
    article = "an" if kind == "SAE" else "a"
    require(not path.is_dir(), f"{path} is a folder: give {article} {kind} file")
    require(path.is_file(), f"there is no {kind} file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(entry, "")
            save = f"save_{kind.lower()}"
            require(text, f"{path} is not {article} {kind} file: write one with {save}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ToysaeError(f"{path} is truncated or not {article} {kind} file ({error})") from error
    if checksum := re.search(r"\n([0-9a-f]{64})\Z", text):  # files of earlier versions have none
        text = text[: checksum.start()]
        good = _sum(tensors, text) == checksum[1]
        require(good, f"{path} is damaged, its checksum is another: save it again")
    return tensors, text


def subclasses(base: type) -> list[type]:
    """Every loaded subclass of `base`, at any depth; later defined children come later."""
    return list(dict.fromkeys(c for d in base.__subclasses__() for c in (d, *subclasses(d))))


def by_name(classes: Iterable[type]) -> dict[str, dict[str, type]]:
    """The dataclasses among some classes by name, and then by the place of their definition. Of a
    class that was defined again, as by a notebook's cell that ran twice, only the newest counts."""
    by_place: dict[str, dict[str, type]] = {}
    for cls in classes:
        if hasattr(cls, "__dataclass_fields__"):
            by_place.setdefault(cls.__name__, {})[_place(cls)] = cls
    return by_place


def _place(cls: type) -> str:
    """Where a class is defined. All files that were run have one module name: the class's functions
    then tell the file, and a class without any has a place of its own."""
    place = f"{cls.__module__}.{cls.__qualname__}"
    if cls.__module__ != "<run_path>":
        return place
    codes = (f.__code__ for f in vars(cls).values() if isinstance(f, FunctionType))
    files = {code.co_filename for code in codes} - {"<string>", dataclasses.__file__}
    return f"{place} of {sorted(files) or id(cls)}"
