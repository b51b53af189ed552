"""Training compared with SAELens': the same shape, batch and world, each in a process of its own,
in turns."""

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..errors import require
from ..sae import RECIPES
from .presets import BENCH_PRESETS, GPU_PRESETS, GRID_PRESETS, Preset
from .protocol import Child
from .timing import median, range_text

WORKER, SAELENS = "toysae.bench.worker", "toysae.bench.saelens"
UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
"""Makes a child compile anew, so that compiling is timed and not reading from a cache."""

COMPARED = {
    name: p
    for name, p in (BENCH_PRESETS | GPU_PRESETS | GRID_PRESETS).items()
    if p.recipe == "untied" and p.arithmetic == "float32"  # both ways are timed of each
}
"""The presets whose SAE is SAELens' standard one: an encoder of its own, ReLU, L1."""

_KINDS = {"float32": "float32", "bfloat16": "bf16", "sparse": "sparse"}
"""Our arithmetics in the words of the columns; SAELens has no sparse steps."""

_TRIAL_S = 0.3
_APART = 0.2
"""A machine on which the halves of a round differ by more than this share does other work too."""

Way = dict[str, Any]
"""How SAELens runs: its threads, autocasts and sparse tensors."""


def require_saelens() -> None:
    """Raises:
    ToysaeError: SAELens or torch is not installed.
    """
    missing = [name for name in ("sae_lens", "torch") if find_spec(name) is None]
    require(
        not missing,
        f"--against sae-lens needs {' and '.join(missing)}: pip install -e '.[peers]'",
    )


def cores() -> int:
    """The number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def thread_counts(device: str) -> list[int]:
    """The numbers of threads to try: powers of two up to the number of cores, and that number; on a
    GPU that number alone."""
    n = cores()
    return [n] if device == "cuda" else sorted({2**i for i in range(n.bit_length())} - {0} | {n})


def fastest(theirs: Child, ways: Sequence[Way]) -> Way:
    """The way whose steps take the least time in the best of three trials each, in turns."""

    def steps(way: Way) -> int:
        theirs.ask("train", n_steps=2, **way)  # the first steps allocate
        return max(int(_TRIAL_S * 3 / theirs.ask("train", n_steps=3, **way)), 3)

    n_steps = [steps(way) for way in ways]
    trials = [
        [theirs.ask("train", n_steps=n, **way) / n for n, way in zip(n_steps, ways, strict=True)]
        for _ in range(3)
    ]
    return ways[int(np.argmin(np.min(trials, 0)))]


def best_ways(theirs: Child, device: str) -> dict[str, Way]:
    """SAELens' fastest ways in float32 and under bfloat16 autocast."""
    threads = thread_counts(device)
    plain = [
        {"threads": n, "sparse": sparse, "autocast": False, "autocast_data": False}
        for n, sparse in itertools.product(threads, (False, True))
    ]
    float32 = fastest(theirs, plain)
    cast = [
        {"threads": n, "sparse": float32["sparse"], "autocast": True, "autocast_data": data}
        for n, data in itertools.product(threads, (False, True))
    ]
    return {"float32": float32, "bf16": fastest(theirs, cast)}


def their_world(p: Preset, path: Path, l1_coeff: float, lr: float) -> dict[str, Any]:
    """The arguments with which SAELens' child opens a preset, whose directions are in the file
    `path`."""
    return {
        "world": p.world, "path": str(path), "d_sae": p.d_sae, "batch_size": p.batch_size,
        "l0": p.l0, "l1_coeff": l1_coeff, "lr": lr,
    }  # fmt: skip


@dataclass(frozen=True)
class _Side:
    """One library's child, and how it trains in each arithmetic.

    Attributes:
        child: its process.
        samples: SAE-samples of a step.
        ways: what its `train` is asked, by arithmetic.
        half: steps of half a round, by arithmetic.
    """

    child: Child
    samples: int
    ways: Mapping[str, Way]
    half: Mapping[str, int]

    @classmethod
    def paced(cls, child: Child, samples: int, ways: Mapping[str, Way], seconds: float) -> "_Side":
        """Whose rounds take about `seconds`."""

        def half(way: Way) -> int:
            return max(int(seconds / 2 * 5 / child.ask("train", n_steps=5, **way)), 1)

        return cls(child, samples, ways, {kind: half(way) for kind, way in ways.items()})

    def rate(self, kind: str) -> float:
        """SAE-samples/s of half a round."""
        n_steps = self.half[kind]
        return n_steps * self.samples / self.child.ask("train", n_steps=n_steps, **self.ways[kind])


