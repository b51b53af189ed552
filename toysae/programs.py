"""Compiled programs that are kept between processes, in jax's compilation cache.

Any problem with the cache is printed in one line, and programs are compiled again.
"""

import gc
import os
import platform
import re
import sys
import warnings
from contextlib import suppress
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import jaxlib

from .disk import cache_dir
from .machine import give_back, host_bytes

MIN_SECONDS = 0.05
"""Programs that compile faster are not kept."""
MAX_BYTES = 4 * 2**30
"""What a folder may hold when a process begins: then the oldest programs are dropped. jax's own
limit (`jax_compilation_cache_max_size`) fails for ever where one entry lacks its time of access, as
all do that were kept without that limit."""

BRIEF: dict[str, bool] = {}
"""Compiler options of programs that run for less time than it takes to compile them.

Without its fusion emitters XLA compiles probes and scorers for a CPU in 64 to 79 % of the processor
time, and they take 7 to 15 % longer at d_in 256 (jax 0.10.2, two cores). Other devices do not read
the option, and a version of XLA that does not know it would refuse it.
"""
if jaxlib.__version__.startswith("0.10."):
    BRIEF["xla_cpu_use_fusion_emitters"] = False

_FAILED = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '(.*?)': (.*)", re.DOTALL
)


def folder() -> Path:
    """The folder for this version of jax and processors like this one, as programs of others may
    not run here."""
    return cache_dir() / "programs" / f"jax-{jax.__version__}-{_machine()}"


def keep_programs(path: Path | None = None) -> None:
    """Keeps compiled programs on disk, unless the environment or jax's own settings name a place.

    Args:
        path: where; :func:`folder` if not given. If nothing can be written there, a line says so,
            and programs are kept only in memory.
    """
    configured = jax.config.values.get("jax_compilation_cache_dir")
    if configured is not None and "://" not in configured and not _is_folder(Path(configured)):
        _say(f"programs are not kept in {configured}, which JAX_COMPILATION_CACHE_DIR names: it is "
             "not a folder, and none can be made there. Each process compiles them "
             "again")  # fmt: skip
        jax.config.update("jax_compilation_cache_dir", None)
        return
    if configured is None:
        try:
            path = folder() if path is None else path
            path.mkdir(parents=True, exist_ok=True)
            _try_to_write(path)
            drop_oldest(path)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
            where, why = path or "~/.cache/toysae", getattr(error, "strerror", None) or error
            _say(f"programs are not kept in {where} ({why}): each process compiles them again. Set "
                 "JAX_COMPILATION_CACHE_DIR to another folder")  # fmt: skip
            return
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    _report_failures()


def drop_oldest(path: Path) -> None:
    """Removes the oldest kept programs from a folder of more than :data:`MAX_BYTES`."""
    found = []
    for entry in path.glob("jit_*-cache"):  # as jax names them; other files stay
        with suppress(OSError):  # another process dropped it
            about = entry.stat()
            found.append((about.st_mtime, about.st_size, entry))
    total = sum(size for _, size, _ in found)
    for _, size, entry in sorted(found):
        if total <= MAX_BYTES:
            return
        with suppress(OSError):
            entry.unlink()
        total -= size


def forget_if_short(needed: int = 0) -> None:
    """Forgets all compiled programs of this process if it has too little room for more of them.

    Args:
        needed: bytes that are to stay free in addition to what compiling takes.
    """
    if host_bytes() < needed or many_maps():
        jax.clear_caches()
        gc.collect()
        give_back()


def many_maps(share: float = 0.8) -> bool:
    """Whether this process has more than a share of the memory maps that Linux allows it. Each
    program takes about ten, and with more than are allowed the process dies."""
    try:
        maps = len(Path("/proc/self/maps").read_bytes().splitlines())
        return maps > share * int(Path("/proc/sys/vm/max_map_count").read_text())
    except OSError:  # another system
        return False


def _is_folder(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


def _try_to_write(path: Path) -> None:
    probe = path / f".writable-{os.getpid()}"
    try:
        probe.write_bytes(b"1")
    finally:
        probe.unlink(missing_ok=True)


def _machine() -> str:
    """8 hex digits of the processor's architecture and features."""
    features = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):
        pass
    return sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]


def _report_failures() -> None:
    """Replaces jax's warnings, one at each entry that it cannot read or write, by one line."""
    show_before, reported = warnings.showwarning, set()
    if getattr(show_before, "reports_failures", False):
        return

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        failed = _FAILED.match(str(message))
        if failed is None:
            show_before(message, *args, **kwargs)
            return
        what, name, why = failed.groups()
        where = Path(jax.config.values["jax_compilation_cache_dir"])
        if what == "reading":
            _drop(where, name)
        if what not in reported:
            reported.add(what)
            why = " ".join(why.split())[:200]
            _say(
                f"a kept program is damaged ({name}: {why}): dropped from {where} and compiled "
                "again" if what == "reading" else
                f"a program could not be kept in {where} ({why}): the run goes on without"
            )  # fmt: skip

    show.reports_failures = True  # pyright: ignore[reportFunctionMemberAccess]
    warnings.showwarning = show
    warnings.filterwarnings("always", message="Error (reading|writing) persistent compilation")


def _drop(where: Path, name: str) -> None:
    """Removes all entries with a program's name, as jax does not say which of them is damaged."""
    for entry in where.glob(f"{escape(name)}-*-cache"):  # as jax names them; other files stay
        with suppress(OSError):
            entry.unlink()


def _say(line: str) -> None:
    print(f"toysae: {line}", file=sys.stderr, flush=True)
