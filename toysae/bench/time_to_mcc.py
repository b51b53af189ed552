"""What a user waits for: from starting Python until an SAE has found the features.

Each run is a new process that imports, builds its world, compiles and trains, and looks after
every so many steps whether MCC (mean |cos| under one-to-one matching, as SAELens defines it)
has reached the target. Ours runs twice: with an empty compilation cache, and with the one that
the first of the two left.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..recovery import cosines, mcc
from ..training import advance, start, trained
from .against import SAELENS, WORKER, fastest, spread, their_world, thread_counts
from .presets import Preset, group_of
from .protocol import Child


@dataclass(frozen=True)
class Race:
    """One race to the features.

    Attributes:
        preset: shape, batch and world.
        ours: our `l1_coeff` and `lr`, constant.
        theirs: SAELens' `l1` and `lr`, constant.
        target: MCC to reach.
        every: steps from one look to the next.
        most: steps after which a run counts as failed.
    """

    preset: Preset
    ours: Mapping[str, float]
    theirs: Mapping[str, float]
    target: float = 0.99
    every: int = 100
    most: int = 10_000


RACES = {
    "time-to-mcc": Race(
        Preset("untied", 64, 128, 128, 1, 1024, l0=2.0),
        ours={"l1_coeff": 0.2, "lr": 3e-3},
        theirs={"l1": 0.2, "lr": 3e-3},
    ),
}


def train_to_mcc(
    preset: dict[str, Any], numbers: dict[str, float], target: float, every: int, most: int
) -> dict[str, Any]:
    """Trains one SAE until it has found the features, or for `most` steps."""
    group = group_of(Preset(**preset), numbers)
    state, truth = start(group), group.worlds.target[0]
    steps, found = 0, 0.0
    while not found >= target and steps < most:
        steps += every
        state = advance(state, group, jnp.int32(steps), jnp.float32(most))
        sae = trained(state, group)
        found = mcc(cosines(truth, sae.W_dec[0, 0]), absolute=True)
    return {"steps": steps, "mcc": found}


def race(
    name: str, rounds: int, against: bool, peer: str | Sequence[str] = SAELENS
) -> list[dict[str, Any]]:
    """Seconds until the features are found, a row for each way there, in turns.

    Args:
        name: a row of `RACES`.
        rounds: runs of each.
        against: SAELens too, and how many times longer it takes.
        peer: what the other child runs.
    """
    r = RACES[name]
    goal = {"target": r.target, "every": r.every, "most": r.most}
    ours = {"preset": asdict(r.preset), "numbers": dict(r.ours), **goal}
    runs: dict[str, list[dict[str, Any]]] = {"ours, empty cache": [], "ours, warm cache": []}
    with TemporaryDirectory() as folder:
        rival = None
        if against:
            rival, runs["sae-lens"] = _rival(r, Path(folder), peer), []
        for i in range(rounds):
            cache = {
                "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / f"cache-{i}"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
            }
            for kind in ("ours, empty cache", "ours, warm cache"):
                runs[kind].append(_cold(WORKER, cache, ours))
            if rival is not None:
                runs["sae-lens"].append(_cold(peer, {}, rival | goal))
    return [_row(name, r, kind, runs) for kind in runs]


def _cold(
    module: str | Sequence[str], env: Mapping[str, str], case: Mapping[str, Any]
) -> dict[str, Any]:
    """One run, from starting its process."""
    with Child(module, env) as child:
        ended = child.ask("to_mcc", **case)
        return {"seconds": child.age(), **ended}


def _rival(r: Race, folder: Path, peer: str | Sequence[str]) -> dict[str, Any]:
    """What SAELens is told: the world, its numbers, and the threads it is fastest with."""
    path = folder / "world.npz"
    with Child(WORKER) as ours:
        ours.ask("open", preset=asdict(r.preset))
        ours.ask("save_world", path=str(path))
    told = their_world(r.preset, path, dict(r.theirs))
    with Child(peer) as theirs:
        device = theirs.ask("open", **told)["device"]
        plain = {"sparse": False, "autocast": False, "autocast_data": False}
        best = fastest(theirs, [{"threads": n, **plain} for n in thread_counts(device)])
    return {**told, "threads": best["threads"]}


def _row(name: str, r: Race, kind: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    def seconds(kind: str) -> np.ndarray:
        """Of each run; NaN where the features were not found."""
        return np.array([
            run["seconds"] if run["mcc"] >= r.target else math.nan for run in runs[kind]
        ])  # fmt: skip

    taken = seconds(kind)
    row = {
        "preset": name,
        "shape": r.preset.shape,
        "run": kind,
        f"s to MCC {r.target}": round(float(np.median(taken)), 2),
        "low-high": spread(taken),
        "steps": int(np.median([run["steps"] for run in runs[kind]])),
        "MCC": round(float(np.median([run["mcc"] for run in runs[kind]])), 4),
    }
    if "sae-lens" in runs:
        ratios = seconds("sae-lens") / taken
        row |= {"sae-lens / this": round(float(np.median(ratios)), 2), "ratios": spread(ratios)}
    return row | {"rounds": runs[kind]}
