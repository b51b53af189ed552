"""Signals that need no truth, and how far each can be trusted.

The interim report (Sharkey et al. 2022) proposed MMCS with larger dictionaries, the onset of dead
latents and the plateau of the loss; others compare seeds, or look at the decoder's own cosines
(Sparse but Wrong, arXiv 2508.16560). Here a signal is a column, larger meaning better, and its
worth is its rank correlation with true recovery over a grid of SAEs on one world, and what one
loses by choosing the SAE that it likes best (**regret**).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from ..errors import require
from .intervals import require_columns, student_t
from .matching import partners
from .mcs import cosines


@jax.jit
def found_in(
    W_dec: Float[Array, "d_sae d_in"],
    other: Float[Array, "d_other d_in"],
    alive: Bool[Array, " d_sae"] | None = None,
    other_alive: Bool[Array, " d_other"] | None = None,
) -> Float[Array, ""]:
    """MMCS of one dictionary in another: mean over its latents of the largest cosine there.

    Args:
        W_dec: decoder rows, e.g. of the smaller SAE.
        other: decoder rows of the larger one, or of another seed.
        alive: which latents count; all if not given.
        other_alive: which may be found.

    Returns:
        In [-1, 1]; NaN where no latent counts or none may be found.
    """
    cos = cosines(W_dec, other)
    if other_alive is not None:
        cos = jnp.where(other_alive, cos, -jnp.inf)
    best = cos.max(1)
    best = jnp.where(jnp.isfinite(best), best, jnp.nan)
    return best.mean() if alive is None else jnp.mean(best, where=alive)


_cosines = jax.jit(cosines)


def matched_cosine(
    W_dec: ArrayLike,
    other: ArrayLike,
    alive: ArrayLike | None = None,
    other_alive: ArrayLike | None = None,
) -> float:
    """Stability: the mean cosine of two dictionaries' living latents, matched one to one; over as
    many pairs as the larger has latents, those without a partner counting 0. NaN without any."""
    cos = np.asarray(_cosines(jnp.asarray(W_dec), jnp.asarray(other)), np.float64)
    if alive is not None:
        cos = cos[np.asarray(alive, bool)]
    if other_alive is not None:
        cos = cos[:, np.asarray(other_alive, bool)]
    if not cos.size:
        return np.nan
    latent = partners(cos)
    matched = cos[latent >= 0, latent[latent >= 0]]
    return float(matched.sum() / max(cos.shape))


def rank_correlations(
    table: pd.DataFrame,
    signals: Sequence[str],
    truths: Sequence[str],
    by: Sequence[str],
    within: Sequence[str] = (),
) -> pd.DataFrame:
    """Spearman's correlation of each signal with each true score over the SAEs of one world.

    Args:
        table: one row an SAE: `world_seed`, the columns of `by` and `within`, signals and true
            scores, larger meaning better. An SAE that lacks a signal has no say in it.
        signals: columns.
        truths: columns.
        by: which worlds are alike, e.g. ``["world"]``.
        within: settings to hold fixed: correlations are taken at each of their values and averaged,
            e.g. ``["size"]`` for how well a signal chooses the L1 of an SAE of given size.

    Returns:
        One row a group of `by`, signal and true score: `mean` correlation over world seeds,
        `half_width` of its 95 % Student-t interval, `n` world seeds, and `regret`,
        `regret_half_width`: the best true score less that of the SAE that the signal likes best.
        A world in which the signal or the score never varies has no say.

    Raises:
        ToysaeError: a missing column.
    """
    by, within = list(by), list(within)
    require_columns(table, [*by, *within, "world_seed", *signals, *truths])
    require(len(signals) > 0 and len(truths) > 0, "give at least one signal and one true score")
    rows = []
    for names, group in table.groupby(by) if by else [((), table)]:
        for signal in signals:
            for truth in truths:
                worlds = [_worth(world, signal, truth, within)
                          for _, world in group.groupby("world_seed")]  # fmt: skip
                rho, regret = (student_t(v) for v in np.array(worlds).T)
                rows.append({
                    **dict(zip(by, names, strict=True)), "signal": signal, "truth": truth,
                    "mean": rho.mean, "half_width": rho.half_width, "n": rho.n,
                    "regret": regret.mean, "regret_half_width": regret.half_width,
                })  # fmt: skip
    return pd.DataFrame(rows)


def _worth(world: pd.DataFrame, signal: str, truth: str, within: list[str]) -> tuple[float, float]:
    """Correlation and regret on one world."""
    parts = [part for _, part in world.groupby(within)] if within else [world]
    rho, regret = [], []
    for part in parts:
        known = part[[signal, truth]].dropna()
        if known[signal].nunique() < 2 or known[truth].nunique() < 2:
            continue
        liked, score = known[signal].to_numpy(float), known[truth].to_numpy(float)
        rho.append(scipy.stats.spearmanr(liked, score)[0])
        regret.append(score.max() - score[liked.argmax()])
    return (float(np.mean(rho)), float(np.mean(regret))) if rho else (np.nan, np.nan)
