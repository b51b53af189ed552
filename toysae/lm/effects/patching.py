"""How many latents have to be patched for a corrupted prompt to be answered as the clean one is
(Cunningham et al. 2023, arXiv 2309.08600), compared with PCA directions and the whole activation.

In the run of a corrupted prompt some coefficients, of chosen directions at chosen positions, are
set to those of the clean run; all else stays, including an SAE's error. Coefficients are chosen by
their attribution, the gradient of the logit difference times their change: one backward pass.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...errors import require
from ...lazy import pd
from ..models.forward import LM
from ..saes.site_sae import SiteSAE
from .attribution import (
    Pieces,
    Runs,
    difference,
    direction_pieces,
    latent_pieces,
    measured,
    run_pairs,
)
from .pairs import PromptPairs

MEASURES = ("logit_diff", "kl", "norm", "n_patched")


def patching_curve(
    model: LM,
    sae: SiteSAE,
    pairs: PromptPairs,
    axes: Float[np.ndarray | Array, "r d"] | None = None,
    *,
    signed: bool = True,
    batch_size: int = 8,
) -> pd.DataFrame:
    """The answers of corrupted prompts with k coefficients patched, k = 0, 1, 2, 4, ..., all.

    Args:
        model: that the SAE is of.
        sae: whose latents are patched; its error stays the corrupted run's.
        pairs: of prompts.
        axes: orthonormal directions patched in the same way, e.g. principal axes of the site.
        signed: coefficients that raise the logit difference most come first, those that lower it
            last; otherwise the largest effects of either sign come first.
        batch_size: pairs at once.

    Returns:
        Rows by `arm`: "clean", the clean run; "latents" for each `k`, the number of (position,
        latent) pairs; "axes" likewise, if given; "error", the SAE's error alone; "activation", the
        whole activations of the site: the ceiling. Means over pairs: `n_patched`, at most k;
        `logit_diff` of the answer and the wrong answer, with `logit_diff_half_width` of its 95 %
        interval; `recovered`, the share of the way from the corrupted run's mean to the clean
        run's; `kl` from the clean run's prediction, in nats; `norm`, the edit's L2 norm over that
        of the whole activations' change (NaN if they do not change).

    Raises:
        ToysaeError: before anything runs: an SAE that does not fit the model, token ids that it
            does not have, axes of another width.
    """
    batches: dict[str, list[np.ndarray]] = {}
    directions = None if axes is None else jnp.asarray(axes)
    if directions is not None:
        n_dims, d = directions.shape[1], sae.sae.spec.d_in
        require(n_dims == d, f"the axes have {n_dims} dimensions, not {d}")
    for runs, n in run_pairs(model, sae, pairs, batch_size):
        latents = latent_pieces(sae, runs, signed)
        whole = jnp.where(runs.patched[..., None], runs.clean - runs.corrupted, 0)
        error = whole - latents.vector(latents.delta[0].size)
        arms = {"clean": [_clean(runs)], "latents": _curve(model, sae.site, runs, latents)}
        if directions is not None:
            pieces = direction_pieces(directions, runs, signed)
            arms["axes"] = _curve(model, sae.site, runs, pieces)
        arms["error"] = [measured(model, sae.site, runs, error)]
        arms["activation"] = [measured(model, sae.site, runs, whole)]
        for arm, rows in arms.items():
            values = np.array([[row.get(m, np.nan * row["kl"]) for m in MEASURES] for row in rows])
            batches.setdefault(arm, []).append(values[..., :n].astype(np.float64))
    return _table({arm: _all_pairs(parts) for arm, parts in batches.items()})


def _curve(model: LM, site: str, runs: Runs, pieces: Pieces) -> list[dict[str, Array]]:
    """Measures at k = 0, 1, 2, 4, ... up to the most that changes in one of these pairs, then with
    everything patched."""
    counts, size = jnp.sum(pieces.delta != 0, (1, 2)), pieces.delta[0].size
    most = int(counts.max())
    ks = [0, *(2**i for i in range(most.bit_length()) if 2**i < most), size]
    return [
        measured(model, site, runs, pieces.vector(k)) | {"n_patched": jnp.minimum(counts, k)}
        for k in ks
    ]


def _all_pairs(batches: list[np.ndarray]) -> np.ndarray:
    """The measures of all pairs, `[k, measure, n]`; at a k beyond what changes in a batch, all of
    it is patched."""
    longest = max(map(len, batches))
    padded = [
        np.concatenate([rows[:-1], np.repeat(rows[-1:], 1 + longest - len(rows), 0)])
        for rows in batches
    ]
    return np.concatenate(padded, 2)


def _table(arms: dict[str, np.ndarray]) -> pd.DataFrame:
    low, high = arms["latents"][0, 0].mean(), arms["clean"][0, 0].mean()
    rows = []
    for arm, curve in arms.items():
        ks = ["0", *(str(2**i) for i in range(len(curve) - 2)), "all"] if len(curve) > 1 else [""]
        for k, (diff, kl, norm, n_patched) in zip(ks, curve, strict=True):
            spread = diff.std(ddof=1) / len(diff) ** 0.5 if len(diff) > 1 else np.nan
            rows.append({
                "arm": arm, "k": k, "n_patched": n_patched.mean(), "logit_diff": diff.mean(),
                "logit_diff_half_width": 1.96 * spread,
                "recovered": (diff.mean() - low) / (high - low) if high != low else np.nan,
                "kl": kl.mean(), "norm": norm.mean(),
            })  # fmt: skip
    return pd.DataFrame(rows)


@jax.jit
def _clean(runs: Runs) -> dict[str, Array]:
    diff = difference(runs.log_p, runs.pairs)
    return {"logit_diff": diff, "kl": jnp.zeros_like(diff), "norm": jnp.ones_like(diff)}
