"""How fast worlds are sampled."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..worlds import World, make_world
from .device import matmul_rate
from .timing import median, seconds_of

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


@partial(jax.jit, static_argnames="batch_size")
def _draw(world: World, key: Array, batch_size: int, n_batches: Array) -> Array:
    """The sum of every x of this many batches, so that none of them can be left out."""

    def body(i, total):
        return total + world.sample(jax.random.fold_in(key, i), batch_size).x.sum()

    return jax.lax.fori_loop(0, n_batches, body, jnp.float32(0))


def time_world(name: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Returns a row: samples/s of a world, drawn for about `seconds` in each round."""
    kind, batch_size = "sphere" if name.startswith("sphere-") else name, 1024
    begun = time.perf_counter()
    world = jax.block_until_ready(make_world(kind, **WORLD_PRESETS[name]))
    build_s = time.perf_counter() - begun

    def draw_seconds(n_batches: int) -> float:
        key = jax.random.key(0)
        return seconds_of(lambda: _draw(world, key, batch_size, jnp.int32(n_batches)))

    compile_s = draw_seconds(1)
    n_batches = max(int(seconds * 4 / draw_seconds(4)), 4)
    samples, matmul = [], []
    for _ in range(rounds):
        matmul.append(matmul_rate())
        samples.append(n_batches * batch_size / draw_seconds(n_batches))
    return {
        "preset": name,
        "shape": f"d {world.d_in} / {world.n_features} features",
        "k samples/s": median(samples, -2) / 1e3,
        "low": round(min(samples) / 1e3, 1),
        "high": round(max(samples) / 1e3, 1),
        "matmul GFLOP/s": median(matmul, -8) / 1e9,
        "build s": round(build_s, 2),
        "compile s": round(compile_s, 2),
        "rounds": {"samples/s": samples, "matmul FLOP/s": matmul},
    }
