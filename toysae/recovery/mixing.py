"""How latents mix features: hedging, composition, splitting, merging.

- **Excess** of latent j on feature h: cos(d_j, f_h) - cos(d_j, f_g) cos(f_g, f_h), what it has of h
  beyond what its own feature g explains; in orthogonal worlds the cosine itself. Its own feature is
  the one it reads and writes most, argmax_g min(cos(e_j, f_g), cos(d_j, f_g)): the one it writes
  most may be a parent that it has absorbed.
- **Hedging** (Feature Hedging, arXiv 2505.11756): a correlated feature is mixed into *both* the
  encoder and the decoder, with the same sign; absorption mixes it into the decoder of one latent
  and out of the encoder of the other. A latent's score is the largest over h of
  min(|excess of decoder|, |excess of encoder|) where the signs agree.
- **Composition**: the number of features in a decoder row, as the participation ratio
  (Σ c²)² / Σ c⁴ of its non-negative OMP code c of at most 8 true features.
- **Splitting**: several living latents stand for one feature. **Merging**: one latent is the best
  latent of several features and fires for each of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..lazy import pd
from ..sae.pursuit import orthogonal_matching_pursuit
from ..worlds.dictionaries import unit_rows

SPLIT = 0.7
"""Cosine above which a latent counts as one of those that share its best feature."""
MERGED = 0.5
"""Cosine and recall above which a feature counts as one of those of its best latent."""
_MOST_FEATURES = 8
_ROWS = 512


@jax.jit
def hedging(
    directions: Float[Array, "n_features d_in"],
    W_dec: Float[Array, "d_sae d_in"],
    enc_rows: Float[Array, "d_sae d_in"],
    best_feature: Int[Array, " d_sae"],
) -> tuple[Float[Array, " d_sae"], Int[Array, " d_sae"]]:
    """Returns how much of another feature each latent reads and writes, 512 latents at a time.

    Args:
        directions: true features.
        W_dec: decoder rows.
        enc_rows: encoder directions, from :func:`toysae.recovery.geometry.encoder_rows`.
        best_feature: of each latent; its own feature if there is none that it reads and writes.

    Returns:
        Values in [0, 1], and the number of that feature, meaningless where the value is 0.
    """
    features = unit_rows(directions)

    def of_latent(latent: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        dec, enc, best = latent
        reads_and_writes = jnp.minimum(features @ dec, features @ enc)
        own = jnp.where(reads_and_writes.max() > 0, reads_and_writes.argmax(), best)
        with_own = features @ features[own]

        def excess(row: Array) -> Array:
            cos = features @ row
            return (cos - cos[own] * with_own).at[own].set(0)

        dec, enc = excess(dec), excess(enc)
        both = jnp.where(dec * enc > 0, jnp.minimum(jnp.abs(dec), jnp.abs(enc)), 0)
        return both.max(), both.argmax()

    return jax.lax.map(
        of_latent, (unit_rows(W_dec), unit_rows(enc_rows), best_feature), batch_size=_ROWS
    )


@jax.jit
def features_per_latent(
    directions: Float[Array, "n_features d_in"], W_dec: Float[Array, "d_sae d_in"]
) -> Float[Array, " d_sae"]:
    """Number of features in each decoder row, in [1, 8]: 1 for one, 2 for two in equal amounts;
    NaN for a zero row or one that points away from all features. 512 rows at a time."""
    D = unit_rows(directions)

    def of_row(row: Array) -> Array:
        square = orthogonal_matching_pursuit(row, D, _MOST_FEATURES, _MOST_FEATURES) ** 2
        total = square.sum(-1)
        return jnp.where(total > 0, total**2 / jnp.sum(square**2, -1), jnp.nan)

    return jax.lax.map(of_row, unit_rows(W_dec), batch_size=_ROWS)


def shared(features: pd.DataFrame, latents: pd.DataFrame) -> pd.DataFrame:
    """Counts how features and latents share each other, from records (:mod:`.records`).

    Returns:
        The features' table with `n_latents`, the living latents whose best feature it is at a
        signed cosine above :data:`SPLIT`; and `merged`, whether its best latent also stands for
        another feature (cosine and recall of both above :data:`MERGED`), NaN where detection is.
    """
    near = latents[(latents["cos"] > SPLIT) & ~latents["dead"]]
    count = np.bincount(near["best_feature"], minlength=len(features))
    stands = (features["mcs"] > MERGED) & (features["recall"] > MERGED)
    times = np.bincount(features["best_latent"][stands], minlength=len(latents))
    merged = np.where(stands, times[features["best_latent"]] > 1, False).astype(float)
    unknown = features["freq"].isna()
    return features.assign(n_latents=count, merged=np.where(unknown, np.nan, merged))
