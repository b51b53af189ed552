"""Scores as SAELens 6.54 defines them, for comparison with its numbers.

They follow its ``sae_lens.synthetic.evals`` and ``ExplainedVarianceCalculator``, on the same sample
as ours. Unlike ours, they ignore sign, average over *all* latents, and take 0 for what is undefined
(a dead latent's precision, the recall of a feature that never fired). `l0`, `true_l0` and
`dead_latents` are the same number in both.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import pytree
from .records import Records
from .totals import Totals

_LEAST_NORM = 1e-6  # inputs no longer than this are left out of shrinkage
_LEAST_VARIANCE = 1e-10  # inputs below this count as constant, errors below it as 0


@pytree.dataclass
class NormRatio:
    """Mean of ‖x_hat‖/‖x‖ so far, over inputs of more than 1e-6."""

    n: Int[Array, ""]
    mean: Float[Array, ""]


def empty_ratio() -> NormRatio:
    """Returns the ratio of no samples."""
    return NormRatio(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))


def add_ratio(
    ratio: NormRatio, x: Float[Array, "batch d_in"], x_hat: Float[Array, "batch d_in"]
) -> NormRatio:
    """Returns the running mean (see :mod:`.totals`) with one more batch."""
    norm, norm_hat = (jnp.sqrt(jnp.sum(a.astype(jnp.float32) ** 2, -1)) for a in (x, x_hat))
    valid = norm > _LEAST_NORM
    n = ratio.n + valid.sum(dtype=jnp.int32)
    excess = jnp.where(valid, norm_hat / jnp.where(valid, norm, 1) - ratio.mean, 0).sum()
    return NormRatio(n, ratio.mean + excess / jnp.maximum(n, 1))


def saelens_scores(records: Records, totals: Totals, ratio: NormRatio) -> dict[str, float]:
    """Returns SAELens' scores, from records and totals of the same sample.

    Args:
        records: from :func:`toysae.recovery.measure`.
        totals: of the sample.
        ratio: of the sample.

    Returns:
        - `saelens_mcc`: mean \\|cos\\| under one-to-one matching, of min(n_features, d_sae) pairs;
        - `saelens_uniqueness`: distinct argmax-\\|cos\\| features / d_sae;
        - `saelens_precision`, `_recall`, `_f1`, `_accuracy`: of each latent as a detector of its
          argmax-\\|cos\\| feature, mean over all latents; NaN where other features fire than are
          scored against;
        - `saelens_dead_latents`: number that never fired in the sample;
        - `saelens_shrinkage`: mean ‖x_hat‖/‖x‖ over inputs longer than 1e-6, 0 if there is none;
        - `saelens_explained_variance`: 1 - E‖x-x_hat‖² / (E‖x‖² - ‖E x‖²); where that variance is
          below 1e-10, 1 if the error is too, else 0.

        One difference remains: SAELens scales down the cosines of rows shorter than 1e-8.
    """
    latents = records.latents
    measured = bool(latents["accuracy"].notna().all())
    detection = {
        f"saelens_{name}": float(latents[name].fillna(0).mean()) if measured else np.nan
        for name in ("precision", "recall", "f1", "accuracy")
    }
    error, variance = float(totals.squared_error), float(totals.variance)
    constant = variance < _LEAST_VARIANCE
    ev = float(error < _LEAST_VARIANCE) if constant else 1 - error / variance
    return {
        "saelens_mcc": float(records.features["partner_abs_cos"].mean()),
        "saelens_uniqueness": latents["best_feature"].nunique() / len(latents),
        **detection,
        "saelens_dead_latents": int(latents["dead"].sum()),
        "saelens_shrinkage": float(ratio.mean),
        "saelens_explained_variance": ev,
    }
