"""What goes wrong in SAEs: their scores, and measurements of each latent and pair of latents."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pandas as pd

from toysae.evaluation.measure import Measure
from toysae.evaluation.score import Scored, score_sae
from toysae.evaluation.scoring import table_of
from toysae.keys import named_key, seed_key
from toysae.recovery.absorption import ABSORBS, MOSTLY
from toysae.recovery.absorption_signs import absorption_signs
from toysae.recovery.probe import recovery_probe
from toysae.sae import SAE
from toysae.training import Ensemble, Probe, Trained
from toysae.worlds import World, sample

N_DETECTED = 8192
"""Samples that detectors see."""
LATENTS = ["gain", "ablation_residual", "ablation_interference"]
PAIRS = ["enc_dec", "decoder", "weights", "activations", "both", "absorbed"]


@dataclass(frozen=True)
class FailureModes(Measure):
    """Scores of :func:`toysae.evaluation.score.score_sae` on `n_eval` samples, and arrays:
    `latent_<name> [rows, d_sae]` of each latent, and `pair_<name> [rows, n_pairs]` of each pair in
    the order of `np.triu_indices`, see :func:`detectors`. All are NaN for an SAE that diverged, and
    those of a latent and its pairs where it is dead."""

    n_eval: int
    curve_points: int = 1

    @property
    def probe(self) -> Probe:
        return recovery_probe

    def identity(self) -> dict[str, Any]:
        return {"measure": "failure modes", "version": 1, "n_eval": self.n_eval}

    def row_bytes(self, ensemble: Ensemble) -> int:
        d_sae = ensemble.spec.d_sae
        numbers = len(LATENTS) * d_sae + len(PAIRS) * d_sae * (d_sae - 1) // 2
        return super().row_bytes(ensemble) + 4 * numbers

    def __call__(
        self, ensemble: Ensemble, trained: Trained, n_steps: int
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        looks = []
        for (i, j), diverged in np.ndenumerate(trained.diverged):
            world = jax.tree.map(lambda leaf, i=i: leaf[i], ensemble.worlds)
            sae = jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], trained.saes)
            seed = int(ensemble.world_seeds[i])
            looks.append(NOTHING if diverged else look(sae, world, self.n_eval, seed))
        scores, latents, pairs = zip(*looks, strict=True)
        table = table_of(ensemble, trained, n_steps, {})
        scored = pd.DataFrame(list(scores), index=table.index)
        d_sae = ensemble.spec.d_sae
        every_pair = pd.MultiIndex.from_arrays(np.triu_indices(d_sae, 1))
        arrays = {
            **_stacked("latent", [frame.reindex(range(d_sae)) for frame in latents]),
            **_stacked("pair", [frame.reindex(every_pair) for frame in pairs]),
            "curve_steps": trained.curve_steps,
        }
        return table.join(scored[scored.columns.difference(table.columns, sort=False)]), arrays


Look = tuple[dict[Any, Any], pd.DataFrame, pd.DataFrame]
"""The scores of an SAE, its living latents by index, and their pairs by both indices."""

NOTHING: Look = {}, pd.DataFrame(columns=LATENTS), pd.DataFrame(columns=PAIRS)


def look(sae: SAE, world: World, n_eval: int, seed: int) -> Look:
    """Measures one SAE on samples of a seed."""
    scored = score_sae(sae, world, n_eval, seed)
    (scores,) = scored.table.to_dict("records")
    latents = scored.records.latents
    key = named_key(seed_key(seed, "data"), "detectors")
    pairs = detectors(sae, scored, sample(world, key, N_DETECTED).x)
    return scores, latents.loc[~latents["dead"], LATENTS], pairs.set_index(["latent", "other"])


def detectors(sae: SAE, scored: Scored, x: jax.Array) -> pd.DataFrame:
    """One row a pair of living latents: each detector's score, and whether one is absorbed."""
    table = absorption_signs(sae, x, ~scored.records.latents["dead"].to_numpy(bool))
    table["activations"] = table["activations"].fillna(0)
    table["both"] = table["weights"] * table["activations"]
    absorbing = set()
    if len(scored.pairs):
        pairs = scored.pairs
        absorbed = pairs[(pairs["share"] > MOSTLY) | (pairs["rate"] > ABSORBS)]
        for one, other in absorbed[["parent_latent", "child_latent"]].to_numpy(int):
            absorbing |= {(one, other), (other, one)}
    latents = table[["latent", "other"]].itertuples(index=False, name=None)
    return table.assign(absorbed=[pair in absorbing for pair in latents])


def _stacked(kind: str, frames: list[pd.DataFrame]) -> dict[str, np.ndarray]:
    """Each column of frames of equal lengths, as an array `[rows, length]`."""
    return {
        f"{kind}_{name}": np.stack([frame[name].to_numpy(np.float32) for frame in frames])
        for name in frames[0]
    }
