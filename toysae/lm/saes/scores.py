"""Scores SAEs without the truth, on activations held out from training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...evaluation.failure_modes import DENSE
from ...evaluation.measure import Measure
from ...evaluation.scoring import numbers_of
from ...lazy import pd
from ...recovery import add_batch, empty_totals, random_floor, summarise
from ...sae import SAE
from ...training import Ensemble, Probe, Trained
from .feed import Window

_BATCH = 1024


def curve_probe(sae: SAE, window: Any, x: Float[Array, "n d_in"]) -> dict[str, Array]:
    """EV and L0 for one point of the learning curves, on held-out rows spread evenly over the
    window's pool, as many as `x` has; `x` itself is drawn from what is trained on."""
    n_pool = window.pool.shape[0]
    x = window.normalised(window.pool[:: max(1, n_pool // len(x))][: len(x)])
    f = sae(x)
    totals = summarise(add_batch(empty_totals(*sae.W_dec.shape[::-1]), x, f.x_hat, f.z))
    return {"ev": totals["ev"], "l0": totals["l0"]}


@partial(jax.jit, static_argnames="n")
def _evaluated(saes: SAE, window: Window, n: int) -> dict[str, Array]:
    """The scores of all members over the first `n` rows of the pool, in batches."""
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


@dataclass(frozen=True)
class SiteScores(Measure):
    """The scores of single SAEs without the truth.

    Attributes:
        curve_points: about how many points the learning curves have.
    """

    curve_points: int

    @property
    def probe(self) -> Probe:
        return curve_probe

    def identity(self) -> dict[str, Any]:
        return {"measure": "site", "version": 1, "curve_points": self.curve_points}

    def __call__(
        self, ensemble: Ensemble, trained: Trained, n_steps: int
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        """Scores every SAE of an ensemble.

        Returns:
            A table, one row a member: its numbers and seed; on `n_eval` held-out activations `ev`,
            `fvu`, `l0`, `mse`, `shrinkage`, `reconstruction_bias`, `dead_latents` and
            `dead_fraction` (never fired on them), `dense_latents`; and `floor`, the MMCS of random
            directions. And arrays by row: `firing_freq` `[rows, d_sae]`; `mean` `[rows, d_in]` and
            `scale` `[rows]`, the normalisation of the inputs; `curve_* [rows, points]`;
            `curve_steps [points]`.
        """
        saes = jax.tree.map(lambda leaf: leaf[0], trained.saes)
        window: Window = jax.tree.map(lambda leaf: leaf[0], ensemble.worlds)
        n_pool = window.pool.shape[0]
        n = n_pool // min(_BATCH, n_pool) * min(_BATCH, n_pool)
        scores = jax.device_get(_evaluated(saes, window, n))
        freq = np.asarray(scores.pop("firing_freq"))
        table = pd.DataFrame({
            "row": np.arange(len(freq)),
            "d_in": ensemble.spec.d_in, "d_sae": ensemble.spec.d_sae,
            "sae_seed": np.asarray(ensemble.sae_seeds), **numbers_of(ensemble),
            "diverged": trained.diverged[0], "n_eval": n,
            **{k: np.asarray(v) for k, v in scores.items()},
            "dense_latents": (freq > DENSE).sum(1),
            "floor": random_floor(ensemble.spec.d_in, ensemble.spec.d_sae),
        })  # fmt: skip
        arrays = {
            "firing_freq": freq,
            "mean": np.tile(np.asarray(window.mean), (len(freq), 1)),
            "scale": np.full(len(freq), np.asarray(window.scale)),
            "curve_steps": trained.curve_steps,
            **{f"curve_{name}": np.asarray(curve)[0] for name, curve in trained.curves.items()},
        }
        return table, arrays
