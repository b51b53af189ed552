"""Throughput of training, sampling and scoring, against this machine's matmul rate in the same
run."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..disk import write
from ..errors import require, unknown
from ..sweeps.provenance import provenance
from .matmul import matmul_rate
from .sampling import WORLD_PRESETS, time_world
from .scoring import SCORING_PRESETS, time_scoring
from .training import PRESETS, RECIPE_PRESETS, time_preset, time_recipe


@dataclass(frozen=True)
class BenchOptions:
    """What to time.

    Attributes:
        preset: names of presets; all of plain training if none is given. "worlds" stands for
            all of sampling, "recipes" for every recipe beside the plain SAE at two sizes, "scoring"
            for what scoring costs beside training.
        seconds: about how long each round of timing lasts.
        rounds: rounds; the median is reported, matmul and training alternate.
        out: a JSON file for the numbers with their provenance.
    """

    preset: tuple[str, ...] = ()
    seconds: float = 2.0
    rounds: int = 5
    out: Path | None = None


def bench(options: BenchOptions) -> pd.DataFrame:
    """Times the presets, alternating with the matmul rate.

    A step's FLOPs are counted as its five products of 2 * batch * d_in * d_sae (encode,
    decode, two weight gradients, one gradient to z), nothing else.

    Raises:
        ToysaeError: an unknown preset, or a number that is not positive.
    """
    require(options.seconds > 0, f"seconds {options.seconds} must be more than 0")
    require(options.rounds >= 1, f"rounds {options.rounds} must be at least 1")
    kinds = {"worlds": WORLD_PRESETS, "recipes": RECIPE_PRESETS, "scoring": SCORING_PRESETS}
    given = options.preset or tuple(PRESETS)
    names = [name for one in given for name in kinds.get(one, (one,))]
    timers = {
        **dict.fromkeys(PRESETS, time_preset),
        **dict.fromkeys(WORLD_PRESETS, time_world),
        **dict.fromkeys(RECIPE_PRESETS, time_recipe),
        **dict.fromkeys(SCORING_PRESETS, time_scoring),
    }
    for name in names:
        if name not in timers:
            raise unknown("preset", name, [*PRESETS, *kinds, *timers])
    seconds, rounds = options.seconds, options.rounds
    frame = pd.DataFrame([timers[name](name, seconds, rounds) for name in names])
    frame.attrs["import_s"] = import_seconds()
    print(f"import toysae: {frame.attrs['import_s']:.2f} s", file=sys.stderr)
    if options.out is not None:
        record = {"rows": frame.to_dict("records"), "import_s": frame.attrs["import_s"]}
        record |= provenance() | {"command": " ".join(["toysae", *sys.argv[1:]])}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write(options.out, lambda p: p.write_text(json.dumps(record, indent=1) + "\n"))
    return frame


def import_seconds() -> float:
    """How long `import toysae` takes in a new process, in seconds."""
    code = "import time; t = time.perf_counter(); import toysae; print(time.perf_counter() - t)"
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    )


__all__ = ["BenchOptions", "bench", "matmul_rate"]
