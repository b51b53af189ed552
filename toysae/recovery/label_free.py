"""Signals that need no truth, and how well they agree with it.

The interim report (Sharkey et al. 2022) proposed MMCS with larger dictionaries, the onset of dead
latents and the plateau of the loss; others compare seeds, or the decoder's own cosines (Sparse but
Wrong, arXiv 2508.16560). Here a signal is a column, larger meaning better. It is judged by its rank
correlation with true recovery over a grid of SAEs on one world, and by **regret**: what is lost by
choosing the SAE that it ranks first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from ..errors import require
from ..lazy import pd
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
    """MMCS of one dictionary in another: the mean over its latents of the largest cosine there.

    Args:
        W_dec: decoder rows, e.g. of the smaller SAE.
        other: decoder rows of the larger SAE, or of another seed.
        alive: which latents of the first count; all if not given.
        other_alive: which latents of the other count.

    Returns:
        In [-1, 1]; NaN where no latent of either counts.
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
    """Stability: the mean cosine of two dictionaries' living latents, matched one to one.

    Latents of the larger dictionary without a partner count 0. NaN without any latents.
    """
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
            scores, larger meaning better. SAEs that lack a signal do not count for it.
        signals: columns of signals.
        truths: columns of true scores.
        by: columns of settings of the world, e.g. ``["world"]``.
        within: settings to hold fixed: correlations are taken at each of their values and averaged,
            e.g. ``["size"]`` for how well a signal chooses the L1 of an SAE of given size.

    Returns:
        One row for each combination of values of `by`, signal and true score: `mean` correlation
        over world seeds, `half_width` of its 95 % Student-t interval, `n` world seeds, and
        `regret`, `regret_half_width`: the best true score less that of the SAE that the signal
        ranks first. Worlds in which the signal or the score never varies do not count.

    Raises:
        ToysaeError: a missing column.
    """
    by, within = list(by), list(within)
    require_columns(table, [*by, *within, "world_seed", *signals, *truths])
    require(len(signals) > 0 and len(truths) > 0, "give at least one signal and one true score")
    rows = []
    for values, saes in table.groupby(by) if by else [((), table)]:
        worlds = [world for _, world in saes.groupby("world_seed")]
        for signal, truth in product(signals, truths):
            worths = np.array([_worth(world, signal, truth, within) for world in worlds])
            rho, regret = (student_t(column) for column in worths.T)
            rows.append({
                **dict(zip(by, values, strict=True)), "signal": signal, "truth": truth,
                "mean": rho.mean, "half_width": rho.half_width, "n": rho.n,
                "regret": regret.mean, "regret_half_width": regret.half_width,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _worth(world: pd.DataFrame, signal: str, truth: str, within: list[str]) -> tuple[float, float]:
    """Correlation and regret on one world."""
    rho, regret = [], []
    for _, saes in world.groupby(within) if within else [((), world)]:
        known = saes[[signal, truth]].dropna()
        if known[signal].nunique() < 2 or known[truth].nunique() < 2:
            continue
        signals, scores = known[signal].to_numpy(float), known[truth].to_numpy(float)
        rho.append(scipy.stats.spearmanr(signals, scores)[0])
        regret.append(scores.max() - scores[signals.argmax()])
    return (float(np.mean(rho)), float(np.mean(regret))) if rho else (np.nan, np.nan)
