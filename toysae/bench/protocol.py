"""A child process that answers requests, one line of JSON each, and is stopped in between.

Each side of a comparison has a process of its own, so that they share neither memory nor threads,
and a stopped process cannot busy-wait. This file loads no library, so that a child imports only
what it uses.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ToysaeError


class Child:
    """A child process, as its parent uses it.

    Args:
        module: that the child runs and that calls :func:`serve`, or a whole command.
        env: environment variables besides the parent's.
    """

    def __init__(self, module: str | Sequence[str], env: Mapping[str, str] | None = None):
        command = [sys.executable, "-P", "-m", module] if isinstance(module, str) else list(module)
        self.name = command[-1]
        self._begun = time.perf_counter()
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in __exit__)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, **(env or {})},
        )

    def ask(self, do: str, **request: Any) -> Any:
        """Returns what the child's function `do` returns; the child runs only until then.

        Raises:
            ToysaeError: the function raised an error, or the child ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ToysaeError(f"{self.name} ended at {do!r}, {self._last_words()}")
        self._process.send_signal(signal.SIGSTOP)
        answer = json.loads(line)
        if "error" in answer:
            raise ToysaeError(f"{self.name} failed at {do!r}: {answer['error']}")
        return answer["result"]

    def age(self) -> float:
        """Seconds since just before the child was started."""
        return time.perf_counter() - self._begun

    def _last_words(self) -> str:
        """The exit status and the last line of a child that ended."""
        status = self._process.wait()
        self._stderr.seek(0)
        words = [line.strip() for line in self._stderr if line.strip()]
        return f"exit status {status}: {words[-1] if words else 'nothing on stderr'}"

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # it has nothing to save, and may be stopped
        self._process.communicate()
        self._stderr.close()


def serve(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Answers requests in the child until the parent closes its standard input.

    What the functions print goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": functions[request.pop("do")](**request)}
        except Exception as error:  # of any kind: the parent reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def peak_resident_bytes() -> int:
    """The most memory of the host that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts the parent's memory before exec too
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
