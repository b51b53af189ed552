"""The memory that this process may take, whoever sets the limit; and how old it is."""

import ctypes
import os
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

from .disk import size
from .errors import require

_CGROUPS = Path("/sys/fs/cgroup")
_COMPILER = 2**28  # bytes that compiling programs takes and the allocator keeps
_JAX = 2**31  # bytes of addresses for its libraries and the stacks of its threads


def host_bytes() -> int:
    """The bytes left to this process under the lowest of the limits of the machine, its container
    and itself, less what the compiler may take."""
    page = os.sysconf("SC_PAGE_SIZE")
    mapped, resident, of_files = _of_this_process(page)
    private = resident - of_files  # the system takes back pages of files if memory runs short
    left = [min(page * os.sysconf("SC_PHYS_PAGES"), *_container_limits()) - private]
    with suppress(ImportError):
        import resource

        for kind, used in ((resource.RLIMIT_AS, mapped), (resource.RLIMIT_DATA, private)):
            limit = resource.getrlimit(kind)[0]
            if limit != resource.RLIM_INFINITY:
                left.append(limit - used)
    return max(min(left) - _COMPILER, 0)


def check_addresses() -> None:
    """Refuses a limit of addresses (ulimit -v) under which jax dies without a message.

    Raises:
        ToysaeError: with the bytes that jax takes.
    """
    with suppress(ImportError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        require(
            limit == resource.RLIM_INFINITY or limit >= _JAX,
            f"this shell allows {size(limit)} of addresses (ulimit -v), and jax alone takes about "
            f"{size(_JAX)}: raise the limit",
        )


def _of_this_process(page: int) -> tuple[int, ...]:
    """The bytes of this process that are mapped, in memory, and in memory from files; 0 if the
    system does not say."""
    try:
        return tuple(int(n) * page for n in Path("/proc/self/statm").read_text().split()[:3])
    except OSError:
        return 0, 0, 0


def give_back() -> None:
    """Returns free memory of this process to the system, if the C library can."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _container_limits() -> list[int]:
    """The memory limits of this process's control groups, in either version of Linux's."""
    files = [_CGROUPS / "memory" / "memory.limit_in_bytes"]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            inside = PurePosixPath(path.lstrip("/"))
            for group in (inside, *inside.parents):
                if not kinds:
                    files.append(_CGROUPS / group / "memory.max")
                elif "memory" in kinds.split(","):
                    files.append(_CGROUPS / "memory" / group / "memory.limit_in_bytes")
    limits = []
    for file in files:
        with suppress(OSError, ValueError):  # missing, or "max"
            limits.append(int(file.read_text()))
    return limits


def check_bytes(what: str, needed: float, instead: str) -> None:
    """Refuses an allocation that would not fit.

    Args:
        what: needs the memory; the first words of the message.
        needed: bytes.
        instead: what to do, the last words of the message.

    Raises:
        ToysaeError: with the bytes that are needed and left.
    """
    left = host_bytes()
    if not left:
        instead = "raise the limit of its container or of its shell (ulimit)"
    require(
        needed <= left, f"{what} needs about {size(needed)} and {size(left)} are left: {instead}"
    )


def seconds_since_start() -> float:
    """The seconds since this process began; 0 if the system does not say."""
    try:
        began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK"), 0.0)
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
