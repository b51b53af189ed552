"""What else is in a latent: hedging, composition, splitting, merging.

- **Excess** of latent j on feature h, g being its own feature: cos(d_j, f_h) - cos(d_j, f_g)
  cos(f_g, f_h), what it has of h beyond what being g explains. In orthogonal worlds that is the
  cosine itself. Its own is the feature that it reads and writes most, argmax_g min(cos(e_j, f_g),
  cos(d_j, f_g)): what a latent writes most may be the parent that it has absorbed.
- **Hedging** (Feature Hedging, arXiv 2505.11756): a correlated feature is mixed into *both* the
  encoder and the decoder, with the same sign; absorption mixes it into the decoder of one latent
  and out of the encoder of the other. Per latent the largest over h of min(|excess of decoder|,
  |excess of encoder|) where the signs agree.
- **Composition**: how many features a decoder row is made of, the participation ratio
  (Σ c²)² / Σ c⁴ of its non-negative OMP code c of at most 8 true features.
- **Splitting**: several living latents stand for one feature. **Merging**: one latent is the best
  of several features and fires for each of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int

from ..sae.pursuit import orthogonal_matching_pursuit
from ..worlds.dictionaries import unit_rows

SPLIT = 0.7
"""Cosine from which a latent counts as one of those that share its best feature."""
MERGED = 0.5
"""Cosine and recall from which a feature counts as one of those that its best latent stands for."""
_PARTS = 8
_ROWS = 512


@jax.jit
def hedging(
    directions: Float[Array, "n_features d_in"],
    W_dec: Float[Array, "d_sae d_in"],
    enc_rows: Float[Array, "d_sae d_in"],
    best_feature: Int[Array, " d_sae"],
) -> tuple[Float[Array, " d_sae"], Int[Array, " d_sae"]]:
    """How much of another feature each latent both reads and writes, and which; 512 at a time.

    Args:
        directions: true features.
        W_dec: decoder rows.
        enc_rows: encoder directions, from :func:`toysae.recovery.geometry.encoder_rows`.
        best_feature: of each latent; its own, where there is none that it reads and writes.

    Returns:
        Values in [0, 1], and the feature, which means nothing where the value is 0.
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
    """Of how many features each decoder row is made, in [1, 8]: 1 for a feature, 2 for two in
    equal parts; NaN for a zero row or one that points away from all. 512 rows at a time."""
    D = unit_rows(directions)

    def of_row(row: Array) -> Array:
        square = orthogonal_matching_pursuit(row, D, _PARTS, _PARTS) ** 2
        total = square.sum(-1)
        return jnp.where(total > 0, total**2 / jnp.sum(square**2, -1), jnp.nan)

    return jax.lax.map(of_row, unit_rows(W_dec), batch_size=_ROWS)


def shared(features: pd.DataFrame, latents: pd.DataFrame) -> pd.DataFrame:
    """How features and latents share each other, from records (:mod:`.records`) with detection.

    Returns:
        The features' table with `n_latents`, living latents whose best feature it is at a signed
        cosine above :data:`SPLIT`; and `merged`, whether its best latent stands for another
        feature too (cosine and recall of both above :data:`MERGED`), NaN where detection is.
    """
    near = latents[(latents["cos"] > SPLIT) & ~latents["dead"]]
    count = np.bincount(near["best_feature"], minlength=len(features))
    stands = (features["mcs"] > MERGED) & (features["recall"] > MERGED)
    times = np.bincount(features["best_latent"][stands], minlength=len(latents))
    merged = np.where(stands, times[features["best_latent"]] > 1, False).astype(float)
    unknown = features["freq"].isna()
    return features.assign(n_latents=count, merged=np.where(unknown, np.nan, merged))
