"""Tests whether latents are neurons: how near their decoder rows are to single coordinates, and how
well a single coordinate predicts their activations (Bricken et al. 2023, "Towards Monosemanticity":
the features are not neurons).

Both are compared with coordinates that mean nothing: for random directions, after a random rotation
of the activations, and with principal axes as coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...lazy import pd
from ...recovery.geometry import basis_alignment, random_basis_alignment
from ..capture.stream import Source
from ..saes.firing import OnBatch, activation_batches, checked_latents
from ..saes.site_sae import SiteSAE


@dataclass(frozen=True)
class Neurons:
    """Latents compared with coordinates of the activations.

    Attributes:
        table: a row a latent: `latent`; `axis_cos`, the largest |cos| of its decoder row with a
            coordinate, and `axis`, that coordinate; `neuron_corr`, the largest |correlation| of its
            activation with a coordinate over tokens, and `neuron`, that coordinate; `rotated_corr`,
            the same with the coordinates of randomly rotated activations; `pca_corr`, with those
            along principal axes. Correlations of a latent that never varies are NaN.
        random_axis_cos: the expected `axis_cos` of a random direction.
        pca_axis_cos: `[d]` `axis_cos` of the principal axes, strongest first.
        n_tokens: that the correlations are over.
    """

    table: pd.DataFrame
    random_axis_cos: float
    pca_axis_cos: Float[np.ndarray, " d"]
    n_tokens: int

    def summary(self) -> dict[str, float]:
        """Medians over latents, and what they would be if coordinates meant nothing."""
        medians = self.table[["axis_cos", "neuron_corr", "rotated_corr", "pca_corr"]].median()
        return {
            **{str(name): float(value) for name, value in medians.items()},
            "random_axis_cos": self.random_axis_cos,
            "pca_axis_cos": float(np.median(self.pca_axis_cos)),
        }


def neurons(
    sae: SiteSAE,
    source: Source,
    sequences: Int[np.ndarray, " n"],
    latents: Sequence[int] | Int[np.ndarray, " n_latents"] | None = None,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    on_batch: OnBatch = lambda tokens: None,
) -> Neurons:
    """Compares latents with coordinates, at a memory that does not grow with the tokens read.
    Arguments that are not below are those of :func:`.latent_firing`.

    Args:
        latents: which; all if not given.
        seed: of the rotation.

    Raises:
        ToysaeError: a latent that the SAE does not have, or no activations.
    """
    d_sae = len(sae.W_dec)
    chosen = checked_latents(np.arange(d_sae) if latents is None else latents, d_sae)
    cov_zx, var_z, cov_x, n = _moments(sae, source, sequences, chosen, batch_size, on_batch)
    d = len(cov_x)
    values, axes = np.linalg.eigh(cov_x)
    axes = axes[:, np.argsort(-values)]
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    rows = np.asarray(sae.W_dec)[chosen]
    own = _correlations(cov_zx, var_z, cov_x, np.eye(d))
    table = pd.DataFrame({
        "latent": chosen, "axis": np.abs(rows).argmax(1),
        "axis_cos": np.asarray(basis_alignment(jnp.asarray(rows)), np.float64),
        "neuron": np.nan_to_num(own).argmax(1), "neuron_corr": own.max(1),
        "rotated_corr": _correlations(cov_zx, var_z, cov_x, rotation).max(1),
        "pca_corr": _correlations(cov_zx, var_z, cov_x, axes).max(1),
    })  # fmt: skip
    along = np.asarray(basis_alignment(jnp.asarray(axes.T, jnp.float32)), np.float64)
    return Neurons(table, random_basis_alignment(d), along, n)


def _moments(
    sae: SiteSAE, source: Source, sequences: np.ndarray, chosen: np.ndarray,
    batch_size: int | None, on_batch: OnBatch,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:  # fmt: skip
    """(`[n_latents, d]` covariances of z and x, `[n_latents]` variances of z, `[d, d]` covariances
    of x, tokens)."""
    sums, n, centre = None, 0, None
    for _, acts, used in activation_batches(sae, source, sequences, batch_size):
        if centre is None:  # a large mean would cost the covariances their digits
            centre = _centres(sae, acts, used, chosen)
        more = [np.asarray(s, np.float64) for s in _sums(sae, acts, used, chosen, *centre)]
        sums = more if sums is None else [a + b for a, b in zip(sums, more, strict=True)]
        n += int(used.sum())
        on_batch(n)
    assert sums is not None
    zx, zz, xx, z, x = (total / n for total in sums)
    return zx - np.outer(z, x), zz - z**2, xx - np.outer(x, x), n


def _correlations(
    cov_zx: np.ndarray, var_z: np.ndarray, cov_x: np.ndarray, axes: np.ndarray
) -> np.ndarray:
    """The |correlations| `[n_latents, r]` with the coordinates along axes `[d, r]`; 0 with those
    that do not vary."""
    var_x = np.einsum("dr,de,er->r", axes, cov_x, axes, optimize=True)
    floor = 1e-12 * max(var_x.max(), 0)
    scale = np.where(var_x > floor, np.sqrt(np.maximum(var_x, floor)), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(var_z > 0, np.sqrt(np.maximum(var_z, 0)), np.nan)
        return np.abs(cov_zx @ axes) / scale / z[:, None]


@jax.jit
def _centres(sae: SiteSAE, acts: Array, used: Array, chosen: Array) -> tuple[Array, Array]:
    x = acts.astype(jnp.float32)
    n = jnp.maximum(used.sum(), 1)
    z, x = (jnp.where(used[..., None], a, 0).sum((0, 1)) / n for a in (sae.latents(x), x))
    return z[chosen], x


@jax.jit
def _sums(sae: SiteSAE, acts: Array, used: Array, chosen: Array, mean_z: Array, mean_x: Array):
    x = acts.astype(jnp.float32)
    z = sae.latents(x)[..., chosen] - mean_z
    z, x = (jnp.where(used[..., None], a, 0).reshape(-1, a.shape[-1]) for a in (z, x - mean_x))
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return product(z.T, x), jnp.sum(z**2, 0), product(x.T, x), z.sum(0), x.sum(0)
