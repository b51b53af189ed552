"""How much memory this process may take, whoever sets the limit."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from .disk import size
from .errors import require

_CGROUPS = Path("/sys/fs/cgroup")
_COMPILER = 2**28  # bytes: what compiling programs takes, and the allocator keeps
_JAX = 2**31  # bytes of addresses: its libraries and the stacks of its threads


def host_bytes() -> int:
    """What is left to this process of the least of the machine's memory, its container's and its
    own limits, less what the compiler may take."""
    page = os.sysconf("SC_PAGE_SIZE")
    mapped, resident, of_files = _of_this_process(page)
    held = [page * os.sysconf("SC_PHYS_PAGES"), *_container_limits()]
    private = resident - of_files  # what files hold is given up where memory runs short
    limits = [min(held) - private]
    with suppress(ImportError):
        import resource

        for kind, used in ((resource.RLIMIT_AS, mapped), (resource.RLIMIT_DATA, private)):
            limit = resource.getrlimit(kind)[0]
            if limit != resource.RLIM_INFINITY:
                limits.append(limit - used)
    return max(min(limits) - _COMPILER, 0)


def check_addresses() -> None:
    """Refuses a limit of addresses (ulimit -v) under which jax dies without a word.

    Raises:
        ToysaeError: saying how much it takes.
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
    """Bytes that it has mapped, that are in memory, and of these the files'; 0 where the system
    does not say."""
    try:
        return tuple(int(n) * page for n in Path("/proc/self/statm").read_text().split()[:3])
    except OSError:
        return 0, 0, 0


def give_back() -> None:
    """Gives memory that is free inside this process back to the system, where that can be asked."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _container_limits() -> list[int]:
    """Of the control groups that this process is in, in either version of Linux's."""
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
    found = []
    for file in files:
        with suppress(OSError, ValueError):  # not there, or "max"
            found.append(int(file.read_text()))
    return found


def check_bytes(what: str, needed: float, instead: str) -> None:
    """Refuses what would not fit, before it is allocated.

    Args:
        what: needs the memory, as a message begins.
        needed: bytes.
        instead: what to do.

    Raises:
        ToysaeError: saying how much it needs and how much is left.
    """
    left = host_bytes()
    if not left:
        instead = "raise the limit of its container or of its shell (ulimit)"
    require(
        needed <= left, f"{what} needs about {size(needed)} and {size(left)} are left: {instead}"
    )
