"""toysae work: helps with a run that another process has begun, from any machine."""

import os
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from ..errors import require
from .options import positional, read_options
from .running import at_work
from .show import OUT

_LEFT_OUT = {"--out": 2, "--figures-dir": 2, "--launcher": 2, "--checkpoint-seconds": 2,
             "--fresh": 1, "--dry-run": 1, "--quiet": 1, "--other-versions": 1}  # fmt: skip
"""What is of the process that began, and how many words that is."""


@dataclass(frozen=True)
class WorkOptions:
    """What `toysae work` can be told.

    Attributes:
        checkpoint_seconds: how often what is in training is saved; 0 for every chunk.
        other_versions: also help processes that have another version of toysae or jax.
        quiet: no progress bar.
    """

    checkpoint_seconds: float = 60.0
    other_versions: bool = False
    quiet: bool = False


def again(command: Sequence[str], out: Path) -> list[str]:
    """The command by which another process makes the same cells in the same directory."""
    words, kept = list(command), []
    while words:
        n = _LEFT_OUT.get(words[0].partition("=")[0], 0)
        taken, words = words[: max(n, 1)], words[max(n, 1) :]
        if n == 2 and "=" in taken[0]:
            words = taken[1:] + words
        if not n:
            kept += taken
    return [*kept, "--out", str(out.absolute())]


def work(args: list[str]) -> None:
    """Takes blocks of a run's directory until none is left."""
    from ..runs.results import Results
    from .commands import execute

    path, rest = positional(args, "the directory of a run")
    o = read_options(WorkOptions, rest, "toysae work DIR")
    if not path:
        OUT.print("usage: toysae work DIR")
        return
    config = Results.load(path).config or {}
    command = [str(word) for word in config.get("command") or ()]
    require(
        "--out" in command,
        f"{path} does not say what it was made by: call the same run(...) in another process, "
        "which helps as well",
    )
    folder = str(config.get("folder", "."))
    own = ["--out", str(Path(path).absolute())]
    own += ["--checkpoint-seconds", str(o.checkpoint_seconds)]
    own += ["--quiet"] * o.quiet + ["--other-versions"] * o.other_versions
    command = [*command[: command.index("--out")], *own]
    token = at_work.set(True)
    try:
        with chdir(folder if os.path.isdir(folder) else "."):  # where relative paths are from
            execute(command)
    finally:
        at_work.reset(token)
