"""Finds features that fire only with another: pairs in which absorption and hedging happen.

They are found on a sample. Firings in trees give the parents themselves. Elsewhere feature p is the
parent of c if p is more frequent and on whenever c is, or at least twice as frequent and on in nine
of ten firings of c, and if chance is ruled out: the binomial probability that p is on so often in
the n_c firings of c must be below 1e-9, divided by the number of pairs.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Int, PRNGKeyArray
from numpy.typing import NDArray

from ..errors import require
from ..keys import seed_key
from ..worlds import World

_CHANCE = 1e-9
_MOSTLY = 0.9
_MOST = 4096  # features of a world without trees: co-occurrence is a square matrix of them


def parents_of(world: World, n_samples: int = 16_384, seed: int = 0) -> NDArray[np.int64]:
    """Returns the parent of each feature, the rarest of several.

    Args:
        world: the world of the features.
        n_samples: size of the sample. Children that fire in it never, or too rarely to tell, have
            no parent here.
        seed: of the sample.

    Returns:
        ``[n_features]``, -1 for none.

    Raises:
        ToysaeError: no samples, or more than 4,096 features without trees.
    """
    require(n_samples >= 1, f"n_samples {n_samples} must be at least 1")
    key = seed_key(seed, "hierarchy")
    if jax.eval_shape(partial(world.firing.sample, n=1), key).parent is not None:
        return np.asarray(_from_trees(world, key, n_samples), np.int64)
    n = world.n_features
    require(n <= _MOST, f"{n:,} features without trees: pairs are looked for among at most "
            f"{_MOST:,}")  # fmt: skip
    together = np.asarray(_together(world, key, n_samples), np.int64)
    count = together.diagonal()
    share = count / n_samples
    parent, child = count[:, None], count[None, :]
    implied = (together == child) & (parent > child)
    implied |= (together >= _MOSTLY * child) & (parent >= 2 * child)
    implied &= scipy.special.bdtrc(together - 1, child, share[:, None]) < _CHANCE / n**2
    rarity = np.where(implied, share[:, None], np.inf)
    return np.where(implied.any(0), rarity.argmin(0), -1)


@partial(jax.jit, static_argnames="n")
def _from_trees(world: World, key: PRNGKeyArray, n: int) -> Int[Array, " n_features"]:
    active = world.firing.sample(key, n)
    assert active.parent is not None
    has = active.on & (active.parent >= 0)
    parent = jnp.take_along_axis(active.indices, jnp.maximum(active.parent, 0), 1)
    parents = jnp.full(world.n_features, -1, jnp.int32)
    return parents.at[active.indices].max(jnp.where(has, parent, -1))


@partial(jax.jit, static_argnames="n")
def _together(world: World, key: PRNGKeyArray, n: int) -> Array:
    """Counts the samples with each two features on; exact in float32 up to 2^24 samples."""
    on = (world.sample(key, n).feature_acts != 0).astype(jnp.float32)
    return on.T @ on
