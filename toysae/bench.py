"""Throughput of training and sampling, held against this machine's matmul rate in the same run."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array

from .disk import write
from .errors import require, unknown
from .sae import RECIPES, make_spec
from .sweeps.members import make_group
from .sweeps.results import provenance
from .training import Group, TrainState, advance, start
from .worlds import World, make_world


@dataclass(frozen=True)
class Preset:
    """One timed group: `n_members` SAEs on one sphere world."""

    recipe: str
    d_in: int
    n_features: int
    d_sae: int
    n_members: int
    batch_size: int = 256


PRESETS = {
    "small": Preset("untied", 64, 128, 256, 1),
    "small-tied": Preset("tied", 64, 128, 256, 1),
    "small-sweep": Preset("untied", 64, 128, 256, 16),
    "small-sweep-tied": Preset("tied", 64, 128, 256, 16),
    "medium": Preset("untied", 256, 512, 1024, 1),
    "medium-sweep": Preset("untied", 256, 512, 1024, 8),
}


def _recipe_presets() -> dict[str, Preset]:
    """Every compiled program among the recipes at two sizes, by `recipe@size`."""
    sizes = {"small": (64, 128, 256, 4), "medium": (256, 512, 1024, 1)}
    programs = {make_spec(name, 16, 32).once_started(): name for name in reversed(RECIPES)}
    return {
        f"{recipe}@{size}": Preset(recipe, *shape)
        for size, shape in sizes.items()
        for recipe in reversed(programs.values())
    }


RECIPE_PRESETS = _recipe_presets()
BASELINE = "untied"

WORLD_PRESETS: dict[str, dict[str, Any]] = {
    "sphere-1k": {"n_features": 1024, "d_in": 64, "l0": 20.0, "probs": "zipf", "exponent": 0.5},
    "sphere-16k": {"n_features": 16_384, "d_in": 64, "l0": 20.0, "probs": "zipf", "exponent": 0.5},
    "sphere-1m": {"n_features": 2**20, "d_in": 64, "l0": 20.0, "probs": "zipf", "exponent": 0.5},
    "sphere-16k-wide": {
        "n_features": 16_384, "d_in": 768, "l0": 34.0, "probs": "zipf", "exponent": 0.5,
    },
    "synth-sae-bench-16k": {},
}  # fmt: skip
"""Timed worlds: "sphere-..." with these fields, or the named world."""


@dataclass(frozen=True)
class BenchOptions:
    """What to time.

    Attributes:
        preset: names of presets; all of plain training if none is given. "worlds" stands for
            all of sampling, "recipes" for every recipe beside the plain SAE at two sizes.
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
    kinds = {"worlds": WORLD_PRESETS, "recipes": RECIPE_PRESETS}
    given = options.preset or tuple(PRESETS)
    names = [name for one in given for name in kinds.get(one, (one,))]
    timers = {
        **dict.fromkeys(PRESETS, _time_preset),
        **dict.fromkeys(WORLD_PRESETS, _time_world),
        **dict.fromkeys(RECIPE_PRESETS, _time_recipe),
    }
    for name in names:
        if name not in timers:
            raise unknown("preset", name, [*PRESETS, *kinds, *WORLD_PRESETS, *RECIPE_PRESETS])
    frame = pd.DataFrame([timers[name](name, options) for name in names])
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


def _group(p: Preset) -> Group:
    world = make_world("sphere", d_in=p.d_in, n_features=p.n_features)
    spec = make_spec(p.recipe, p.d_in, p.d_sae)
    numbers = RECIPES[p.recipe].toy
    return make_group([world], [0], spec, numbers, range(p.n_members), p.batch_size)


class _Trainer:
    """One group in steady training: `rate()` trains about `seconds` more and measures."""

    def __init__(self, p: Preset, seconds: float):
        self.preset, self.group, self.total = p, _group(p), jnp.float32(1e6)
        self.compile_s = self._until(1, start(self.group))
        self.chunk = max(int(seconds * 10 / self._until(11)), 10)

    def _until(self, step: int, state: TrainState | None = None) -> float:
        begun = time.perf_counter()
        self.state = advance(state or self.state, self.group, jnp.int32(step), self.total)
        self.state.loss.block_until_ready()
        return time.perf_counter() - begun

    def rate(self) -> float:
        """SAE-samples/s."""
        samples = self.chunk * self.preset.batch_size * self.preset.n_members
        return samples / self._until(int(self.state.step) + self.chunk)


