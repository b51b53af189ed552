"""Claims: which process trains which block, where several share a directory.

A claim is a file that a process creates and refreshes while it works (filelock's SoftFileLease:
created exclusively, which holds on NFS too, and refreshed by a thread). A claim has lapsed if a
process that watches it sees no refresh for :data:`LEASE_SECONDS` by its own clock, or if its owner
is dead on the same machine. Clocks of two machines are never compared.

claims/<block>.claim
"""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from ..disk import telling_of_a_full_disk, telling_of_no_access
from ..errors import ToysaeError

CLAIMS = "claims"
LEASE_SECONDS = 120.0
"""The same in all processes of a directory. It is long because on a network file system a machine
may see late what another has written."""

_ENDING, _CLAIM_BYTES = ".claim", 4096


class Claims:
    """The claims of one process in a directory.

    Args:
        path: of the directory.
        seconds: after which a claim that is not refreshed lapses.
    """

    def __init__(self, path: Path, seconds: float = LEASE_SECONDS):
        self._folder, self._seconds = path / CLAIMS, seconds
        self._leases: dict[str, SoftFileLease] = {}

    def take(self, name: str) -> bool:
        """Claims a block unless another process has it, and returns whether it did. Repeated calls
        take over a claim once it has lapsed."""
        file = self._folder / f"{name}{_ENDING}"
        if name not in self._leases:
            self._leases[name] = SoftFileLease(file, lease_duration=self._seconds)
        try:
            with telling_of_a_full_disk(file, _CLAIM_BYTES), telling_of_no_access(file):
                self._folder.mkdir(exist_ok=True)
                self._leases[name].acquire(blocking=False)
        except Timeout:
            return False
        except LeaseSettingsMismatch as error:
            theirs = re.search(r"lease of ([\d.]+)s", str(error))
            raise ToysaeError(
                f"another process in {self._folder.parent} has a lease_seconds of "
                f"{float(theirs[1]) if theirs else 0:g}, here {self._seconds:g}: give all the same"
            ) from error
        return True

    def is_lost(self, name: str) -> bool:
        """Whether this process no longer has the claim, for example because another took it over
        while the whole process stood still."""
        lease = self._leases.get(name)
        return lease is None or lease.compromise is not None or not lease.is_locked

    def release(self, name: str) -> None:
        """Gives up the claim of a block."""
        lease = self._leases.pop(name, None)
        if lease is not None and lease.is_locked:
            with suppress(OSError):
                lease.release(force=True)

    def release_all(self) -> None:
        """Gives up all claims."""
        for name in list(self._leases):
            self.release(name)
        with suppress(OSError):
            self._folder.rmdir()  # if nobody else has one


@contextmanager
def held(lease: SoftFileLease, most_seconds: float) -> Iterator[None]:
    """Holds a lock that others hold for moments only, during the `with` block.

    Raises:
        ToysaeError: nothing can be written there, or others hold it for `most_seconds`.
    """
    file = Path(lease.lock_file)
    try:
        with telling_of_a_full_disk(file, _CLAIM_BYTES), telling_of_no_access(file):
            lease.acquire(timeout=most_seconds)
    except Timeout as error:
        pid, host = _owner(file)
        raise ToysaeError(
            f"{file} is held by process {pid} on {host} for {most_seconds:.0f} s now: wait for it, "
            "or stop it"
        ) from error
    try:
        yield
    finally:
        lease.release()


def claimed(path: Path) -> dict[str, str]:
    """Returns who has claimed each claimed block, e.g. "process 123 on host".

    Claims of processes known to be dead are left out; those of another machine count until they
    are taken over.
    """
    owners = {}
    with suppress(OSError):
        for file in sorted((path / CLAIMS).glob(f"*{_ENDING}")):
            pid, host = _owner(file)
            if not (host == socket.gethostname() and _is_dead(pid)):
                owners[file.name.removesuffix(_ENDING)] = f"process {pid} on {host}"
    return owners


def _owner(file: Path) -> tuple[str, str]:
    """The process and host in a claim of filelock; "unknown" where the file does not say."""
    record = {}
    with suppress(OSError, UnicodeDecodeError):
        lines = file.read_text()[:_CLAIM_BYTES].splitlines()
        record = dict(line.split("=", 1) for line in lines if "=" in line)
    return record.get("pid", "unknown")[:40], record.get("host", "unknown")[:200]


def _is_dead(pid: str) -> bool:
    if pid.isdecimal():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
    return False
