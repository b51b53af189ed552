"""What goes wrong in SAEs: their scores, and what is said of each latent and pair of latents."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pandas as pd

from toysae.evaluation.measure import Measure
from toysae.evaluation.score import Scored, score_sae
from toysae.evaluation.scoring import numbers_of, sizes_of
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
    """Scores of :func:`toysae.evaluation.score.score_sae` on `n_eval` samples, and arrays: of each
    latent `latent_<name> [rows, d_sae]`; of each pair, in the order of `np.triu_indices`, what
    :func:`detectors` says of it, `pair_<name> [rows, n_pairs]`. All is NaN of an SAE that diverged;
    a latent and its pairs where it is dead."""

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
        n_members, found = len(ensemble.sae_seeds), []
        for row, diverged in enumerate(trained.diverged.ravel()):
            i, j = divmod(row, n_members)
            world = jax.tree.map(lambda leaf, i=i: leaf[i], ensemble.worlds)
            sae = jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], trained.saes)
            seed = int(ensemble.world_seeds[i])
            found.append(NOTHING if diverged else look(sae, world, self.n_eval, seed))
        scores, latents, pairs = zip(*found, strict=True)
        held = {**sizes_of(ensemble, n_steps), **numbers_of(ensemble)}
        table = pd.DataFrame({**held, "diverged": trained.diverged.ravel()})
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
"""Of an SAE its scores, its living latents and their pairs, by their places."""

NOTHING: Look = {}, pd.DataFrame(columns=LATENTS), pd.DataFrame(columns=PAIRS)


def look(sae: SAE, world: World, n_eval: int, seed: int) -> Look:
    """Takes a look at one SAE, on samples of a seed."""
    scored = score_sae(sae, world, n_eval, seed)
    (scores,) = scored.table.to_dict("records")
    latents = scored.records.latents
    key = named_key(seed_key(seed, "data"), "detectors")
    pairs = detectors(sae, scored, sample(world, key, N_DETECTED).x)
    return scores, latents.loc[~latents["dead"], LATENTS], pairs.set_index(["latent", "other"])


def detectors(sae: SAE, scored: Scored, x: jax.Array) -> pd.DataFrame:
    """One row a pair of living latents: what each detector says of it, and the truth."""
    table = absorption_signs(sae, x, ~scored.records.latents["dead"].to_numpy(bool))
    table["activations"] = table["activations"].fillna(0)
    table["both"] = table["weights"] * table["activations"]
    taken = set()
    if len(scored.pairs):
        pairs = scored.pairs
        absorbed = pairs[(pairs["share"] > MOSTLY) | (pairs["rate"] > ABSORBS)]
        for one, other in absorbed[["parent_latent", "child_latent"]].to_numpy(int):
            taken |= {(one, other), (other, one)}
    latents = table[["latent", "other"]].itertuples(index=False, name=None)
    return table.assign(absorbed=[pair in taken for pair in latents])


def _stacked(kind: str, frames: list[pd.DataFrame]) -> dict[str, np.ndarray]:
    """Of frames of equal lengths each column, `[rows, length]`."""
    return {
        f"{kind}_{name}": np.stack([frame[name].to_numpy(np.float32) for frame in frames])
        for name in frames[0]
    }