def _described(p: Preset, samples: list[float]) -> dict[str, float | str]:
    return {
        "recipe": p.recipe,
        "shape": f"d {p.d_in} / {p.n_features} features / {p.d_sae} latents",
        "SAEs": p.n_members,
        "k SAE-samples/s": round(float(np.median(samples)) / 1e3, 1),
        "low": round(min(samples) / 1e3, 1),
        "high": round(max(samples) / 1e3, 1),
    }


def _time_preset(name: str, options: BenchOptions) -> dict[str, float | str]:
    p = PRESETS[name]
    trainer = _Trainer(p, options.seconds)
    rounds = [(matmul_rate(), trainer.rate()) for _ in range(options.rounds)]
    matmul, samples = map(list, zip(*rounds, strict=True))
    share = np.median(np.array(samples) / np.array(matmul)) * 10 * p.d_in * p.d_sae
    return {
        "preset": name,
        **_described(p, samples),
        "share of matmul": round(float(share), 3),
        "matmul GFLOP/s": round(float(np.median(matmul)) / 1e9, 1),
        "compile s": round(trainer.compile_s, 2),
    }


def _time_recipe(name: str, options: BenchOptions) -> dict[str, float | str]:
    """A recipe's rate beside the plain SAE's of the same size, the two taking turns."""
    p = RECIPE_PRESETS[name]
    plain, trainer = (_Trainer(one, options.seconds) for one in (replace(p, recipe=BASELINE), p))
    rounds = [(plain.rate(), trainer.rate()) for _ in range(options.rounds)]
    baseline, samples = map(list, zip(*rounds, strict=True))
    ratio = np.median(np.array(samples) / np.array(baseline))
    return {
        "preset": name,
        **_described(p, samples),
        f"of {BASELINE}": round(float(ratio), 3),
        "compile s": round(trainer.compile_s, 2),
    }


@partial(jax.jit, static_argnames="batch_size")
def _draw(world: World, key: Array, batch_size: int, n_batches: Array) -> Array:
    """A number that depends on every x of so many batches."""

    def body(i, total):
        return total + world.sample(jax.random.fold_in(key, i), batch_size).x.sum()

    return jax.lax.fori_loop(0, n_batches, body, jnp.float32(0))


def _time_world(name: str, options: BenchOptions) -> dict[str, float | str]:
    fields, batch_size = WORLD_PRESETS[name], 1024
    begun = time.perf_counter()
    world = make_world("sphere" if name.startswith("sphere-") else name, **fields)
    jax.block_until_ready(world)
    build_s = time.perf_counter() - begun
    key = jax.random.key(0)
    begun = time.perf_counter()
    _draw(world, key, batch_size, jnp.int32(1)).block_until_ready()
    compile_s = time.perf_counter() - begun
    begun = time.perf_counter()
    _draw(world, key, batch_size, jnp.int32(4)).block_until_ready()
    n_batches = max(int(options.seconds * 4 / (time.perf_counter() - begun)), 4)
    samples, matmul = [], []
    for _ in range(options.rounds):
        matmul.append(matmul_rate())
        begun = time.perf_counter()
        _draw(world, key, batch_size, jnp.int32(n_batches)).block_until_ready()
        samples.append(n_batches * batch_size / (time.perf_counter() - begun))
    return {
        "preset": name,
        "shape": f"d {world.d_in} / {world.n_features} features",
        "k samples/s": round(float(np.median(samples)) / 1e3, 1),
        "low": round(min(samples) / 1e3, 1),
        "high": round(max(samples) / 1e3, 1),
        "matmul GFLOP/s": round(float(np.median(matmul)) / 1e9, 1),
        "build s": round(build_s, 2),
        "compile s": round(compile_s, 2),
    }


def matmul_rate(n: int = 2048, repeats: int = 5) -> float:
    """This device's float32 matmul rate in FLOP/s, by a product of n x n."""
    a = jnp.ones((n, n), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    begun = time.perf_counter()
    for _ in range(repeats):
        last = product(a, a)
    last.block_until_ready()
    return repeats * 2 * n**3 / (time.perf_counter() - begun)
