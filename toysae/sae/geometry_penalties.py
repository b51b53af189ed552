"""Penalties on the weights alone: encoder against decoder, and latents against each other."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from ..worlds.dictionaries import unit_rows
from .part import Forward, Hyper, Hypers, Stats
from .penalties import LatentPenalty, Penalty


@dataclass(frozen=True)
class EncDecSimilarity(LatentPenalty):
    """similarity_coeff * sum_i (1 - cos(W_enc[:, i], W_dec[i])): 0 leaves the encoder untied, a
    large coefficient ties its directions."""

    hypers: ClassVar = (Hyper("similarity_coeff", low=0.0),)
    requires: ClassVar = {
        "W_enc": "use encoder=Untied(): this one has no direction of its own to compare"
    }

    def per_latent(self, f: Forward, run: Stats, h: Hypers) -> Array:
        cosines = jnp.sum(unit_rows(f.w.enc["W_enc"].T) * unit_rows(f.w.W_dec), -1)
        return h["similarity_coeff"] * (1 - cosines)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return 2 * d_in * d_sae  # unit rows


@dataclass(frozen=True)
class DecoderCoherence(Penalty):
    """coherence_coeff * mean over pairs i != j of cos(W_dec[i], W_dec[j])^2.

    The aim of OrtSAE (Korznikov et al. 2025), which takes the largest cosine within random
    blocks of latents to save memory. The mean over all pairs needs no blocks: with unit rows W,
    ||W W^T||_F = ||W^T W||_F, so memory is min(d_in, d_sae)^2 floats. For d_sae > d_in it is least
    at tight frames, where it is (d_sae / d_in - 1) / (d_sae - 1).
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
