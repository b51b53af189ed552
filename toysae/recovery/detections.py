"""How well latents detect features: counts and moments of matched pairs, streamed.

Three sets of pairs are followed: every feature with its best latent, every latent with its best
feature, and, in counts alone, every feature with its one-to-one partner. None needs
`[batch, n_features] x [batch, d_sae]`: a feature's statistics are gathered at the few slots in
which features are on, a latent's from the booleans of its own feature.

Memory, besides z `[batch, d_sae]`: histograms of ``4 * N_BINS * (n_features + d_sae)`` bytes
(N_BINS = 1,025: 84 MB for 16,384 features and 4,096 latents), about 12 bytes for each of
``batch * d_sae``, one for each of ``batch * n_features``, and some tens for each of
``batch * slots``.

As in :mod:`.totals`, counts are exact int32 and moments are running centred means, so that a
million samples stay accurate and a feature that is always on loses no digits.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import pytree
from ..errors import require
from ..worlds.world import Batch
from .auroc import N_BINS, ZERO_BIN, auroc, bin_of


@pytree.dataclass
class Detections:
    """Counts and moments of fixed pairs so far; a leading member axis comes from vmap.

    From `n_on` on, they are over the samples in which the feature is on, and `z` is that of the
    feature's best latent.
    """

    best_latent: Int[Array, " n_features"]
    best_feature: Int[Array, " d_sae"]
    partner: Int[Array, " n_features"]  # -1 for none
    n_samples: Int[Array, ""]
    latent_firings: Int[Array, " d_sae"]
    latent_hits: Int[Array, " d_sae"]  # the latent and its feature both fire
    latent_mean: Float[Array, " d_sae"]
    latent_variance: Float[Array, " d_sae"]
    latent_bins: Int[Array, "d_sae bins"]  # of z != 0
    n_on: Int[Array, " n_features"]
    hits: Int[Array, " n_features"]  # the feature and its latent both fire
    partner_hits: Int[Array, " n_features"]  # the feature and its partner; without one, anything
    act_mean: Float[Array, " n_features"]
    act_variance: Float[Array, " n_features"]
    z_mean: Float[Array, " n_features"]
    z_mean_off: Float[Array, " n_features"]  # over the other samples
    covariance: Float[Array, " n_features"]
    bins: Int[Array, "n_features bins"]  # of z != 0


def empty_detections(
    best_latent: Int[Array, " n_features"],
    best_feature: Int[Array, " d_sae"],
    partner: Int[Array, " n_features"],
) -> Detections:
    """Returns detections of no samples, for these pairs.

    Args:
        best_latent: the latent that stands for each feature.
        best_feature: the feature that each latent stands for.
        partner: the latent of each feature under one-to-one matching, -1 for none.
    """
    n_features, d_sae = best_latent.shape[0], best_feature.shape[0]

    def counts(*shape: int) -> Array:
        return jnp.zeros(shape, jnp.int32)

    return Detections(*[
        *(pairs.astype(jnp.int32) for pairs in (best_latent, best_feature, partner)),
        counts(), *counts(2, d_sae), *jnp.zeros((2, d_sae), jnp.float32), counts(d_sae, N_BINS),
        *counts(3, n_features), *jnp.zeros((5, n_features), jnp.float32),
        counts(n_features, N_BINS),
    ])  # fmt: skip


def add_detections(seen: Detections, batch: Batch, z: Float[Array, "batch d_sae"]) -> Detections:
    """Returns detections with one more batch.

    Args:
        seen: from :func:`empty_detections` or this function.
        batch: samples of the world, whose features are those of `seen`.
        z: latent activations of them ``[batch, d_sae]``; a latent fires where z != 0.

    Raises:
        ToysaeError: the batch has another number of features, or no rows.
    """
    n_features, d_sae = seen.best_latent.shape[0], seen.best_feature.shape[0]
    _refuse_other_shapes(batch, z, n_features, d_sae)
    z = z.astype(jnp.float32)
    where, on = batch.indices, batch.values != 0
    z_best = jnp.take_along_axis(z, seen.best_latent[where], axis=1)
    z_partner = jnp.take_along_axis(z, jnp.maximum(seen.partner, 0)[where], axis=1)

    def total(values: Array) -> Array:
        """[batch, slots] -> [n_features]"""
        values = jnp.where(on, values, 0)
        if batch.in_order:
            return values.sum(0)
        return jnp.zeros(n_features, values.dtype).at[where].add(values)

    n_on = total(jnp.ones_like(where))
    some = jnp.maximum(n_on, 1)
    z_sum = total(z_best)
    act_mean, z_mean = total(batch.values) / some, z_sum / some
    act, response = batch.values - act_mean[where], z_best - z_mean[where]
    n = seen.n_on + n_on
    share = n_on / jnp.maximum(n, 1)
    act_shift, z_shift = act_mean - seen.act_mean, z_mean - seen.z_mean

    latent_share = z.shape[0] / (seen.n_samples + z.shape[0]).astype(jnp.float32)
    n_off = z.shape[0] - n_on
    z_mean_off = (z.sum(0)[seen.best_latent] - z_sum) / jnp.maximum(n_off, 1)
    share_off = n_off / jnp.maximum(seen.n_samples - seen.n_on + n_off, 1)
    latent_mean = z.mean(0)
    latent_shift = latent_mean - seen.latent_mean
    return Detections(
        best_latent=seen.best_latent,
        best_feature=seen.best_feature,
        partner=seen.partner,
        n_samples=seen.n_samples + z.shape[0],
        latent_firings=seen.latent_firings + (z != 0).sum(0, dtype=jnp.int32),
        latent_hits=seen.latent_hits + _hits(batch, z != 0, seen.best_feature),
        latent_mean=seen.latent_mean + latent_share * latent_shift,
        latent_variance=_merged(
            seen.latent_variance, ((z - latent_mean) ** 2).mean(0), latent_shift**2, latent_share
        ),
        latent_bins=_counted(seen.latent_bins, jnp.arange(d_sae)[None], z, z != 0),
        n_on=n,
        hits=seen.hits + total((z_best != 0).astype(jnp.int32)),
        partner_hits=seen.partner_hits + total((z_partner != 0).astype(jnp.int32)),
        act_mean=seen.act_mean + share * act_shift,
        act_variance=_merged(seen.act_variance, total(act**2) / some, act_shift**2, share),
        z_mean=seen.z_mean + share * z_shift,
        z_mean_off=seen.z_mean_off + share_off * (z_mean_off - seen.z_mean_off),
        covariance=_merged(
            seen.covariance, total(act * response) / some, act_shift * z_shift, share
        ),
        bins=_counted(seen.bins, where, z_best, on & (z_best != 0)),
    )


def _refuse_other_shapes(batch: Batch, z: Array, n_features: int, d_sae: int) -> None:
    require(batch.n_features == n_features, f"the batch has {batch.n_features} features, these "
            f"pairs {n_features}: match the SAE with the directions of the same world")  # fmt: skip
    fits = z.ndim == 2 and z.shape == (len(batch.x), d_sae)
    require(fits, f"z of shape {list(z.shape)} must be [{len(batch.x)} samples, d_sae {d_sae}]")
    require(z.shape[0] > 0, "z has no rows: leave out empty batches")


def _merged(old: Array, new: Array, shifts: Array | float, share: Array) -> Array:
    """A mean or a second moment with a batch of which it is this share."""
    return old + share * (new - old) + share * (1 - share) * shifts


def _counted(bins: Array, rows: Array, z: Array, counted: Array) -> Array:
    """Adds the values that count to the histograms; zeros follow from the counts of firings."""
    rows = jnp.where(counted, rows, bins.shape[0])
    return bins.at[rows, bin_of(z)].add(1, mode="drop")


def _hits(batch: Batch, fires: Array, best_feature: Array) -> Int[Array, " d_sae"]:
    """Counts the samples in which a latent and its feature both fire."""
    rows = jnp.arange(fires.shape[0])[:, None]
    on = batch.values != 0
    if not batch.in_order:
        on = jnp.zeros((len(on), batch.n_features), bool).at[rows, batch.indices].max(on)
    return (fires & on[:, best_feature]).sum(0, dtype=jnp.int32)


@jax.jit
def aurocs(seen: Detections) -> tuple[Float[Array, " n_features"], Float[Array, " n_features"]]:
    """Returns AUROC of each feature's latent and a bound on its error, see :mod:`.auroc`; NaN where
    the feature was always or never on. 256 features at a time."""

    def one(of: tuple[Array, ...]) -> tuple[Array, Array]:
        bins, hits, n_on, latent = of
        n_off, false_fires = seen.n_samples - n_on, seen.latent_firings[latent] - hits
        on = bins.at[ZERO_BIN].set(n_on - hits)
        off = (seen.latent_bins[latent] - bins).at[ZERO_BIN].set(n_off - false_fires)
        return auroc(on, off)

    of_each = (seen.bins, seen.hits, seen.n_on, seen.best_latent)
    return jax.lax.map(one, of_each, batch_size=256)
