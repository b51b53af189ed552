"""Compares the dictionaries of several seeds, at the end of training and before any step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ...lazy import pd
from ...recovery import cosines
from ...runs.cell import Cell
from ...runs.results import Results
from ...training import start
from ...training import trained as start_of

SEEDS = "seeds.csv"


@jax.jit
def mcs_in(
    W_dec: Float[Array, "d_sae d_in"],
    other: Float[Array, "d_other d_in"],
    other_alive: Bool[Array, " d_other"],
) -> Float[Array, " d_sae"]:
    """The largest cosine of each latent with a living latent of another SAE; NaN if none lives."""
    best = jnp.where(other_alive, cosines(W_dec, other), -jnp.inf).max(1)
    return jnp.where(jnp.isfinite(best), best, jnp.nan)


def shared_by_seeds(
    cells: Sequence[Cell], results: Results
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Compares the dictionaries of seeds, at the end of training and before any step.

    Args:
        cells: of a site.
        results: of a run that has finished them.

    Returns:
        A table by row of the results' table: `mmcs_seeds`, the mean over living latents of the
        largest cosine with a living latent of another seed (mean over the seeds);
        `mcs_seeds_above_0.9`, the share of those cosines above .9; `mmcs_seeds_init`, `mmcs_seeds`
        before any step, which is high for an init that is not random. NaN for an SAE that diverged
        and for a lone seed. And for each cell by name `[rows, d_sae]`, the MCS of every latent in
        the next seed; NaN for dead latents.
    """
    table, frames, mcs_by_cell = results.table, [], {}
    for cell in cells:
        rows = table[table["cell"] == cell.name]
        hypers, _ = cell.hypers
        diverged = rows["diverged"].to_numpy(bool)
        alive = (results.arrays(cell.name)["firing_freq"] > 0) & ~diverged[:, None]
        W_dec = results.weights(cell.name)["W_dec"]
        mcs, columns = _across_seeds(W_dec, alive, hypers, diverged)
        at_start = np.asarray(start_of(start(cell.ensemble), cell.ensemble).W_dec[0])
        _, before = _across_seeds(at_start, np.ones_like(alive), hypers, diverged)
        frames.append(columns.assign(mmcs_seeds_init=before["mmcs_seeds"]))
        mcs_by_cell[cell.name] = mcs
    return pd.concat(frames, ignore_index=True), mcs_by_cell


def _across_seeds(
    W_dec: np.ndarray, alive: np.ndarray, hypers: Mapping[str, np.ndarray], diverged: np.ndarray
) -> tuple[np.ndarray, pd.DataFrame]:
    """Compares members that differ only in their seed: the MCS of each latent in the next seed, and
    the columns of the table."""
    n = len(W_dec)
    point = np.stack([np.asarray(v, np.float64) for v in hypers.values()], 1)
    in_next, rows = np.full(alive.shape, np.nan), []
    for i in range(n):
        others = [(i + k) % n for k in range(1, n)]
        others = [j for j in others if (point[j] == point[i]).all() and not diverged[j]]
        scores = [] if diverged[i] else [
            np.where(alive[i], np.asarray(mcs_in(W_dec[i], W_dec[j], alive[j])), np.nan)
            for j in others
        ]  # fmt: skip
        if scores:
            in_next[i] = scores[0]
        finite = np.concatenate([s[np.isfinite(s)] for s in scores]) if scores else np.empty(0)
        rows.append({
            "mmcs_seeds": finite.mean() if len(finite) else np.nan,
            "mcs_seeds_above_0.9": (finite > 0.9).mean() if len(finite) else np.nan,
        })  # fmt: skip
    return in_next, pd.DataFrame(rows)
