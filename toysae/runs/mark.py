"""The mark of a run's directory: which files runs wrote there, with a seal of each, kept twice."""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..checked import Fields, parse_json, read_regular, shown
from ..disk import sync, telling_of_a_full_disk, telling_of_no_access
from ..errors import ToysaeError, require

MARK, COPY = "toysae-run.json", ".toysae-run.json.copy"
LAYOUT = 5
"""Of the directory; counted up when an older toysae could not read it, or this one an older."""

LOCK, PLANNING = ".toysae-run.lock", ".toysae-plan.lock"
"""Held while the mark is changed, and while blocks are queued or taken."""
LOCKS = (LOCK, PLANNING, ".lock")
_MOST_BYTES = 2**30  # of a mark: some million files


@dataclass(frozen=True)
class Seal:
    """What a file held when it was written: its size in bytes, and its SHA-256 in hex."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "Seal":
        return cls(len(data), hashlib.sha256(data).hexdigest())


def why_not_ours(path: Path) -> str:
    """Why a directory cannot be used as that of a run, to be said after its name; "" if it can:
    it is not there, is empty, or has a mark."""
    if not os.path.lexists(path):
        return ""
    if not path.is_dir():
        return "is not a directory"
    if is_marked(path):
        return ""
    try:
        strays = sorted(each.name for each in path.iterdir() if each.name not in LOCKS)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if "plan.json" in strays and "config.json" in strays:
        return "was written by an older toysae, or its toysae-run.json is gone"
    if not strays:
        return ""
    few = ", ".join(strays[:3]) + (", ..." if len(strays) > 3 else "")
    return f"is not empty and not the directory of a run (it holds {few})"


def check_ours(path: Path) -> None:
    """Refuses a directory that a run must not write into; nothing is touched.

    Raises:
        ToysaeError: saying what to do.
    """
    refused = why_not_ours(path)
    require(not refused, f"{path} {refused}: choose another --out; nothing in it was touched")
    if is_marked(path):
        read_mark(path)


def is_marked(path: Path) -> bool:
    """Whether a run has written in a directory, as far as names tell."""
    return any(is_regular(path / name) for name in (MARK, COPY))


def read_mark(path: Path) -> dict[str, Seal | None]:
    """By name, the seal of every file; None from before a file is written until it is there.

    Raises:
        ToysaeError: both copies are damaged; it is of another layout.
    """
    problems = []
    for name in (MARK, COPY):
        try:
            held = Fields(parse_json(read_regular(path / name, _MOST_BYTES), name), name)
            layout = held.integer("layout")
            body = {key: value for key, value in held.value.items() if key != "seal"}
            require(held.text("seal") == _sealed(body), f"{name} is not as it was written")
            if layout != LAYOUT:
                which = "an older" if layout < LAYOUT else "a newer"
                raise _OtherLayout(
                    f"{path} was written by {which} toysae (layout {layout}, this one has "
                    f"{LAYOUT}): choose another --out"
                )
            files = held.object("files")
            return {file: _seal(file, files.any(file)) for file in files.value}
        except _OtherLayout:
            raise
        except ToysaeError as error:
            problems.append(str(error))
    raise ToysaeError(
        f"{path} cannot be read: {'; '.join(problems)}. Restore one of the two, or choose another "
        "--out"
    )


def write_mark(path: Path, files: Mapping[str, Seal | None]) -> None:
    """Both copies.

    Raises:
        ToysaeError: the disk is full.
    """
    held = {
        name: None if seal is None else [seal.size, seal.sha256]
        for name, seal in sorted(files.items())
    }
    body = {"toysae": "the files of a run", "layout": LAYOUT, "files": held}
    data = json.dumps({**body, "seal": _sealed(body)}, indent=1).encode()
    for name in (MARK, COPY):
        _put(path / name, data)


class _OtherLayout(ToysaeError):
    pass


def _seal(name: str, held: Any) -> Seal | None:
    parts = PurePosixPath(name).parts
    good = parts and ".." not in parts and not name.startswith("/")
    require(good, f"it lists {shown(name)}, which is not a name of a file inside")
    if held is None:
        return None
    n_bytes, sha256 = held if isinstance(held, list) and len(held) == 2 else (None, None)
    good = isinstance(n_bytes, int) and isinstance(sha256, str)
    require(good, f"it has no seal of {name}")
    return Seal(n_bytes, sha256)  # pyright: ignore[reportArgumentType]


def _sealed(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _put(path: Path, data: bytes) -> None:
    """Writes a copy of the mark, whose two names are ours in any directory that has one."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with telling_of_a_full_disk(path, len(data)), telling_of_no_access(path):
            temporary.unlink(missing_ok=True)
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with os.fdopen(file, "wb") as held:
                held.write(data)
                held.flush()
                os.fsync(held.fileno())
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def is_regular(path: Path) -> bool:
    """Whether it is a file, and not a link to one, a pipe or a device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
