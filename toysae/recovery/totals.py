"""Reconstruction and sparsity scores, streamed over batches at fixed memory.

Running *means* are carried, not sums: single batches are lost in a float32 sum over 1e6 samples,
while a mean moves by ``(batch mean - mean) * batch / n`` and stays at its scale. The variance for
EV is centred as it goes (Chan, Golub and LeVeque 1983), so that a large mean of x does not cancel
it. Firings are exact int32 counts (up to 2^31 - 1 samples).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toysae.errors import require

from .. import pytree


@pytree.dataclass
class Totals:
    """Running scores of one SAE's evaluation; a leading member axis comes from vmap."""

    n_samples: Int[Array, ""]
    n_nonzero: Int[Array, ""]  # samples with x != 0, over which shrinkage is averaged
    mean_x: Float[Array, " d_in"]
    variance: Float[Array, ""]  # E‖x − E x‖²
    squared_error: Float[Array, ""]  # E‖x − x_hat‖²
    norm_ratio: Float[Array, ""]  # E‖x_hat‖/‖x‖ over nonzero x
    power: Float[Array, ""]  # E‖x_hat‖²
    overlap: Float[Array, ""]  # E x·x_hat
    firings: Int[Array, " d_sae"]


def empty_totals(d_in: int, d_sae: int) -> Totals:
    """Returns totals of no samples, for inputs of `d_in` and `d_sae` latents."""
    require(d_in > 0 and d_sae > 0, f"d_in {d_in} and d_sae {d_sae} must be at least 1")
    # Separate buffers of strong types: totals can be donated or carried through a scan.
    mean_x, firings = jnp.zeros(d_in, jnp.float32), jnp.zeros(d_sae, jnp.int32)
    counts, scores = jnp.zeros(2, jnp.int32), jnp.zeros(5, jnp.float32)
    return Totals(*[*counts, mean_x, *scores, firings])


def add_batch(
    totals: Totals,
    x: Float[Array, "batch d_in"],
    x_hat: Float[Array, "batch d_in"],
    z: Float[Array, "batch d_sae"],
) -> Totals:
    """Returns totals with one more batch.

    Args:
        totals: from :func:`empty_totals` or this function.
        x: inputs ``[batch, d_in]``; batches may differ in size.
        x_hat: reconstructions ``[batch, d_in]``.
        z: latent activations ``[batch, d_sae]``; a latent fires where z != 0.

    Returns:
        New totals, in which NaN of `x` or `x_hat` stays.

    Raises:
        ToysaeError: the batch has no rows.
    """
    require(x.shape[0] > 0, "x has no rows: leave out empty batches")
    x, x_hat = x.astype(jnp.float32), x_hat.astype(jnp.float32)
    batch = x.shape[0]
    n = totals.n_samples + batch
    share = batch / n.astype(jnp.float32)

    batch_mean = jnp.mean(x, axis=0)
    shift = batch_mean - totals.mean_x
    batch_variance = jnp.mean(jnp.sum((x - batch_mean) ** 2, axis=-1))
    variance = totals.variance + share * (batch_variance - totals.variance)

    error = jnp.mean(jnp.sum((x - x_hat) ** 2, axis=-1))
    x_norm = jnp.sqrt(jnp.sum(x**2, axis=-1))
    x_hat_norm = jnp.sqrt(jnp.sum(x_hat**2, axis=-1))
    nonzero = x_norm != 0  # True for NaN, which must show
    ratios = jnp.where(nonzero, x_hat_norm / jnp.where(nonzero, x_norm, 1), 0)
    n_nonzero = totals.n_nonzero + jnp.sum(nonzero, dtype=jnp.int32)
    excess = jnp.sum(ratios - jnp.where(nonzero, totals.norm_ratio, 0))
    return Totals(
        n_samples=n,
        n_nonzero=n_nonzero,
        mean_x=totals.mean_x + share * shift,
        variance=variance + share * (1 - share) * jnp.sum(shift**2),
        squared_error=totals.squared_error + share * (error - totals.squared_error),
        norm_ratio=totals.norm_ratio + excess / jnp.maximum(n_nonzero, 1),
        power=totals.power + share * (jnp.mean(x_hat_norm**2) - totals.power),
        overlap=totals.overlap + share * (jnp.mean(jnp.sum(x * x_hat, -1)) - totals.overlap),
        firings=totals.firings + jnp.sum(z != 0, axis=0, dtype=jnp.int32),
    )


def summarise(totals: Totals) -> dict[str, Array]:
    """Returns the scores of all samples added, defined as in SAELens 6.54.

    Args:
        totals: of one SAE (vmap over members).

    Returns:
        Scalars unless shaped: `l0` (mean latents with z != 0 per sample), `ev` (``1 - E‖x-x_hat‖²
        / (E‖x‖² - ‖E x‖²)``, at most 1), `fvu` (1 - ev), `mse` (summed over d_in, mean over
        samples), `shrinkage` (mean of ‖x_hat‖/‖x‖, rows with x = 0 left out),
        `reconstruction_bias` (the γ of least E‖x_hat / γ - x‖², E‖x_hat‖² / E x·x_hat: below 1
        where the SAE shrinks; unlike `shrinkage` it is not lowered by missing features;
        Rajamanoharan et al. 2024), `dead_latents` (int32: number that never fired in this sample),
        `dead_fraction`, `firing_freq` ``[d_sae]`` (share of samples). All but `dead_latents` are
        NaN when nothing was added or a reconstruction was NaN; ev and fvu are not finite when x
        never varies.
    """
    valid = (totals.n_samples > 0) & ~jnp.isnan(totals.squared_error)
    n = jnp.where(valid, totals.n_samples.astype(jnp.float32), jnp.nan)
    mse = jnp.where(valid, totals.squared_error, jnp.nan)
    firing_freq = totals.firings / n
    fvu = mse / totals.variance
    dead = totals.firings == 0
    return {
        "l0": jnp.sum(firing_freq),
        "ev": 1 - fvu,
        "fvu": fvu,
        "mse": mse,
        "shrinkage": jnp.where(valid & (totals.n_nonzero > 0), totals.norm_ratio, jnp.nan),
        "reconstruction_bias": jnp.where(valid, totals.power / totals.overlap, jnp.nan),
        "dead_latents": jnp.sum(dead, dtype=jnp.int32),
        "dead_fraction": jnp.where(valid, jnp.mean(dead), jnp.nan),
        "firing_freq": firing_freq,
    }
