"""The highest rates of this device, and how much of its memory this process has taken."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from .protocol import peak_resident_bytes
from .timing import seconds_of


def matmul_rate(dtype: DTypeLike = jnp.float32, n: int = 2048, repeats: int = 5) -> float:
    """The matmul rate in FLOP/s of products of n x n at JAX's default precision (on a GPU, float32
    inputs are rounded to TF32)."""
    a = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()

    def multiply() -> Array:
        for _ in range(repeats - 1):
            product(a, a)
        return product(a, a)

    return repeats * 2 * n**3 / seconds_of(multiply)


@partial(jax.jit, donate_argnums=0)
def _add_one(a: Array) -> Array:
    return a + 1


def copy_rate(n: int = 2**26, repeats: int = 5) -> float:
    """The rate of reading and writing memory in byte/s, both counted, of an array of `n` float32
    that no cache holds. It is rewritten in place, so that no new pages are timed."""
    a = _add_one(jnp.zeros(n, jnp.float32)).block_until_ready()
    n_bytes = a.nbytes

    def rewrite() -> Array:
        rewritten = a
        for _ in range(repeats):
            rewritten = _add_one(rewritten)
        return rewritten

    return repeats * 2 * n_bytes / seconds_of(rewrite)


def peak_bytes() -> int:
    """The most memory taken so far in bytes: of the device, or on a CPU of this process, with
    Python, its libraries and the compiler."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return stats["peak_bytes_in_use"] if stats else peak_resident_bytes()
