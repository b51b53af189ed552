"""How much faster an experiment is done by several workers: `toysae run --launcher local:N`."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ToysaeError
from ..evaluation.measure import RecoveryScores
from ..lazy import pd
from ..sweeps.study import Study
from .against import thread_counts
from .engine import preset_cell
from .presets import Preset
from .timing import median, range_text, seconds_of
from .training import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FILE = "from toysae.bench.scaling import study as study\n"
_ONE_CORE = {"JAX_NUM_CPU_DEVICES": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Blocks:
    """Blocks of equal size: the same ensemble on a world of its own each.

    Attributes:
        n_blocks: how many.
        n_steps: of each.
        d_in: input dimension.
        n_features: of each world.
        d_sae: latents.
        n_members: SAEs in a block.
    """

    n_blocks: int = 8
    n_steps: int = 1000
    d_in: int = 64
    n_features: int = 128
    d_sae: int = 256
    n_members: int = 4

    @property
    def shape(self) -> Preset:
        """Of the ensemble that each block is."""
        return Preset("untied", self.d_in, self.n_features, self.d_sae, self.n_members)


study = Study(
    question="How much faster are several workers than one?",
    options=Blocks(),
    cells=lambda o: [
        preset_cell(o.shape, o.n_steps, RecoveryScores(n_eval=4096, curve_points=4), seed)
        for seed in range(o.n_blocks)
    ],
)
"""What is timed, as an experiment that every worker can load."""


@dataclass(frozen=True)
class Scaling:
    """One experiment by one worker and by several, each with one core.

    Attributes:
        blocks: their sizes; how many there are, and steps, are chosen by :meth:`time`.
        least_seconds: of training in all, so that starting the workers does not dominate.
    """

    blocks: Blocks = Blocks()
    least_seconds: float = 60.0

    def time(self, seconds: float, rounds: int) -> dict[str, Any]:
        """A row: seconds of the whole command by number of workers, in turns, and its speed-up
        compared with one worker. All blocks train for `seconds`, or for `least_seconds` if those
        are more."""
        numbers = thread_counts("cpu")
        n_blocks = math.lcm(8, *numbers)  # every worker has as many
        each = max(seconds, self.least_seconds) / n_blocks
        # Timed on all cores: on the one core of a worker they take at least as long.
        n_steps = Trainer(self.blocks.shape, each).chunk
        blocks = replace(self.blocks, n_blocks=n_blocks, n_steps=n_steps)
        timed: dict[str, list[float]] = {str(n): [] for n in numbers}
        for _ in range(rounds):
            for n in numbers:
                timed[str(n)].append(run_seconds(blocks, n))
        row: dict[str, Any] = {
            "shape": blocks.shape.shape, "blocks": n_blocks, "SAEs": n_blocks * blocks.n_members,
            "steps": n_steps,
        }  # fmt: skip
        for n in timed:
            speed_up = np.array(timed["1"]) / np.array(timed[n])
            row[f"{n} workers s"] = median(timed[n])
            row[f"speed-up {n}"] = median(speed_up, 3)
            row[f"low-high {n}"] = range_text(speed_up)
        return {**row, "rounds": timed}


def run_seconds(blocks: Blocks, n_workers: int) -> float:
    """Seconds of `toysae run` with this many workers of one core each, from its start to its end.

    Raises:
        ToysaeError: it failed, with its last line.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "equal_blocks.py"
        file.write_text(_FILE)
        options = [
            word
            for name, value in vars(blocks).items()
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        command = [sys.executable, "-P", "-m", "toysae", "run", str(file), *options, "--quiet",
                   "--out", f"{folder}/run", "--launcher", f"local:{n_workers}"]  # fmt: skip
        environment = {**os.environ, **_ONE_CORE}
        try:
            with on_cores(n_workers):
                return seconds_of(
                    lambda: (
                        subprocess.run(
                            command, env=environment, capture_output=True, text=True, check=True
                        ).returncode
                    )
                )
        except subprocess.CalledProcessError as error:
            words = error.stderr.strip().splitlines() or [str(error)]
            raise ToysaeError(f"toysae run failed: {words[-1]}") from error


@contextmanager
def on_cores(n: int) -> Iterator[None]:
    """Processes that start in the block share `n` cores, where the system can say so: a local
    launcher gives each of `n` workers one of them."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:n])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def workers_figure(timed: Mapping[str, Sequence[float]]) -> tuple[Figure, pd.DataFrame]:
    """Speed-up against the number of workers, with the line of perfect speed-up.

    Args:
        timed: seconds of every round by number of workers, "1" among them.

    Returns:
        The figure, and a frame with one row a number of `workers`: the median of `seconds`,
        the median `speed_up` compared with one worker in the same round, its `low` and `high`,
        and the number of `rounds`.
    """
    from ..plotting import style as st

    frame = pd.DataFrame([_speed_up(n, timed) for n in timed])
    with st.style():
        fig, axes = st.canvas(1, 1, (2.9, 2.6))
        ax, workers = axes[0, 0], frame["workers"].to_numpy(float)
        ax.plot(workers, workers, color="0.45", linestyle="--", label="perfect speed-up")
        error = [frame["speed_up"] - frame["low"], frame["high"] - frame["speed_up"]]
        ax.errorbar(
            workers, frame["speed_up"], yerr=error, capsize=2, label="measured", **st.nth(0)
        )
        ax.set_xticks(workers, [f"{n:g}" for n in workers])
        ax.set(xlabel="workers, each with one core", ylabel="speed-up", ylim=(0, None))
        n_rounds = int(frame["rounds"].iloc[0])
        st.footnote(fig, f"whole command; median, lowest and highest of {n_rounds} rounds")
        return st.legend(fig, "One experiment, several workers"), frame


def _speed_up(n: str, timed: Mapping[str, Sequence[float]]) -> dict[str, float]:
    speed_up = np.array(timed["1"]) / np.array(timed[n])
    return {
        "workers": int(n), "seconds": float(np.median(timed[n])),
        "speed_up": float(np.median(speed_up)), "low": speed_up.min(), "high": speed_up.max(),
        "rounds": len(speed_up),
    }  # fmt: skip
