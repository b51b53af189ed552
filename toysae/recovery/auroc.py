"""AUROC from a histogram: streamed at fixed memory, with a bound on its error.

AUROC is the probability that a sample with the feature on has a larger z than one with it off, ties
counting half. A histogram of z orders two samples unless they share a bin, and counts those as
ties: with p and q the shares of on- and off-samples by bin, it is within ``sum_b p_b q_b / 2`` of
the exact number. z = 0 has its own bin, whose ties are real, so that for a sparse latent only its
false fires add error.

Bins are those of the float itself: sign, exponent, and the top four bits of the mantissa. Each
octave of \\|z\\| from 2^-20 to 2^12 has 16, of relative width 3 to 6 %, whatever the latent's
scale; smaller and larger values fall into the bins at the ends.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_LOW, _HIGH, _BITS = -20, 12, 4
_PER_SIGN = (_HIGH - _LOW) << _BITS
ZERO_BIN = _PER_SIGN
N_BINS = 2 * _PER_SIGN + 1
_SHIFT = 23 - _BITS  # of the 23 bits of a float32's mantissa
_FIRST = (127 + _LOW) << _BITS  # key of 2^_LOW; 127 is the exponent's bias


@jax.jit
def bin_of(z: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Returns the bin of each value in ``[0, N_BINS)``, monotone in z; only 0 is in `ZERO_BIN`."""
    bits = jax.lax.bitcast_convert_type(jnp.abs(z).astype(jnp.float32), jnp.int32)
    size = jnp.clip((bits >> _SHIFT) - _FIRST, 0, _PER_SIGN - 1) + 1
    return ZERO_BIN + jnp.where(z == 0, 0, jnp.where(z < 0, -size, size))


def edge_of(bins: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Returns the lower edge of each bin, -inf for the first: values in the bin or above exceed it,
    values below do not. A value equal to an edge counts to the bin above."""
    size = np.asarray(bins) - ZERO_BIN
    negative = size <= 0
    step = np.clip(np.where(negative, 1 - size, size), 1, _PER_SIGN + 1) - 1
    value = ((step + _FIRST) << _SHIFT).astype(np.int32).view(np.float32)
    # The bins next to the bin of 0 reach down to it.
    value = np.where(step == 0, np.where(negative, np.finfo(np.float32).tiny, 0.0), value)
    return np.where(size <= -_PER_SIGN, -np.inf, np.where(negative, -value, value))


def auroc(
    on: Int[Array, " bins"], off: Int[Array, " bins"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns AUROC and a bound on its error, from counts of z by bin.

    Args:
        on: counts of the samples with the feature on.
        off: counts of the others.

    Returns:
        Two numbers in [0, 1]; NaN where either has no samples.
    """
    p, q = on / on.sum(), off / off.sum()
    below = (jnp.cumsum(off) - off) / off.sum()  # integers until here: exact
    return jnp.sum(p * (below + q / 2)), jnp.sum((p * q).at[ZERO_BIN].set(0)) / 2
