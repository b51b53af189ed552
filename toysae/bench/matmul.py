"""What this machine can do at most, in the same run."""

import time

import jax
import jax.numpy as jnp


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
