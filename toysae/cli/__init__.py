"""The command line. It listens to signals as soon as this file is loaded, before anything large."""

import errno
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from ..watch import doing, watching


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the console script. Bad input gives one line on stderr and exit status 2, a signal one
    line and 128 plus its number."""
    args = list(sys.argv[1:] if argv is None else argv)
    command = shlex.join(["toysae", *(arg for arg in args if arg != "--fresh")])
    for stream in (sys.stdout, sys.stderr):  # a locale may lack some of our letters
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    after, alone = f"What was saved is kept. Go on with: {command}", argv is None
    with watching(after, until_exit=alone, at_once=True) as watch, _one_line_warnings():
        from .commands import execute

        try:
            if watch is not None:
                watch.at_once = False
            doing(f"running 'toysae {args[0]}'" if args else "working")
            execute(args)
        except KeyboardInterrupt as stop:
            what, status = str(stop) or "stopped", getattr(stop, "status", 130)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            what, status = f"cannot write: {error.strerror}. {after}", 2
        except MemoryError:
            what, status = f"the memory that this process may take does not suffice. {after}", 1
        except Exception:
            # Some libraries turn the interrupt into an error of their own.
            if watch is None or not watch.number:
                raise
            what, status = f"stopped. {after}", 128 + watch.number
        else:
            return
        remedy = "" if command in what else f". Go on with: {command}"
        print(f"toysae: {what}{remedy}", file=sys.stderr)
        if alone:
            # A device may still compute: jax must not be shut down meanwhile.
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):  # there is no room, or no reader
                    stream.flush()
            os._exit(status)
        raise SystemExit(status)


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Prints this package's warnings as one line each, without the place in its code."""
    plain, package = warnings.formatwarning, Path(__file__).parents[1]

    def line(message: Warning | str, category: type[Warning], filename: str, *more: Any) -> str:
        if Path(filename).is_relative_to(package):
            return f"toysae: warning: {message}\n"
        return plain(message, category, filename, *more)

    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = plain
