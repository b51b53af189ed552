"""How much memory this process may take, whoever sets the limit."""

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from .errors import require

_CGROUPS = Path("/sys/fs/cgroup")
_COMPILER = 2**27  # bytes: what compiling programs takes, and the allocator keeps


def host_bytes() -> int:
    """What is left to this process of the least of the machine's memory, its container's and its
    own limits, less what the compiler may take."""
    page = os.sysconf("SC_PAGE_SIZE")
    mapped, resident = _of_this_process(page)
    held = [page * os.sysconf("SC_PHYS_PAGES"), *_container_limits()]
    limits = [min(held) - resident]
    with suppress(ImportError):
        import resource

        for kind, used in ((resource.RLIMIT_AS, mapped), (resource.RLIMIT_DATA, resident)):
            limit = resource.getrlimit(kind)[0]
            if limit != resource.RLIM_INFINITY:
                limits.append(limit - used)
    return max(min(limits) - _COMPILER, 0)


def _of_this_process(page: int) -> tuple[int, int]:
    """Bytes that it has mapped, and that are in memory; 0 where the system does not say."""
    try:
        mapped, resident = Path("/proc/self/statm").read_text().split()[:2]
    except OSError:
        return 0, 0
    return int(mapped) * page, int(resident) * page


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
    require(
        needed <= left,
        f"{what} needs about {needed / 2**30:,.1f} GiB and {left / 2**30:,.1f} are left: {instead}",
    )
