"""Random numbers with the same bits as `jax.random`, drawn in one pass.

On CPUs jax rolls the rounds of its generator, Threefry-2x32 (Salmon et al. 2011), into a loop that
writes every number five times. Here the rounds are unrolled and stay in registers: the same
numbers come three to five times faster, and on other devices no slower.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_SQRT2 = np.float32(math.sqrt(2))
_ABOVE = float(np.nextafter(np.float32(-1), np.float32(0)))  # the lowest with a finite erf_inv
_PARITY = np.uint32(0x1BD11BDA)


def bits(key: PRNGKeyArray, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """32 random bits for each place, as ``jax.random.bits(key, shape, jnp.uint32)`` gives them."""
    n = math.prod(shape)
    if str(jax.random.key_impl(key)) != "threefry2x32" or not 0 < n < 2**32:
        return jax.random.bits(key, shape, jnp.uint32)
    return _words(jax.random.key_data(key), shape)


# Jitted here and not only at the edge, so that the rounds are traced once for each shape.
@partial(jax.jit, static_argnums=1)
def _words(key: Array, shape: tuple[int, ...]) -> Array:
    n = math.prod(shape)
    half = -(-n // 2)

    def draw(_, first):
        count = first + jax.lax.iota(jnp.uint32, half)
        a, b = _threefry(key[0], key[1], jnp.zeros_like(count), count)
        return None, a ^ b

    # A loop over two halves keeps XLA from merging the rounds into the readers of these numbers:
    # it takes them for cheap, and would draw all numbers again for every reader.
    starts = jnp.asarray([0, half], jnp.uint32)
    return jax.lax.scan(draw, None, starts)[1].reshape(-1)[:n].reshape(shape)


def _threefry(key0: Array, key1: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Encrypts the pairs (a, b): 20 rounds, a word of the key added after every fourth."""
    schedule = (key0, key1, key0 ^ key1 ^ _PARITY)
    a, b = a + schedule[0], b + schedule[1]
    for block in range(5):
        for distance in _ROTATIONS[block % 2]:
            a = a + b
            b = ((b << distance) | (b >> (32 - distance))) ^ a
        a = a + schedule[(block + 1) % 3]
        b = b + schedule[(block + 2) % 3] + np.uint32(block + 1)
    return a, b


def uniform(
    key: PRNGKeyArray, shape: tuple[int, ...], minval: float = 0.0, maxval: float = 1.0
) -> Float[Array, "..."]:
    """U[minval, maxval), with 23 random bits, as :func:`jax.random.uniform` draws it."""
    one = jnp.float32(1)
    pattern = (bits(key, shape) >> 9) | one.view(jnp.uint32)
    unit = jax.lax.bitcast_convert_type(pattern, jnp.float32) - one
    low, high = jnp.float32(minval), jnp.float32(maxval)
    return jnp.maximum(low, unit * (high - low) + low)


def normal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """N(0, 1), as :func:`jax.random.normal` draws it."""
    return _SQRT2 * jax.lax.erf_inv(uniform(key, shape, _ABOVE, 1.0))


def normal_of(unit: Float[Array, "..."]) -> Float[Array, "..."]:
    """N(0, 1) from U[0, 1), by its quantiles."""
    return _SQRT2 * jax.lax.erf_inv(jnp.maximum(2 * unit - 1, _ABOVE))


def exponential(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Exponential with mean 1, as :func:`jax.random.exponential` draws it."""
    return -jnp.log1p(-uniform(key, shape))
