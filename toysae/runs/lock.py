"""A lock with which one process at a time writes a directory, and others are told which."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import ToysaeError

NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a directory, which is made if need be, during the `with` block. The system releases it
    when the process ends, however it ends.

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
        if not _is_locked_now(file):
            raise ToysaeError(
                f"{folder} is being written by {file.read() or 'another process'}: let it finish, "
                "stop it, or choose another --out"
            )
        with suppress(OSError):  # on a full disk it is held without the owner's name
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def _is_locked_now(file: IO[str]) -> bool:
    """Locks a file unless another process holds it; without locks on this system, always true."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
