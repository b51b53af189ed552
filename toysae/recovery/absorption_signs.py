"""Signs of absorption that need no truth, compared with it by :mod:`.roc`.

From weights: where j absorbs i, their decoder rows lean towards each other while their encoders
lean apart (W_enc,i = f_i - δ f_j, W_dec,j ∝ f_j + δ f_i). A perfect SAE of two exclusive features
at an angle looks the same, so that weights alone cannot tell. From activations: while j fires for
both and i is silent, the input still varies along the direction that i has and j lacks, which the
SAE does not see; with exclusive features it does not vary. Where magnitudes do not vary, nothing
can tell the two readings apart: they are the same data.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from .. import pytree
from ..errors import ToysaeError, require
from ..lazy import pd
from ..linalg import singular_axes
from ..sae import SAE
from ..worlds.dictionaries import safe_unit_rows
from .absorption import running_means
from .geometry import encoder_rows
from .mcs import cosines, enc_dec_cosines

_BATCH = 1024


def within_span(
    W_enc: Float[Array, "d_in d_sae"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, "d_in d_sae"]:
    """Projects encoder directions onto the span of the decoder rows.

    Where the inputs do not fill the space, as in most small worlds, the rest is left over from the
    init: it reads nothing and only dilutes every cosine. The span is that of directions with
    singular values above 1e-4 of the largest, by NumPy: not for use inside a program.
    """
    axes = singular_axes(safe_unit_rows(W_dec))
    basis = axes.rows * (axes.lengths > 1e-4 * axes.lengths[0])[:, None]
    return basis.T @ (basis @ W_enc)


def weight_sign(
    W_enc: Float[Array, "d_in d_sae"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, "d_sae d_sae"]:
    """min(cos of decoder rows, -cos of encoder directions) for each two latents, at least 0.

    It is δ / sqrt(1 + δ²) for an absorbed pair of orthogonal features; symmetric, with a zero
    diagonal. Encoder directions are taken :func:`within_span`.
    """
    return _sign_within(within_span(W_enc, W_dec), W_dec)


@jax.jit
def _sign_within(W_enc: Array, W_dec: Array) -> Array:
    lean = jnp.minimum(cosines(W_dec, W_dec), -cosines(W_enc.T, W_enc.T))
    return jnp.maximum(lean, 0) * (1 - jnp.eye(lean.shape[0]))


@pytree.dataclass
class Unseen:
    """Running means for ordered pairs (silent latent i, firing latent j) of what the SAE leaves of
    the input along u, the direction of i's decoder row orthogonal to j's."""

    pairs: Int[Array, "n_pairs 2"]
    n: Int[Array, " n_pairs"]  # samples in which j fires and i does not
    residual: Float[Array, " n_pairs"]  # mean of (x - x_hat) . u
    square: Float[Array, " n_pairs"]
    signal: Float[Array, " n_pairs"]  # mean of (z_j ||d_j||)²


def empty_unseen(pairs: Int[np.ndarray, "n_pairs 2"]) -> Unseen:
    """Returns means over no samples, for these ordered pairs (i, j)."""
    means = jnp.zeros((3, len(pairs)), jnp.float32)
    return Unseen(jnp.asarray(pairs, jnp.int32), jnp.zeros(len(pairs), jnp.int32), *means)


@partial(jax.jit, donate_argnums=0)
def add_unseen(seen: Unseen, sae: SAE, x: Float[Array, "batch d_in"]) -> Unseen:
    """Returns the means with one more batch of inputs; `seen` is donated."""
    f, (i, j) = sae(x), seen.pairs.T
    lengths = jnp.sqrt(jnp.sum(sae.W_dec**2, -1))
    rows = sae.W_dec / jnp.where(lengths > 0, lengths, 1)[:, None]
    overlap = jnp.sum(rows[i] * rows[j], -1)
    own = jnp.sqrt(jnp.maximum(1 - overlap**2, 0))
    left = (x - f.x_hat) @ rows.T
    along = (left[:, i] - overlap * left[:, j]) / jnp.where(own > 1e-3, own, jnp.inf)
    n, mean = running_means(seen.n, (f.z[:, j] != 0) & (f.z[:, i] == 0))
    return Unseen(
        seen.pairs,
        n,
        mean(seen.residual, along),
        mean(seen.square, along**2),
        mean(seen.signal, (f.z * lengths)[:, j] ** 2),
    )


def activation_sign(seen: Unseen) -> NDArray[np.float64]:
    """Sd of what is left along i's own direction over the RMS of z_j ||d_j||, for each pair.

    It is 0 where nothing is hidden, NaN where j never fired without i.
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
    """Returns every sign for the pairs of latents with the largest cosines of decoder rows.

    Args:
        sae: one SAE whose latents each have an encoder direction.
        x: inputs, 1,024 at a time; a last batch of fewer is not used.
        alive: which latents count; all if not given.
        most: largest number of pairs; `2 * most * 1024` numbers are held at a time, and a few
            matrices d_sae x d_sae.

    Returns:
        One row a pair: `latent`, `other`; `decoder`, the cosine of their decoder rows; `enc_dec`,
        1 less the larger of their two encoder-decoder cosines, within the decoder's span;
        `weights` (:func:`weight_sign`); `activations`, the larger :func:`activation_sign` of the
        two orders, NaN where neither fired without the other.

    Raises:
        ToysaeError: an encoder without directions, too few inputs, or `most` below 1.
    """
    rows = encoder_rows(sae)
    if rows is None:
        raise ToysaeError(f"{type(sae.spec.encoder).__name__} has no encoder direction of each "
                          "latent: these signs need one")  # fmt: skip
    require(most >= 1, f"most {most} must be at least 1")
    require(len(x) >= _BATCH, f"{len(x)} inputs: give at least {_BATCH}")
    counted = np.ones(len(rows), bool) if alive is None else np.asarray(alive, bool)
    # Dead rows become zero rows, so that the shapes and the program stay the same.
    W_enc, W_dec = rows.T * counted, sae.W_dec * counted[:, None]
    within = within_span(W_enc, W_dec)
    lean, sign, aligned = map(np.asarray, _of_weights(within, W_dec))
    i, j = np.triu_indices(len(rows), 1)
    lean = np.where(counted[i] & counted[j], lean[i, j], -np.inf)
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
