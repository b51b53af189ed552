"""Ctrl-C and SIGTERM as a request: a run stops at the next edge of a chunk."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .progress import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop, and can go on.

    Attributes:
        status: what the process should exit with: 128 and the number of the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


class Request:
    """Whether a run should stop.

    Attributes:
        number: of the signal that asked for it; 0 for none.
    """

    number: int = 0


@contextmanager
def stop_requests() -> Iterator[Request]:
    """Takes both signals for the block, in the main thread; a second one ends the process at once.

    The thread that calls into compiled programs cannot look at a signal before they return, so
    another thread does.
    """
    request = Request()
    taken = [s for s in SIGNALS if signal.getsignal(s) not in (signal.SIG_IGN, None)]
    if threading.current_thread() is not threading.main_thread() or not taken:
        yield request
        return
    reads, writes = socket.socketpair()
    writes.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in taken}
    fd_before = signal.set_wakeup_fd(writes.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reads, request, taken), daemon=True).start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        writes.close()


def _listen(reads: socket.socket, request: Request, taken: list[signal.Signals]) -> None:
    with reads:
        while heard := reads.recv(1):
            number = heard[0]
            if number not in taken:
                continue
            if request.number:
                if sys.stderr.isatty():  # a progress bar may have hidden it
                    with suppress(OSError):
                        os.write(sys.stderr.fileno(), _SHOW_CURSOR.encode())
                os._exit(128 + number)
            request.number = number
            say("stopping at the end of this chunk, in about 10 s at most; once more stops at once")
