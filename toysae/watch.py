"""A watch over Ctrl-C, SIGTERM and silence, in a thread: the main thread may be stuck.

Python runs a signal's handler between two of its own instructions, which never come while a
program compiles or a call into the device does not return. So another thread hears the signals,
gives the main thread :data:`GRACE_SECONDS` to stop by itself, and then ends the process. It also
tells the user when nothing has ended for far longer than it should take.

Only the standard library is imported here, so that it works before jax is loaded.
"""

import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 9.0
"""The longest time from a signal to the end of the process, if there is something to save."""
_SHORT_GRACE_SECONDS = 4.0  # if there is nothing to save

_SILENCE_SECONDS = 60.0  # nothing is called stuck before
_FAR_LONGER = 20  # times the usual duration
_IDLE_SECONDS, _IDLE_SHARE = 20.0, 0.02  # a process is idle if it uses so little of a core so long
_TICK = 0.5
_SHOW_CURSOR = "\x1b[?25h"


class Stopped(KeyboardInterrupt):
    """Work was stopped by a signal and can go on later.

    Attributes:
        status: the exit status of the process: 128 plus the number of the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


@dataclass
class _Activity:
    what: str
    usual: float
    since: float = field(default_factory=time.monotonic)


_about: list[str] = []
_now = _Activity("starting", 10.0)


_phase_began: Callable[[str], None] | None = None


def doing(what: str, usual_seconds: float = 60.0, phase: str = "preparing") -> None:
    """Notes what this process does from now on, for messages.

    Args:
        what: words that follow "while": "compiling", "steps 100 to 200 of 5,000".
        usual_seconds: about how long it should take.
        phase: of the run, for :mod:`toysae.profiling`.
    """
    global _now
    _now = _Activity(f"{_about[-1]}: {what}" if _about else what, usual_seconds)
    if _phase_began is not None:
        _phase_began(phase)


def tell_phases(began: Callable[[str], None] | None) -> None:
    """Has every phase told to a function as it begins; None ends that."""
    global _phase_began
    _phase_began = began


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Puts `subject` before everything that is noted in the `with` block."""
    _about.append(subject)
    try:
        yield
    finally:
        _about.pop()


class Request:
    """Whether the main thread should stop.

    Attributes:
        number: of the signal that asked for it; 0 for none.
    """

    number: int = 0


