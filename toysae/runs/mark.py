"""The mark of a run's directory: the files that runs wrote there and their seals, kept twice."""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ..checked import Fields, parse_json, read_regular, shown
from ..disk import sync, telling_of_a_full_disk, telling_of_no_access
from ..errors import ToysaeError, require

MARK, COPY = "toysae-run.json", ".toysae-run.json.copy"
LAYOUT = 5
"""The layout of the directory; counted up when it changes so that older versions cannot read it."""

LOCK, PLANNING = ".toysae-run.lock", ".toysae-plan.lock"
"""Locks that are held while the mark is changed, and while blocks are queued or taken."""
LOCKS = (LOCK, PLANNING, ".lock")
_UNFINISHED = {*LOCKS, f"{MARK}.tmp", f"{COPY}.tmp"}
"""What lies in a directory whose first mark is being written, or was when a run was killed."""
_MOST_BYTES = 2**30  # of a mark: some million files


@dataclass(frozen=True)
class Seal:
    """The size in bytes and the SHA-256 in hex of a file when it was written."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "Seal":
        return cls(len(data), hashlib.sha256(data).hexdigest())


def why_not_ours(path: Path) -> str:
    """Why a path cannot be the directory of a run, as the end of a sentence; "" if it can: it does
    not exist, is empty, or has a mark."""
    if not os.path.lexists(path):
        return ""
    if not path.is_dir():
        return "is not a directory"
    if is_marked(path):
        return ""
    try:
        strays = sorted(each.name for each in path.iterdir() if each.name not in _UNFINISHED)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if "plan.json" in strays and "config.json" in strays:
        return "was written by an older toysae, or its toysae-run.json is gone"
    if not strays:
        return ""
    few = ", ".join(strays[:3]) + (", ..." if len(strays) > 3 else "")
    return f"is not empty and not the directory of a run (it holds {few})"


def check_ours(path: Path) -> None:
    """Refuses a directory that a run must not write into, and leaves it untouched.

    Raises:
        ToysaeError: saying what to do.
    """
    problem = why_not_ours(path)
    require(not problem, f"{path} {problem}: choose another --out; nothing in it was touched")
    if is_marked(path):
        for mark in (path / MARK, path / COPY):
            good = is_regular(mark) or not os.path.lexists(mark)
            require(good, f"{mark} is a link or not a file: put the run's own back, or remove it")
        read_mark(path)


def is_marked(path: Path) -> bool:
    """Whether a run has written in a directory, as far as file names tell."""
    return any(is_regular(path / name) for name in (MARK, COPY))


def read_mark(path: Path) -> dict[str, Seal | None]:
    """Reads the seal of every file by name; None for a file that is being written.

    Raises:
        ToysaeError: both copies are damaged, or have another layout.
    """
    problems = []
    for name in (MARK, COPY):
        try:
            layout, files = _parsed(read_regular(path / name, _MOST_BYTES), name)
        except ToysaeError as error:
            problems.append(str(error))
            continue
        which = "an older" if layout < LAYOUT else "a newer"
        require(layout == LAYOUT, f"{path} was written by {which} toysae (layout {layout}, this "
                f"one has {LAYOUT}): choose another --out")  # fmt: skip
        return dict(files)
    raise ToysaeError(
        f"{path} cannot be read: {'; '.join(problems)}. Restore one of the two, or choose another "
        "--out"
    )


@lru_cache(maxsize=4)  # a mark is read far more often than it changes
def _parsed(data: bytes, name: str) -> tuple[int, Mapping[str, Seal | None]]:
    """The layout and the seals in the bytes of a mark; no seals in those of another layout.

    Raises:
        ToysaeError: it is not as it was written.
    """
    fields = Fields(parse_json(data, name), name)
    layout = fields.integer("layout")
    body = {key: value for key, value in fields.value.items() if key != "seal"}
    require(fields.text("seal") == _digest(body), f"{name} is not as it was written")
    files = fields.object("files").value if layout == LAYOUT else {}
    return layout, {file: _seal(file, value) for file, value in files.items()}


def merged(
    read: Mapping[str, Seal | None], mine: Mapping[str, Seal | None], now: Mapping[str, Seal | None]
) -> dict[str, Seal | None]:
    """The files of a mark that two processes changed at once, as one did that lost the lock.

    Args:
        read: the files that the process had read.
        mine: what it made of them.
        now: what others made of them.

    Returns:
        The files as they are now, with the process's changes of those that no other has changed.
    """
    absent = Seal(-1, "")
    files = dict(now)
    for name in mine.keys() | read.keys():
        before = read.get(name, absent)
        if mine.get(name, absent) != before == now.get(name, absent):
            files.pop(name, None)
            files |= {name: mine[name]} if name in mine else {}
    return files


def update_mark(
    path: Path, read: Mapping[str, Seal | None], mine: Mapping[str, Seal | None]
) -> dict[str, Seal | None]:
    """Writes the mark, and what others wrote since it was read, as while this process stood still
    for so long that it lost the lock. Returns the files in it, see :func:`merged`."""
    now = read_mark(path) if is_marked(path) else read
    files = merged(read, mine, now)
    write_mark(path, files)
    return files


def write_mark(path: Path, files: Mapping[str, Seal | None]) -> None:
    """Writes both copies of the mark.

    Raises:
        ToysaeError: the disk is full.
    """
    seals = {
        name: None if seal is None else [seal.size, seal.sha256]
        for name, seal in sorted(files.items())
    }
    body = {"toysae": "the files of a run", "layout": LAYOUT, "files": seals}
    data = json.dumps({**body, "seal": _digest(body)}, indent=1).encode()
    for name in (MARK, COPY):
        _write(path / name, data)


def _seal(name: str, value: Any) -> Seal | None:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/"):
        raise ToysaeError(f"it lists {shown(name)}, which is not a name of a file inside")
    if value is None:
        return None
    n_bytes, sha256 = value if isinstance(value, list) and len(value) == 2 else (None, None)
    if not isinstance(n_bytes, int) or not isinstance(sha256, str):
        raise ToysaeError(f"it has no seal of {name}")
    return Seal(n_bytes, sha256)


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Writes one copy of the mark; its name is ours in any directory that has a mark."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with telling_of_a_full_disk(path, len(data)), telling_of_no_access(path):
            temporary.unlink(missing_ok=True)
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with os.fdopen(file, "wb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def is_regular(path: Path) -> bool:
    """Whether a path is a file, not a link to one, a pipe or a device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
