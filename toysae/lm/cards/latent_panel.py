"""The panel of an SAE's latents on a layer, with the statistics of a world's true features."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ...worlds.panel.activations import PanelStats
from ...worlds.panel.features import (
    FeaturePanel,
    FeatureSums,
    feature_panel,
    magnitude_edges,
    most_frequent,
)
from ..capture.stream import Source
from ..saes.firing import activation_batches
from ..saes.site_sae import SiteSAE


def latent_panel(
    name: str, sae: SiteSAE, source: Source, sequences: Int[np.ndarray, " n"], stats: PanelStats
) -> FeaturePanel:
    """Computes how often latents fire, how strongly, and which of them together.

    Args:
        name: of the SAE.
        sae: whose latents are read; coefficients are in the units of x, for unit decoder rows.
        source: of its site's activations.
        sequences: which to read.
        stats: the panel of the same activations.
    """
    rows = np.asarray(sae.W_dec, np.float64)
    norms = np.linalg.norm(rows, axis=1)
    unit = norms / float(sae.scale)
    counts, largest = np.zeros(len(rows)), 0.0
    for z in _latents(sae, source, sequences):
        counts += (z != 0).sum(0)
        largest = max(largest, float(np.abs(z * unit).max(initial=0)))
    chosen, edges = most_frequent(counts), magnitude_edges(largest)
    sums = FeatureSums(len(rows), len(chosen))
    for z in _latents(sae, source, sequences):
        sums.add(_sums_of(z * unit, chosen, edges))
    directions = rows / np.maximum(norms, 1e-30)[:, None]
    return feature_panel(name, directions, stats, sums, chosen, edges)


def _latents(
    sae: SiteSAE, source: Source, sequences: np.ndarray
) -> Iterator[Float[np.ndarray, "n d_sae"]]:
    """Yields the latents of some sequences, a batch at a time."""
    for _, acts, used in activation_batches(sae, source, sequences, None):
        yield np.asarray(_encoded(sae, jnp.asarray(acts)))[used]


_encoded = jax.jit(SiteSAE.latents)


def _sums_of(
    z: Float[np.ndarray, "n d_sae"], chosen: np.ndarray, edges: np.ndarray
) -> dict[str, np.ndarray]:
    row, latent = np.nonzero(z)
    value, d_sae = z[row, latent], z.shape[1]
    count = np.bincount(latent, minlength=d_sae).astype(float)
    mean = np.bincount(latent, value, d_sae) / np.maximum(count, 1)
    fires = (z[:, chosen] != 0).astype(np.float32)
    return {
        "l0": np.bincount(row, minlength=len(z)),
        "count": count[None],
        "mean": mean[None],
        "square": np.bincount(latent, (value - mean[latent]) ** 2, d_sae)[None],
        "together": fires.T @ fires,
        "bins": np.histogram(np.clip(value, edges[0], edges[-1]), edges)[0],
    }
