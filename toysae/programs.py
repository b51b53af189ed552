"""Where compiled programs are kept between processes: jax's compilation cache, by jax and machine.

It is a cache: whatever is wrong with it is said in one line, and programs are compiled again.
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

from .disk import cache_dir
from .machine import give_back, host_bytes

MIN_SECONDS = 0.05
"""Programs that compile faster are not kept."""

_FAILED = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '(.*?)': (.*)", re.DOTALL
)


def folder() -> Path:
    """For this jax on processors like this one's: others' programs may not run here."""
    return cache_dir() / "programs" / f"jax-{jax.__version__}-{_machine()}"


def keep_programs(path: Path | None = None) -> None:
    """Keeps compiled programs on disk, unless the environment or jax's own settings name a place.

    Args:
        path: where; :func:`folder` if not given. If nothing can be written there, that is said,
            and programs are kept in memory alone.
    """
    given = jax.config.values.get("jax_compilation_cache_dir")
    if given is not None and "://" not in given and not _is_folder(Path(given)):
        _say(f"programs are not kept in {given}, which JAX_COMPILATION_CACHE_DIR names: it is not "
             "a folder, and none can be made there. Each process compiles them anew")  # fmt: skip
        jax.config.update("jax_compilation_cache_dir", None)
        return
    if given is None:
        try:
            path = folder() if path is None else path
            path.mkdir(parents=True, exist_ok=True)
            _try_to_write(path)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
            where, why = path or "~/.cache/toysae", getattr(error, "strerror", None) or error
            _say(f"programs are not kept in {where} ({why}): they are compiled anew by each "
                 "process. Set JAX_COMPILATION_CACHE_DIR to another folder")  # fmt: skip
            return
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    _hear_of_failures()


def forget_if_short(needed: int = 0) -> None:
    """Forgets all compiled programs of this process where it has too little room for more of them.

    Args:
        needed: bytes that are to stay free beside what compiling takes.
    """
    if host_bytes() < needed or many_maps():
        jax.clear_caches()
        gc.collect()
        give_back()


def many_maps(share: float = 0.8) -> bool:
    """Whether this process has that share of the memory maps that Linux allows it, of which each
    program takes about ten: beyond them it dies."""
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


def _hear_of_failures() -> None:
    """jax warns at each entry that it cannot read or write, with the place in its own code."""
    shown, said = warnings.showwarning, set()
    if getattr(shown, "hears_of_failures", False):
        return

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        failed = _FAILED.match(str(message))
        if failed is None:
            shown(message, *args, **kwargs)
            return
        what, name, why = failed.groups()
        where = Path(jax.config.values["jax_compilation_cache_dir"])
        if what == "reading":
            _drop(where, name)
        if what not in said:
            said.add(what)
            why = " ".join(why.split())[:200]
            _say(
                f"a kept program is damaged ({name}: {why}): dropped from {where} and compiled "
                "again" if what == "reading" else
                f"a program could not be kept in {where} ({why}): the run goes on without"
            )  # fmt: skip

    show.hears_of_failures = True  # pyright: ignore[reportFunctionMemberAccess]
    warnings.showwarning = show
    warnings.filterwarnings("always", message="Error (reading|writing) persistent compilation")


def _drop(where: Path, name: str) -> None:
    """The entries of a program's name: which of them is damaged, jax does not say."""
    for entry in where.glob(f"{escape(name)}-*-cache"):  # as jax names them; others' files stay
        with suppress(OSError):
            entry.unlink()


def _say(line: str) -> None:
    print(f"toysae: {line}", file=sys.stderr, flush=True)
