"""Penalties on the weights alone: encoder against decoder, and latents against each other."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..errors import require, unknown
from ..keys import seed_key
from ..worlds.dictionaries import unit_rows
from .component import Forward, Hyper, Hypers, Spec, Stats
from .penalties import LatentPenalty, Penalty
from .running import Steps


@dataclass(frozen=True)
class EncDecSimilarity(LatentPenalty):
    """similarity_coeff * sum_i (1 - cos(W_enc[:, i], W_dec[i])): 0 leaves the encoder untied, a
    large coefficient ties its directions."""

    hypers: ClassVar = (Hyper("similarity_coeff", low=0.0),)

    def check(self, spec: Spec) -> None:
        remedy = "use encoder=Untied(): this one has no direction of its own to compare"
        self.needs("W_enc", remedy, spec)

    def per_latent(self, f: Forward, run: Stats, h: Hypers) -> Array:
        cosines = jnp.sum(unit_rows(f.w.enc["W_enc"].T) * unit_rows(f.w.W_dec), -1)
        return h["similarity_coeff"] * (1 - cosines)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return 2 * d_in * d_sae  # unit rows


@dataclass(frozen=True)
class DecoderCoherence(Penalty):
    """coherence_coeff * mean over pairs i != j of cos(W_dec[i], W_dec[j])^2.

    With unit rows W, ||W W^T||_F = ||W^T W||_F, so memory is min(d_in, d_sae)^2 floats. For
    d_sae > d_in it is least at tight frames, where it is (d_sae / d_in - 1) / (d_sae - 1). Only
    the largest cosines matter in :class:`ChunkedCoherence`.
    """

    hypers: ClassVar = (Hyper("coherence_coeff", low=0.0),)

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        W = unit_rows(f.w.W_dec)
        d_sae, d_in = W.shape
        gram = W @ W.T if d_sae <= d_in else W.T @ W
        pairs = jnp.sum(gram**2) - jnp.sum(jnp.sum(W**2, -1) ** 2)
        return h["coherence_coeff"] * pairs / max(d_sae * (d_sae - 1), 1)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return d_in * d_sae + min(d_in, d_sae) ** 2  # unit rows and their Gram matrix


def chunked_coherence(
    W: Float[Array, "d_sae d_in"],
    order: Int[Array, " d_sae"],
    size: int,
    of: str,
) -> Float[Array, ""]:
    """Squared cosines between rows that stand in the same chunk.

    Args:
        W: rows of any length; a zero row has cosine 0 to all.
        order: a permutation of the rows; chunks are consecutive in it.
        size: of the chunks, at least 2; the last may be smaller.
        of: "max", the mean over rows of the largest with another row of its chunk (0 for a row
            alone in its chunk); "mean", the mean over pairs in the same chunk.

    Returns:
        In [0, 1]. Over uniform orders the expectation of "mean" is the mean over all pairs.
        Costs `d_sae * size * d_in`, memory `d_sae * size` floats.
    """
    d_sae = W.shape[0]
    size = min(size, d_sae)
    rows = jnp.pad(unit_rows(W)[order], ((0, -d_sae % size), (0, 0))).reshape(-1, size, W.shape[1])
    squares = (rows @ rows.swapaxes(1, 2)) ** 2 * (1 - jnp.eye(size))
    if of == "max":
        return squares.max(-1).sum() / d_sae
    whole, rest = divmod(d_sae, size)
    return squares.sum() / max(whole * size * (size - 1) + rest * (rest - 1), 1)


@dataclass(frozen=True)
class ChunkedCoherence(Penalty):
    """coherence_coeff * mean_i max_j cos(W_dec[i], W_dec[j])^2, j != i in the same chunk (OrtSAE,
    Korznikov et al. 2025).

    Latents are dealt into chunks at random, anew in each step and alike for all members, so that
    the cost is linear in d_sae. See :func:`chunked_coherence`.

    Attributes:
        size: of a chunk, at least 2 (the paper: 8192). From d_sae on all pairs count.
        of: "max" as in the paper; "mean" has :class:`DecoderCoherence` as its expectation.
    """

    size: int = 8192
    of: Literal["max", "mean"] = "max"
    hypers: ClassVar = (Hyper("coherence_coeff", low=0.0),)
    stats: ClassVar = (Steps(),)

    def __post_init__(self) -> None:
        require(self.size >= 2, f"ChunkedCoherence size {self.size} must be at least 2: a pair")
        if self.of not in ("max", "mean"):
            raise unknown("ChunkedCoherence of", self.of, ("max", "mean"))

    def cost(self, f: Forward, run: Stats, h: Hypers) -> Array:
        key = jax.random.fold_in(seed_key(0, "coherence chunks"), run["steps"])
        order = jax.random.permutation(key, f.w.W_dec.shape[0])
        return h["coherence_coeff"] * chunked_coherence(f.w.W_dec, order, self.size, self.of)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return d_in * d_sae + 2 * d_sae * min(self.size, d_sae)  # unit rows, squared cosines
