"""What can be measured of SAEs without the truth, on activations held out from training."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float

from ..recovery import add_batch, cosines, empty_totals, random_floor, summarise
from ..sae import SAE
from ..training import Group, Trained
from .feed import Window

_BATCH = 1024
DENSE = 0.1
"""A latent that fires in more than this share of tokens is called dense."""


def curve_probe(sae: SAE, window: Any, x: Float[Array, "n d_in"]) -> dict[str, Array]:
    """EV and L0, one point of the learning curves: of rows held out, evenly over the window's pool.
    `x`, drawn from what is trained on, only says how many."""
    n_pool = window.pool.shape[0]
    x = window.normalised(window.pool[:: max(1, n_pool // len(x))][: len(x)])
    f = sae(x)
    totals = summarise(add_batch(empty_totals(*sae.W_dec.shape[::-1]), x, f.x_hat, f.z))
    return {"ev": totals["ev"], "l0": totals["l0"]}


@partial(jax.jit, static_argnames="n")
def _evaluated(saes: SAE, window: Window, n: int) -> dict[str, Array]:
    """Over the first `n` rows of the pool, in batches; leading axis of the members."""
    size = min(_BATCH, n)
    d_sae, d_in = saes.W_dec.shape[-2:]

    def body(i, totals):
        x = window.normalised(jax.lax.dynamic_slice_in_dim(window.pool, i * size, size))

        def one(totals, sae):
            f = sae(x)
            return add_batch(totals, x, f.x_hat, f.z)

        return jax.vmap(one)(totals, saes)

    empty = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (saes.W_dec.shape[0], *leaf.shape)),
        empty_totals(d_in, d_sae),
    )
    return jax.vmap(summarise)(jax.lax.fori_loop(0, n // size, body, empty))


@jax.jit
def mcs_in(
    W_dec: Float[Array, "d_sae d_in"],
    other: Float[Array, "d_other d_in"],
    other_alive: Bool[Array, " d_other"],
) -> Float[Array, " d_sae"]:
    """Of each latent the largest cosine with a living latent of another SAE; NaN if none lives."""
    best = jnp.where(other_alive, cosines(W_dec, other), -jnp.inf).max(1)
    return jnp.where(jnp.isfinite(best), best, jnp.nan)


def score_members(
    group: Group, trained: Trained, at_start: Float[np.ndarray, "n d_sae d_in"]
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Scores of every SAE of a group.

    Args:
        group: as it was trained.
        trained: its result.
        at_start: decoder rows of its members before any step.

    Returns:
        A table, one row a member: its numbers and seed; on `n_eval` activations held out, `ev`,
        `fvu`, `l0`, `mse`, `shrinkage`, `reconstruction_bias`, `dead_latents`, `dead_fraction`
        (never fired in them) and `dense_latents`; `mmcs_seeds`, the mean over living latents of the
        largest cosine with a living latent of another seed (mean over the seeds), `mcs_seeds_above`
        the share of them above .9; `mmcs_seeds_init`, what they had in common before any step, as
        seeds of an init that is no draw have; and `floor`, what random directions would score. NaN
        of a member that diverged, or of a lone seed. And arrays by row: `firing_freq` and
        `mcs_seeds` (in the next seed; NaN of dead latents) `[rows, d_sae]`, `curve_* [rows,
        points]`; `curve_steps [points]`.
    """
    saes = jax.tree.map(lambda leaf: leaf[0], trained.saes)
    window: Window = jax.tree.map(lambda leaf: leaf[0], group.worlds)
    n_pool = window.pool.shape[0]
    n = n_pool // min(_BATCH, n_pool) * min(_BATCH, n_pool)
    scores = jax.device_get(_evaluated(saes, window, n))
    freq = np.asarray(scores.pop("firing_freq"))
    diverged = trained.diverged[0]
    alive = (freq > 0) & ~diverged[:, None]
    hypers = {name: np.asarray(value) for name, value in group.hypers.items()}
    seeds, d_sae = np.asarray(group.sae_seeds), group.spec.d_sae
    table = pd.DataFrame({
        "d_in": group.spec.d_in, "d_sae": d_sae, "sae_seed": seeds, **hypers,
        "diverged": diverged, "n_eval": n, **{k: np.asarray(v) for k, v in scores.items()},
        "dense_latents": (freq > DENSE).sum(1),
        "floor": random_floor(group.spec.d_in, d_sae),
    })  # fmt: skip
    mcs, columns = _across_seeds(np.asarray(saes.W_dec), alive, hypers, diverged)
    _, before = _across_seeds(np.asarray(at_start), np.ones_like(alive), hypers, diverged)
    columns["mmcs_seeds_init"] = before["mmcs_seeds"]
    table = pd.concat([table, columns], axis=1)
    arrays = {
        "firing_freq": freq, "mcs_seeds": mcs, "curve_steps": trained.curve_steps,
        **{f"curve_{name}": np.asarray(curve)[0] for name, curve in trained.curves.items()},
    }  # fmt: skip
    return table, arrays


def _across_seeds(
    W_dec: np.ndarray, alive: np.ndarray, hypers: dict[str, np.ndarray], diverged: np.ndarray
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