def steady_rounds(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The rates of several sides in so many rounds, in each of which all take turns twice.

    A round in which the two rates of a side differ by more than 20 % is run again; as many as
    `rounds` may be.

    Raises:
        ToysaeError: more than that were disturbed.
    """
    raw: dict[str, list[float]] = {name: [] for name in sides}
    disturbed = 0
    while len(next(iter(raw.values()))) < rounds:
        first = {name: rate() for name, rate in sides.items()}
        second = {name: rate() for name, rate in sides.items()}
        worst = max(sides, key=lambda name: abs(math.log(first[name] / second[name])))
        low, high = sorted((first[worst], second[worst]))
        if high > (1 + _APART) * low:
            disturbed += 1
            require(
                disturbed <= rounds,
                f"this machine is busy: in {disturbed} rounds of {disturbed + len(raw[worst])} the "
                f"halves differ by more than {_APART:.0%}, in the last {worst} trained at "
                f"{low / 1e3:.4g} and at {high / 1e3:.4g} k samples/s. Stop what else runs here, "
                "or let a round take longer: --seconds 10",
            )
            continue
        for name in sides:
            raw[name].append(2 / (1 / first[name] + 1 / second[name]))
    return raw


def time_against(
    name: str, seconds: float, rounds: int, peer: str | Sequence[str] = SAELENS
) -> dict[str, Any]:
    """Returns a row: SAE-samples/s of a preset, of SAELens with one SAE of that shape, and ratios.

    Each round trains ours and SAELens' for about `seconds` each, in two halves and in turns, in
    float32 and with bfloat16 factors (SAELens: under autocast), and ours also in sparse steps,
    where they can be had. Ratios are medians over rounds, with the lowest and the highest: of equal
    arithmetic (sparse steps are in float32), and of our fastest one to SAELens' faster one.

    Args:
        name: of a preset in `COMPARED`.
        seconds: of each, in a round.
        rounds: how many.
        peer: the module or command of the other child.

    Raises:
        ToysaeError: the machine is busy, see :func:`steady_rounds`; a child failed.
    """
    p = COMPARED[name]
    toy = RECIPES[p.recipe].toy
    with (
        TemporaryDirectory() as folder,
        Child(WORKER, UNCACHED) as ours,
        Child(peer) as theirs,
    ):
        opened, path = ours.ask("open", preset=asdict(p)), Path(folder) / "world.npz"
        our_peak = ours.ask("peak")  # before the world is built once more
        ours.ask("save_world", preset=asdict(p), path=str(path))
        info = theirs.ask("open", **their_world(p, path, toy["l1_coeff"], toy["lr"]))
        ways = best_ways(theirs, info["device"])
        own = {_KINDS[name]: {"arithmetic": name} for name in opened["arithmetics"]}
        we = _Side.paced(ours, p.batch_size * p.n_members, own, seconds)
        they = _Side.paced(theirs, p.batch_size, ways, seconds)
        sides: dict[str, Callable[[], float]] = {}
        for kind in ways:
            sides |= {f"our {kind}": partial(we.rate, kind), kind: partial(they.rate, kind)}
        sides |= {f"our {kind}": partial(we.rate, kind) for kind in own if kind not in ways}
        raw = steady_rounds(sides, rounds)
        their_peak = theirs.ask("peak")
    ratios = {
        kind: np.array(raw[f"our {kind}"]) / np.array(raw[kind if kind in ways else "float32"])
        for kind in own
    }
    fastest = np.max([raw[f"our {kind}"] for kind in own], 0)
    best = fastest / np.max([raw[kind] for kind in ways], 0)
    return {
        "preset": name,
        "shape": p.shape,
        "SAEs": p.n_members,
        "batch": p.batch_size,
        **{f"k SAE-samples/s {kind}": median(raw[f"our {kind}"], -2) / 1e3 for kind in own},
        **{f"sae-lens {kind}": median(raw[kind], -2) / 1e3 for kind in ways},
        **{f"ratio {kind}": median(ratios[kind]) for kind in own},
        **{f"low-high {kind}": range_text(ratios[kind]) for kind in own},
        "ratio of the best": median(best),
        **{f"sae-lens {kind} runs": _words(way) for kind, way in ways.items()},
        "compile s": round(opened["compile_s"], 2),
        "import s": round(opened["import_s"], 2),
        "sae-lens import s": round(info["import_s"], 2),
        "peak MB": round(our_peak / 1e6, 1),
        "sae-lens peak MB": round(their_peak / 1e6, 1),
        "sae-lens device": info["device"],
        "rounds": raw,
    }


def _words(way: Way) -> str:
    extras = {"sparse": "sparse", "autocast_data": "data cast too"}
    on = [words for key, words in extras.items() if way[key]]
    return ", ".join([f"{way['threads']} threads", *on])
