"""How fast worlds are sampled."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..worlds import World, make_world
from .device import matmul_rate

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
    """A number that depends on every x of so many batches."""

    def body(i, total):
        return total + world.sample(jax.random.fold_in(key, i), batch_size).x.sum()

    return jax.lax.fori_loop(0, n_batches, body, jnp.float32(0))


def time_world(name: str, seconds: float, rounds: int) -> dict[str, float | str]:
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
    n_batches = max(int(seconds * 4 / (time.perf_counter() - begun)), 4)
    samples, matmul = [], []
    for _ in range(rounds):
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
