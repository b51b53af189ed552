"""What an SAE's latents do on a layer, as a world's panel says it of the true features."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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
    """How often latents fire, how strongly, and which of them together.

    Args:
        name: of the SAE.
        sae: whose latents; coefficients are in the units of x, of unit decoder rows.
        source: of its site's activations.
        sequences: which to read.
        stats: the panel of the same activations.
    """
    rows = np.asarray(sae.W_dec, np.float64)
    norms = np.linalg.norm(rows, axis=1)
    unit = norms / float(sae.scale)
    counts, largest = np.zeros(len(rows)), 0.0
    for _, acts, used in activation_batches(sae, source, sequences, None):
        z = np.asarray(_latents(sae, jnp.asarray(acts)))[used]
        counts += (z != 0).sum(0)
        largest = max(largest, float(np.abs(z * unit).max(initial=0)))
    chosen, edges = most_frequent(counts), magnitude_edges(largest)
    sums = FeatureSums(len(rows), len(chosen))
    for _, acts, used in activation_batches(sae, source, sequences, None):
        z = np.asarray(_latents(sae, jnp.asarray(acts)))[used] * unit
        sums.add(_sums_of(z, chosen, edges))
    directions = rows / np.maximum(norms, 1e-30)[:, None]
    return feature_panel(name, directions, stats, sums, chosen, edges)


@jax.jit
def _latents(sae: SiteSAE, acts: Float[Array, "b s d"]) -> Float[Array, "b s d_sae"]:
    return sae.latents(acts)


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
