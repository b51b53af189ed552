"""toysae work: helps with a run that another process has begun, on any machine."""

import os
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from ..errors import require
from .options import positional, read_options
from .running import at_work
from .show import OUT


@dataclass(frozen=True)
class WorkOptions:
    """Options of `toysae work`.

    Attributes:
        checkpoint_seconds: how often training is saved; 0 for every chunk.
        other_versions: also help processes that have another version of toysae or jax.
        quiet: no progress bar.
    """

    checkpoint_seconds: float = 60.0
    other_versions: bool = False
    quiet: bool = False


def work(args: list[str]) -> None:
    """Trains blocks of a run's directory until none is left."""
    from ..runs.results import Results
    from .lm import lm
    from .run import run_command

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
        with chdir(folder if os.path.isdir(folder) else "."):  # relative paths start there
            (lm if command[0] == "lm" else run_command)(command[1:])
    finally:
        at_work.reset(token)
