"""Random keys named by purpose, so that no two uses share a stream.

`split(key, n)[i]` and `fold_in(key, i)` can be the same key; folding in the hash of a label first
keeps the world, the inits, the data stream and the evaluation apart.
"""

from zlib import crc32

import jax
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, UInt32


def named_key(key: PRNGKeyArray, label: str) -> PRNGKeyArray:
    """The key for one purpose, e.g. ``named_key(key, "init")``."""
    return jax.random.fold_in(key, label_bits(label))


def label_bits(label: str) -> UInt32[np.ndarray, ""]:
    """The number that is folded into a key under a label."""
    return np.asarray(crc32(label.encode()), np.uint32)


def seed_key(seed: int | Int[Array, ""], label: str) -> PRNGKeyArray:
    """The key for one purpose under an integer seed (traceable in `seed`)."""
    return _seed_key(seed, label_bits(label))


@jax.jit
def _seed_key(
    seed: int | Int[Array, ""], bits: UInt32[Array, ""] | UInt32[np.ndarray, ""]
) -> PRNGKeyArray:
    """By itself a program: outside of one, each of its steps would be."""
    return jax.random.fold_in(jax.random.key(seed), bits)
