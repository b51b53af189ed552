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
import pandas as pd
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from .. import pytree
from ..errors import ToysaeError, require
from ..linalg import singular_axes
from ..sae import SAE
from .geometry import encoder_rows
from .mcs import cosines, enc_dec_cosines, unit_rows

_BATCH = 1024


def within_span(
    W_enc: Float[Array, "d_in d_sae"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, "d_in d_sae"]:
    """Encoder directions without what lies outside the span of the decoder rows.

    Where the inputs do not fill the space, as in most small worlds, the rest is whatever the init
    left there: it reads nothing, and only dilutes every cosine. The span is taken by NumPy, of
    directions with singular values above 1e-4 of the largest: not for use inside a program.
    """
    axes = singular_axes(unit_rows(W_dec))
    basis = axes.rows * (axes.lengths > 1e-4 * axes.lengths[0])[:, None]
    return basis.T @ (basis @ W_enc)


def weight_sign(
    W_enc: Float[Array, "d_in d_sae"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, "d_sae d_sae"]:
    """For each two latents min(cos of decoder rows, -cos of encoder directions), at least 0.

    δ / sqrt(1 + δ²) for an absorbed pair of orthogonal features. Symmetric, with a zero diagonal.
    Encoder directions are taken :func:`within_span`.
    """
    return _sign_within(within_span(W_enc, W_dec), W_dec)


@jax.jit
def _sign_within(W_enc: Array, W_dec: Array) -> Array:
    lean = jnp.minimum(cosines(W_dec, W_dec), -cosines(W_enc.T, W_enc.T))
    return jnp.maximum(lean, 0) * (1 - jnp.eye(lean.shape[0]))


@pytree.dataclass
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


def absorption_signs(
    sae: SAE,
    x: Float[Array, "n d_in"],
    alive: Bool[np.ndarray, " d_sae"] | None = None,
    most: int = 4096,
) -> pd.DataFrame:
    """Every sign for the pairs of latents whose decoder rows lean together most.

    Args:
        sae: one SAE whose latents have an encoder direction each.
        x: inputs, 1,024 at a time; what is left of whole thousands is not used.
        alive: which latents count; all if not given.
        most: at most so many pairs, of which `2 * most * 1024` numbers are held at a time, besides
            a few d_sae x d_sae.

    Returns:
        One row a pair: `latent`, `other`; `decoder`, the cosine of their decoder rows; `enc_dec`,
        1 less the larger of their two encoder-decoder cosines, within the decoder's span;
        `weights` (:func:`weight_sign`); `activations`, the larger :func:`activation_sign` of the
        two orders, NaN where neither fired without the other.

    Raises:
        ToysaeError: an encoder without directions, too few inputs, or no pair asked for.
    """
    rows = encoder_rows(sae)
    if rows is None:
        raise ToysaeError(f"{type(sae.spec.encoder).__name__} has no encoder direction of each "
                          "latent: these signs need one")  # fmt: skip
    require(most >= 1, f"most {most} must be at least 1")
    require(len(x) >= _BATCH, f"{len(x)} inputs: give at least {_BATCH}")
    kept = np.ones(len(rows), bool) if alive is None else np.asarray(alive, bool)
    # Dead rows become zero rows instead of leaving: the shapes, and so the program, stay.
    W_enc, W_dec = rows.T * kept, sae.W_dec * kept[:, None]
    within = within_span(W_enc, W_dec)
    lean, sign, aligned = map(np.asarray, _of_weights(within, W_dec))
    i, j = np.triu_indices(len(rows), 1)
    lean = np.where(kept[i] & kept[j], lean[i, j], -np.inf)
    chosen = np.argsort(-lean, kind="stable")[:most]
    i, j, lean = i[chosen], j[chosen], lean[chosen]
    seen = empty_unseen(np.concatenate([np.stack([i, j], 1), np.stack([j, i], 1)]))
    for start in range(0, len(x) - _BATCH + 1, _BATCH):
        seen = add_unseen(seen, sae, x[start : start + _BATCH])
    table = pd.DataFrame(
        {
            "latent": i,
            "other": j,
            "decoder": lean,
            "enc_dec": 1 - np.maximum(aligned[i], aligned[j]),
            "weights": sign[i, j],
            "activations": np.fmax(*activation_sign(seen).reshape(2, -1)),
        }
    )
    return table[np.isfinite(lean)].reset_index(drop=True)


@jax.jit
def _of_weights(within: Array, W_dec: Array) -> tuple[Array, Array, Array]:
    return cosines(W_dec, W_dec), _sign_within(within, W_dec), enc_dec_cosines(within, W_dec)
