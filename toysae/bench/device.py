"""What this device can do at most, and how much of its memory this process has taken."""

import time
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from .protocol import peak_resident_bytes


def matmul_rate(dtype: DTypeLike = jnp.float32, n: int = 2048, repeats: int = 5) -> float:
    """This device's matmul rate in FLOP/s, by a product of n x n at JAX's default precision (on
    a GPU, float32 inputs are rounded to TF32)."""
    a = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    begun = time.perf_counter()
    for _ in range(repeats):
        last = product(a, a)
    last.block_until_ready()
    return repeats * 2 * n**3 / (time.perf_counter() - begun)


@partial(jax.jit, donate_argnums=0)
def _rewritten(a: Array) -> Array:
    return a + 1


def copy_rate(n: int = 2**26, repeats: int = 5) -> float:
    """This device's rate of reading and writing memory in byte/s, both counted, by an array of
    `n` float32 that no cache holds, rewritten in place: new pages would be timed otherwise."""
    a = _rewritten(jnp.zeros(n, jnp.float32)).block_until_ready()
    begun = time.perf_counter()
    for _ in range(repeats):
        a = _rewritten(a)
    a.block_until_ready()
    return repeats * 2 * a.nbytes / (time.perf_counter() - begun)


def peak_bytes() -> int:
    """The most memory taken so far: of the device, or on a CPU of this process, with Python, its
    libraries and the compiler."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return stats["peak_bytes_in_use"] if stats else peak_resident_bytes()
