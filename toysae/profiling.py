"""Where the time of a process goes: what it was doing, and what jax traced and compiled meanwhile.

Phases are those of :func:`toysae.watch.doing`. Tracing is everything in Python from a function to
the program that XLA gets; compiling is XLA, or the time to load a program that was kept.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import jax

from . import watch
from .lazy import pd
from .machine import seconds_since_start
from .programs import MIN_SECONDS

_TRACING = ("/jax/core/compile/jaxpr_trace_duration",
            "/jax/core/compile/jaxpr_to_mlir_module_duration")  # fmt: skip
_COMPILING = "/jax/core/compile/backend_compile_duration"
_KEPT = "/jax/compilation_cache/cache_hits"
IMPORTING, PREPARING = "starting Python, imports", "preparing"

KINDS = ("tracing", "compiling", "running")
"""What the seconds of a phase are split into."""


@dataclass
class _Program:
    tracing: float = 0.0
    compiling: float = 0.0
    compiled: int = 0


@dataclass
class Profile:
    """The time of this process while it is open, and before: as a context manager, once.

    Attributes:
        phases: seconds by phase and kind of work, in the order in which the phases begin.
    """

    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    _programs: dict[str, _Program] = field(default_factory=lambda: defaultdict(_Program))
    _kept: int = 0
    _phase: str = PREPARING
    _since: float = 0.0
    _inside: float = 0.0
    """Seconds of this phase that were traced or compiled."""
    _events: list[tuple[float, float]] = field(default_factory=list)
    """Beginnings and ends of what was traced or compiled in this phase, none inside another."""

    def __enter__(self) -> Profile:
        global _open
        _listen()
        _open, self._since = self, time.perf_counter()
        self._seconds(IMPORTING)["running"] = seconds_since_start()
        watch.tell_phases(self._begin)
        return self

    def __exit__(self, *error: object) -> None:
        global _open
        self._begin("")
        watch.tell_phases(None)
        _open = None

    @property
    def n_compiled(self) -> int:
        """Programs that jax asked for, whether XLA compiled them or they had been kept."""
        return sum(program.compiled for program in self._programs.values())

    def table(self) -> pd.DataFrame:
        """Seconds by phase: in all, and of each kind."""
        if _open is self:
            self._begin(self._phase)
        rows = [
            {"phase": phase, "seconds": sum(kinds.values()), **kinds}
            for phase, kinds in self.phases.items()
        ]
        table = pd.DataFrame(rows, columns=["phase", "seconds", *KINDS])
        total = {"phase": "all", **table.drop(columns="phase").sum()}
        return pd.concat([table, pd.DataFrame([total])], ignore_index=True)

    def programs(self) -> pd.DataFrame:
        """Programs by name, those that took the most time first; `compiled` counts them."""
        rows = [
            {"program": name, "compiled": p.compiled, "seconds": p.tracing + p.compiling,
             "tracing": p.tracing, "compiling": p.compiling}
            for name, p in self._programs.items()
        ]  # fmt: skip
        columns = ["program", "compiled", "seconds", "tracing", "compiling"]
        return pd.DataFrame(rows, columns=columns).sort_values(
            ["seconds", "program"], ascending=[False, True], ignore_index=True
        )

    def summary(self) -> str:
        """A line: how many programs, and what they cost of the whole."""
        total = self.table().iloc[-1]
        share = (total["tracing"] + total["compiling"]) / total["seconds"]
        return (
            f"{self.n_compiled} programs, {self._kept} of them loaded from the cache on disk, took "
            f"{share:.0%} of {total['seconds']:.1f} s; those that compile in less than "
            f"{MIN_SECONDS:g} s are not kept there"
        )

    def _seconds(self, phase: str) -> dict[str, float]:
        return self.phases.setdefault(phase, dict.fromkeys(KINDS, 0.0))

    def _begin(self, phase: str) -> None:
        """Ends a phase and begins another."""
        now = time.perf_counter()
        self._seconds(self._phase)["running"] += now - self._since - self._inside
        self._phase, self._since, self._inside = phase, now, 0.0
        self._events.clear()

    def _add(self, event: str, seconds: float, name: str) -> None:
        end = time.perf_counter()
        begin, nested = end - seconds, 0.0
        # A function is traced inside another, and is then counted as itself alone.
        while self._events and self._events[-1][0] >= begin:
            first, last = self._events.pop()
            nested += last - first
        self._events.append((begin, end))
        kind = "compiling" if event == _COMPILING else "tracing"
        own = max(seconds - nested, 0.0)
        self._inside += own
        self._seconds(self._phase)[kind] += own
        program = self._programs[name]
        setattr(program, kind, getattr(program, kind) + own)
        program.compiled += kind == "compiling"


_open: Profile | None = None
_listening = False


def _listen() -> None:
    """Hears of all that jax traces and compiles, from the first profile of this process on."""
    global _listening
    if _listening:
        return
    _listening = True

    def duration(event: str, duration_secs: float, **about: Any) -> None:
        if _open is not None and (event in _TRACING or event == _COMPILING):
            name = str(about.get("fun_name", ""))
            _open._add(event, duration_secs, name.removeprefix("jit(").removesuffix(")"))

    def happened(event: str, **about: Any) -> None:
        if _open is not None and event == _KEPT:
            _open._kept += 1

    jax.monitoring.register_event_duration_secs_listener(duration)
    jax.monitoring.register_event_listener(happened)
