"""What compiling costs a user: whole runs of a small experiment, by `toysae run --profile`.

Each round runs it twice in new processes: with an empty compilation cache, and with what the first
run left in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import ToysaeError
from ..lazy import pd
from .timing import median, range_text

_FILE = """
from toysae import Experiment

experiment = Experiment(
    "How long does a first run take?", d_in=16, ratios=(1, 2), l0=3.0, recipes=("tied", "untied"),
    inits=("random", "svd"), l1_coeff=(0.06, 0.25), world_seeds=2, firings_per_feature=800,
    n_eval=2048, curve_points=8, lr=3e-3, lr_decay=0.3, figures=("mmcs_by_ratio",),
)
"""
"""The first experiment of the README at its smoke size."""

CACHES = ("cold", "warm")


@dataclass(frozen=True)
class Compiling:
    """The experiment that is run, as a file."""

    file: str = _FILE

    def time(self, seconds: float, rounds: int) -> dict[str, Any]:
        """A row: the programs, and for either state of the cache the seconds of the whole run, and
        of tracing and compiling in it. How long a round takes is not up to `seconds`."""
        timed: dict[str, list[float]] = {}
        programs = 0
        for _ in range(rounds):
            with TemporaryDirectory() as folder:
                for cache in CACHES:
                    total, programs = run_profile(Path(folder), self.file)
                    for kind in ("seconds", "tracing", "compiling"):
                        timed.setdefault(f"{cache} {kind}", []).append(float(total[kind]))
        row: dict[str, Any] = {
            "shape": "48 SAEs: 2 ratios, 2 recipes, 2 inits and the truth",
            "programs": programs,
        }
        for cache in CACHES:
            whole = timed[f"{cache} seconds"]
            row[f"{cache} s"], row[f"{cache} low-high"] = median(whole), range_text(whole)
            for kind in ("tracing", "compiling"):
                row[f"{cache} {kind} s"] = median(timed[f"{cache} {kind}"])
        return {**row, "rounds": timed}


def run_profile(folder: Path, experiment: str) -> tuple[pd.Series, int]:
    """Runs an experiment in a new process, with its cache in a folder, and returns the last row of
    its profile and the number of its programs.

    Raises:
        ToysaeError: it failed, with its last line.
    """
    file = folder / "first.py"
    file.write_text(experiment)
    out = folder / f"run-{len(list(folder.iterdir()))}"
    without = ("JAX_ENABLE_COMPILATION_CACHE", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    command = [sys.executable, "-P", "-m", "toysae", "run", str(file), "--quiet", "--profile",
               "--out", str(out)]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        raise ToysaeError(f"toysae run failed: {words[-1]}")
    table = pd.read_csv(out / "figures" / "profile.csv")
    programs = pd.read_csv(out / "figures" / "programs.csv")
    return table.iloc[-1], int(programs["compiled"].sum())
