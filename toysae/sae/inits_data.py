"""Initialisations by classical methods on a data batch. Rows are unit length."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from ..keys import named_key
from ..worlds.dictionaries import sphere, unit_rows
from .classical import (
    fast_ica,
    k_means,
    sample_order,
    semi_nmf,
    spectral_directions,
)
from .component import Hyper
from .inits import NOISE, Init, tile_noised


@dataclass(frozen=True)
class DataSamples(Init):
    """unit(p unit(x - mean x) + (1 - p) noise), p = `sample_share` in [0, 1], noise uniform on
    the sphere. Each row has a sample of its own; zero samples come last, and beyond the batch
    samples repeat. Starts well above the random floor: at p = 1 a row holds whole features."""

    hypers: ClassVar = (*Init.hypers, Hyper("sample_share", default=0.8, low=0.0, high=1.0))

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        own = data.x[sample_order(named_key(key, "samples"), data.x, d_sae)] - data.x.mean(0)
        noise = sphere(named_key(key, "noise"), d_sae, data.x.shape[1])
        p = h["sample_share"]
        return unit_rows(p * unit_rows(own) + (1 - p) * noise)


@dataclass(frozen=True)
class KMeans(Init):
    """Unit centres of spherical k-means (Dhillon and Modha 2001) after a few Lloyd steps."""

    n_steps: int = 5

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        return k_means(key, data.x, d_sae, self.n_steps)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return batch * d_sae  # similarities


@dataclass(frozen=True)
class Ica(Init):
    """Mixing directions of symmetric FastICA (Hyvärinen 1999), turned towards their skew, then
    their negatives, tiled and noised. There are at most d_in independent components."""

    n_steps: int = 50
    hypers: ClassVar = NOISE
    axes_from: ClassVar = "x"

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        axes = data.known_axes
        rows = fast_ica(named_key(key, "ica"), data.x, axes, self.n_steps)
        return tile_noised(key, replace(axes, rows=rows), d_sae, h["init_noise"])

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return 2 * batch * d_in  # g and its derivative


@dataclass(frozen=True)
class SemiNmf(Init):
    """The dictionary of x ~ Z D with non-negative Z (Ding, Li and Jordan 2010)."""

    n_steps: int = 20

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        rows = semi_nmf(key, data.x, d_sae, self.n_steps)
        # A row that no sample uses is exactly zero.
        unused = jnp.sum(rows**2, 1, keepdims=True) < 0.5
        return jnp.where(unused, sphere(named_key(key, "unused"), *rows.shape), rows)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return 4 * batch * d_sae + 2 * d_sae**2  # Z, its next value and what it is scaled by


@dataclass(frozen=True)
class Spectral(Init):
    """Top eigenvectors of pairwise reweighted covariances (Arora et al. 2015, algorithm 3)."""

    oversample: int = 8

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        return spectral_directions(key, data.x, d_sae, self.oversample)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        return self.oversample * d_sae * (batch + 4 * d_in)  # the weight of each input in each pair
