"""One process at a time writes a directory; another is told which."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import ToysaeError

NAME = ".lock"
_TRIES, _PAUSE = 5, 0.05  # someone may be looking, see `holder`


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a directory, which is made if need be, until the end of the block. The system lets go
    of it when the process ends, however it ends.

    Raises:
        ToysaeError: another process holds it, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not through a link, behind which anything may lie.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(folder / NAME, flags, 0o666), "r+")
    except OSError as error:
        raise ToysaeError(
            f"cannot write {folder / NAME} ({error.strerror}): choose another --out"
        ) from error
    with file:
        for trial in range(_TRIES):
            if _lock(file, alone=True):
                break
            if trial + 1 == _TRIES:
                raise ToysaeError(
                    f"{folder} is being written by {_said(file)}: let it finish, stop it, or "
                    "choose another --out"
                )
            time.sleep(_PAUSE)
        with suppress(OSError):  # it is held without words too, on a full disk
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def holder(folder: Path) -> str:
    """Who holds a directory, e.g. "process 123 on host"; "" if nobody does."""
    try:
        with open(folder / NAME) as file:
            return "" if _lock(file, alone=False) else _said(file)
    except OSError:
        return ""


def _said(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "another process"


def _lock(file: IO[str], alone: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # not on this system: no protection
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
