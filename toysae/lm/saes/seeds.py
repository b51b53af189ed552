"""What the dictionaries of several seeds have in common, at the end and before any step."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float

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
    """Of each latent the largest cosine with a living latent of another SAE; NaN if none lives."""
    best = jnp.where(other_alive, cosines(W_dec, other), -jnp.inf).max(1)
    return jnp.where(jnp.isfinite(best), best, jnp.nan)


def shared_by_seeds(
    cells: Sequence[Cell], results: Results
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Compares the dictionaries of seeds, at the end and before any step.

    Args:
        cells: of a site.
        results: all that they ask for.

    Returns:
        A table by row of the results': `mmcs_seeds`, the mean over living latents of the largest
        cosine with a living latent of another seed (mean over the seeds), `mcs_seeds_above_0.9` the
        share of them above .9; `mmcs_seeds_init`, what they had in common before any step, as
        seeds of an init that is no draw have. NaN of an SAE that diverged, or of a lone seed. And
        of each cell by name `[rows, d_sae]`, the MCS of every latent in the next seed; NaN of dead
        latents.
    """
    table, frames, found = results.table, [], {}
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
        found[cell.name] = mcs
    return pd.concat(frames, ignore_index=True), found


def _across_seeds(
    W_dec: np.ndarray, alive: np.ndarray, hypers: Mapping[str, np.ndarray], diverged: np.ndarray
) -> tuple[np.ndarray, pd.DataFrame]:
    """Members that differ only in their seed against each other."""
    n = len(W_dec)
    point = np.stack([np.asarray(v, np.float64) for v in hypers.values()], 1)
    first, rows = np.full(alive.shape, np.nan), []
    for i in range(n):
        same = [j for j in range(n) if j != i and (point[j] == point[i]).all() and not diverged[j]]
        same = sorted(same, key=lambda j: (j - i) % n)
        found = [] if diverged[i] else [
            np.where(alive[i], np.asarray(mcs_in(W_dec[i], W_dec[j], alive[j])), np.nan)
            for j in same
        ]  # fmt: skip
        if found:
            first[i] = found[0]
        kept = np.concatenate([f[np.isfinite(f)] for f in found]) if found else np.empty(0)
        rows.append({
            "mmcs_seeds": kept.mean() if len(kept) else np.nan,
            "mcs_seeds_above_0.9": (kept > 0.9).mean() if len(kept) else np.nan,
        })  # fmt: skip
    return first, pd.DataFrame(rows)