class Watch:
    """Hears both signals while it is open. A process has one, see :func:`watching`.

    Args:
        after: sentences that say what is kept and how to go on.
        at_once: see the attribute.

    Attributes:
        speaks: whether this process prints messages; of many, one does.
        number: of the first signal; 0 for none.
        at_once: whether a signal ends the process right away, as nothing can be lost.
        request: where a signal is noted; if None it is raised in the main thread.
    """

    def __init__(self, after: str, at_once: bool = False):
        self.after, self.speaks = after, True
        self.number, self.at_once = 0, at_once
        self.request: Request | None = None
        self._deadline: float | None = None
        self._ears, self._voice = socket.socketpair()
        self._voice.setblocking(False)
        self._taken = [s for s in SIGNALS if signal.getsignal(s) not in (signal.SIG_IGN, None)]
        self._fd_before = signal.set_wakeup_fd(self._voice.fileno(), warn_on_full_buffer=False)
        self._cpu = [(time.monotonic(), time.process_time())]
        threading.Thread(target=self._listen, daemon=True, name="toysae watch").start()
        self._swallowed, self._hook_before = 0, sys.unraisablehook
        sys.unraisablehook = self._unraisable
        self._before = self.take()

    def take(self) -> dict[signal.Signals, Any]:
        """Takes the signals, if need be from a library that has taken them since, as
        jax.distributed does. Returns their former handlers."""
        return {s: signal.signal(s, self._in_main_thread) for s in self._taken}

    def close(self, disarm: bool = True) -> None:
        """Restores the handlers. Without `disarm`, a process that was asked to stop still ends."""
        signal.set_wakeup_fd(self._fd_before)
        sys.unraisablehook = self._hook_before
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if disarm or not self.number:
            self._voice.close()

    def say(self, line: str) -> None:
        """Prints a line on stderr without waiting for a lock that the main thread may hold."""
        if self.speaks:
            cursor = _SHOW_CURSOR if _is_terminal() else ""  # a progress bar may have hidden it
            with suppress(OSError):  # stderr may have no reader
                if not select.select([], [2], [], 0.5)[1]:
                    return
                os.write(2, f"{cursor}toysae: {line}\n".encode())

    def _in_main_thread(self, number: int, frame: object) -> None:
        if self.request is None and not self.at_once:
            raise Stopped(f"stopped {_while()}. {self.after}", number)

    def _unraisable(self, what: Any) -> None:
        """Sends a signal again that was raised in a finaliser or a callback of Python's collector,
        where Python drops it."""
        if not isinstance(what.exc_value, Stopped):
            self._hook_before(what)
            return
        self._swallowed += 1
        main, number = threading.main_thread().ident, what.exc_value.status - 128
        threading.Timer(0.05, signal.pthread_kill, (main, number)).start()

    def _listen(self) -> None:
        spoken = 0.0
        with self._ears:
            while True:
                ready, _, _ = select.select([self._ears], [], [], _TICK)
                if ready:
                    heard = self._ears.recv(1)
                    if not heard:
                        return
                    self._hear(heard[0])
                elif self._deadline is not None and time.monotonic() > self._deadline:
                    self._overdue()
                else:
                    spoken = self._notice(spoken)

    def _hear(self, number: int) -> None:
        if number not in self._taken:
            return
        if self._swallowed:  # not another signal
            self._swallowed -= 1
            return
        if self.number and _is_interactive() and self._deadline is not None:
            return  # it has not been said yet that this would end the whole process
        if self.number or self.at_once:
            self._end(number)
        grace = _SHORT_GRACE_SECONDS if self.request is None else GRACE_SECONDS
        self.number, self._deadline = number, time.monotonic() + grace
        if self.request is not None:
            self.request.number = number
            self.say("stopping at the end of this chunk, within 10 s; once more stops at once")

    def _overdue(self) -> None:
        self._deadline = None
        if not _is_interactive():
            self._end(self.number)
        self.say(f"stopping does not come back {_while()}: once more ends this whole process")

    def _end(self, number: int) -> None:
        self.say(f"stopped {_while()}. {self.after}")
        if faulthandler.is_enabled():
            faulthandler.dump_traceback(all_threads=True)
        os._exit(128 + number)

    def _notice(self, spoken: float) -> float:
        """Prints that nothing ends, if so. Returns the silence after which it prints it again."""
        now, cpu = time.monotonic(), time.process_time()
        if now - self._cpu[-1][0] > 10 * _TICK:  # the whole process was stopped, by Ctrl-Z say
            _now.since, self._cpu = now, [(now, cpu)]
        silent = now - _now.since
        self._cpu = [p for p in self._cpu if now - p[0] <= _IDLE_SECONDS + 2 * _TICK]
        self._cpu.append((now, cpu))
        span = now - self._cpu[0][0]
        idle = span >= _IDLE_SECONDS and cpu - self._cpu[0][1] < _IDLE_SHARE * span
        if silent < _SILENCE_SECONDS:
            return 0.0
        if self.request is None or silent < spoken:
            return spoken
        if not idle and silent < _FAR_LONGER * _now.usual:
            return spoken
        why = "uses no processor time" if idle else f"should take about {_now.usual:.0f} s"
        self.say(
            f"nothing has ended for {silent:.0f} s {_while()}, which {why}: it may be stuck. "
            f"Ctrl-C ends it within 10 s. {self.after} (JAX_NUM_CPU_DEVICES=1 in the environment "
            "rules out that devices wait for each other)"
        )
        return 2 * silent


_open: Watch | None = None


@contextmanager
def watching(after: str, until_exit: bool = False, at_once: bool = False) -> Iterator[Watch | None]:
    """Hears signals during the `with` block. Gives None in other threads than the main one, which
    cannot hear them.

    Args:
        after: sentences that say what is kept after a stop and how to go on.
        until_exit: whether the process ends with the block, and is ended if it is stuck then.
        at_once: see :class:`Watch`, whose attribute can be changed later.
    """
    global _open
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    if _open is not None:
        yield _open
        return
    _open = watch = Watch(after, at_once)
    try:
        yield watch
    finally:
        _open = None
        watch.close(disarm=not until_exit)


def take_again() -> None:
    """Takes the signals again after a library may have taken them, if this process is watched."""
    if _open is not None:
        _open.take()


@contextmanager
def stop_requests(speaks: bool = True) -> Iterator[Request]:
    """Turns signals in the `with` block into a request, to be looked at where stopping is cheap.

    Args:
        speaks: whether this process prints messages; of many, one does.
    """
    request = Request()
    with watching("What was saved is kept: the same call goes on") as watch:
        if watch is None:
            yield request
            return
        before, watch.request, watch.speaks = watch.request, request, speaks
        watch.take()
        try:
            yield request
        finally:
            watch.request = before


def _while() -> str:
    return f"while {_now.what} (for {time.monotonic() - _now.since:.0f} s)"


def _is_interactive() -> bool:
    """Whether the process holds more than this run: a notebook's kernel, or a prompt."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def _is_terminal() -> bool:
    try:
        return os.isatty(2)
    except OSError:
        return False
