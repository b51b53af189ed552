"""Signs of absorption that need no truth, to be held against it by :mod:`.roc`.

From weights: where j absorbs i, the decoder row of one leans towards the other's while their
encoders lean apart (W_enc,i = f_i - δ f_j against W_dec,j ∝ f_j + δ f_i). But that is also what a
perfect SAE of two exclusive features at an angle looks like, and no detector that reads weights
alone can tell. From activations: while j fires for both and i is silent, the input still varies
along what i has and j has not, and the SAE does not see it. With exclusive features it does not
vary. Where magnitudes do not vary, nothing tells the two readings apart; they are the same data.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from ..errors import require
from ..sae import SAE
from .mcs import cosines, unit_rows


def within_span(
    W_enc: Float[Array, "d_in d_sae"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, "d_in d_sae"]:
    """Encoder directions without what lies outside the span of the decoder rows.

    Where the inputs do not fill the space, as in most small worlds, the rest is whatever the init
    left there: it reads nothing, and only dilutes every cosine.
    """
    _, s, rows = jnp.linalg.svd(unit_rows(W_dec), full_matrices=False)
    basis = rows * (s > 1e-4 * s[0])[:, None]
    return basis.T @ (basis @ W_enc)


@jax.jit
def weight_sign(
    W_enc: Float[Array, "d_in d_sae"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, "d_sae d_sae"]:
    """For each two latents min(cos of decoder rows, -cos of encoder directions), at least 0.

    δ / sqrt(1 + δ²) for an absorbed pair of orthogonal features. Symmetric, with a zero diagonal.
    Encoder directions are taken :func:`within_span`.
    """
    W_enc = within_span(W_enc, W_dec)
    lean = jnp.minimum(cosines(W_dec, W_dec), -cosines(W_enc.T, W_enc.T))
    return jnp.maximum(lean, 0) * (1 - jnp.eye(lean.shape[0]))


def candidates(sign: Float[np.ndarray, "d_sae d_sae"], most: int) -> NDArray[np.int64]:
    """The ordered pairs of latents with the largest weight sign, ``[n_pairs, 2]``; none with 0.

    Args:
        sign: from :func:`weight_sign`.
        most: at most so many pairs.

    Raises:
        ToysaeError: `most` is below 1.
    """
    require(most >= 1, f"most {most} must be at least 1")
    flat = np.argsort(-np.asarray(sign), axis=None, kind="stable")[:most]
    pairs = np.stack(np.unravel_index(flat, np.shape(sign)), 1)
    return pairs[np.asarray(sign)[pairs[:, 0], pairs[:, 1]] > 0]


@struct.dataclass
class Unseen:
    """Running means for ordered pairs (silent latent i, firing latent j): what the SAE leaves of
    the input, along the part of i's decoder row that j's has not."""

    pairs: Int[Array, "n_pairs 2"]
    n: Int[Array, " n_pairs"]  # samples in which j fires and i does not
    residual: Float[Array, " n_pairs"]  # mean of (x - x_hat) . u
    square: Float[Array, " n_pairs"]
    signal: Float[Array, " n_pairs"]  # mean of (z_j ||d_j||)²


def empty_unseen(pairs: Int[np.ndarray, "n_pairs 2"]) -> Unseen:
    """Of no samples, for these ordered pairs (i, j)."""
    n = len(pairs)
    return Unseen(
        jnp.asarray(pairs, jnp.int32),
        jnp.zeros(n, jnp.int32),
        jnp.zeros(n, jnp.float32),
        jnp.zeros(n, jnp.float32),
        jnp.zeros(n, jnp.float32),
    )


@partial(jax.jit, donate_argnums=0)
def add_unseen(seen: Unseen, sae: SAE, x: Float[Array, "batch d_in"]) -> Unseen:
    """With one more batch of inputs; `seen` is donated."""
    f, (i, j) = sae(x), seen.pairs.T
    lengths = jnp.sqrt(jnp.sum(sae.W_dec**2, -1))
    rows = sae.W_dec / jnp.where(lengths > 0, lengths, 1)[:, None]
    overlap = jnp.sum(rows[i] * rows[j], -1)
    own = jnp.sqrt(jnp.maximum(1 - overlap**2, 0))
    left = (x - f.x_hat) @ rows.T
    along = (left[:, i] - overlap * left[:, j]) / jnp.where(own > 1e-3, own, jnp.inf)
    counted = (f.z[:, j] != 0) & (f.z[:, i] == 0)
    n_new = counted.sum(0, dtype=jnp.int32)
    n = seen.n + n_new
    share = n_new / jnp.maximum(n, 1)

    def mean(old: Array, values: Array) -> Array:
        new = jnp.where(counted, values, 0).sum(0) / jnp.maximum(n_new, 1)
        return old + share * (new - old)

    return Unseen(
        seen.pairs,
        n,
        mean(seen.residual, along),
        mean(seen.square, along**2),
        mean(seen.signal, (f.z * lengths)[:, j] ** 2),
    )


def activation_sign(seen: Unseen) -> NDArray[np.float64]:
    """Per pair the sd of what is left along i's own direction, over the RMS of z_j ||d_j||.

    0 where nothing is hidden; NaN where j never fired without i.
    """
    host = jax.device_get(seen)
    residual, square, signal = (
        np.asarray(v, np.float64) for v in (host.residual, host.square, host.signal)
    )
    variance = np.maximum(square - residual**2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(host.n > 0, np.sqrt(variance / signal), np.nan)
