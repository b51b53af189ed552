"""Failure modes of one SAE on a world besides missed features, measured sample by sample."""

from __future__ import annotations

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from ..errors import ToysaeError
from ..keys import named_key
from ..lazy import pd
from ..programs import BRIEF
from ..recovery import Detections, Records
from ..recovery.ablation import Ablations, ablation, add_ablations, empty_ablations
from ..recovery.absorption import (
    Pairs,
    Repairs,
    absorption,
    absorption_scores,
    add_pairs,
    add_repairs,
    empty_pairs,
    empty_repairs,
    repair,
)
from ..recovery.geometry import basis_alignment, encoder_rows, frame_error, gains, pairwise_cosines
from ..recovery.hierarchy import parents_of
from ..recovery.mixing import features_per_latent, hedging, shared
from ..recovery.scale import scale_error
from ..sae import SAE
from ..worlds import Batch, World
from .scoring import over_samples

DENSE = 0.1
"""The share of samples above which a latent counts as dense."""

Looks = tuple[Ablations, Pairs | None]
"""Sums over the samples: of ablations, and of (parent, child) pairs."""


def empty_looks(sae: SAE, world: World, records: Records) -> Looks:
    """The sums before any sample. There are no pairs if the features that fire are not those that
    are scored, or if they are too many to find parents among them."""
    ablations = empty_ablations(sae.spec.d_sae)
    if world.truth is not None:
        return ablations, None
    try:
        parents = parents_of(world)
    except ToysaeError as error:
        warnings.warn(f"absorption is not measured: {error}", stacklevel=3)
        return ablations, None
    return ablations, empty_pairs(parents, records.features["best_latent"].to_numpy())


def look(looks: Looks, sae: SAE, batch: Batch, z: Array, key: PRNGKeyArray) -> Looks:
    """Adds one more batch to the sums, with the key that it was drawn with."""
    ablations, pairs = looks
    ablations = add_ablations(ablations, sae, named_key(key, "ablation"), batch.x)
    return ablations, None if pairs is None else add_pairs(pairs, batch, z)


def failure_modes(
    sae: SAE,
    world: World,
    records: Records,
    seen: Detections | None,
    looks: Looks,
    key: PRNGKeyArray,
    n_batches: Int[Array, ""],
    batch_size: int,
) -> tuple[Records, pd.DataFrame, dict[str, float]]:
    """Adds the columns of failure modes to records.

    Args:
        sae: one SAE.
        world: with the true features.
        records: with the columns that come from samples.
        seen: the detections behind those columns.
        looks: sums over the same samples.
        key: of the same samples, which are drawn again if an absorbed pair is to be repaired.
        n_batches: of samples.
        batch_size: of each batch.

    Returns:
        The records, the (parent, child) pairs, and a summary by name.
    """
    W_dec, rows = sae.W_dec, encoder_rows(sae)
    best = jnp.asarray(records.latents["best_feature"].to_numpy(), jnp.int32)
    hedge, hedged = np.full((2, sae.spec.d_sae), np.nan)
    if rows is not None:
        hedge, hedged = jax.device_get(hedging(world.target, W_dec, rows, best))
    ablations = ablation(looks[0]).add_prefix("ablation_")
    latents = records.latents.assign(
        gain=gains(sae),
        hedging=np.asarray(hedge, float),
        hedged_feature=hedged,
        features_per_latent=np.asarray(features_per_latent(world.target, W_dec), float),
        basis_alignment=np.asarray(basis_alignment(W_dec), float),
        **{str(name): ablations[name] for name in ablations},
    )
    lengths = np.linalg.norm(np.asarray(W_dec, np.float64), axis=1)
    cos = records.features["mcs"].to_numpy()
    features = shared(records.features, latents).assign(
        scale_error=np.nan if seen is None else scale_error(seen, cos, lengths)
    )
    records = Records(features, latents)
    summary = _summary(records, W_dec)
    if looks[1] is None:
        return records, pd.DataFrame(), {**summary, **absorption_scores(None, None)}
    pairs, repaired = _repaired(absorption(looks[1]), sae, world, key, n_batches, batch_size)
    return records, pairs, {**summary, **absorption_scores(pairs, repaired)}


def _repaired(
    pairs: pd.DataFrame,
    sae: SAE,
    world: World,
    key: PRNGKeyArray,
    n_batches: Array,
    batch_size: int,
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The pairs with the scores of their repaired parents, and the repairs; None if none is due."""
    start = empty_repairs(pairs)
    if start is None:
        return pairs, None
    repaired = repair(_repair_pass(start, sae, world, key, n_batches, batch_size))
    columns = repaired.rename(columns={"recall": "parent_recall", "precision": "parent_precision"})
    return pairs.merge(columns, on="parent", how="left"), repaired


@partial(jax.jit, static_argnames="batch_size", compiler_options=BRIEF)
def _repair_pass(
    start: Repairs, sae: SAE, world: World, key: PRNGKeyArray, n_batches: Array, batch_size: int
) -> Repairs:
    def add(seen, batch, _):
        return add_repairs(seen, batch, sae.encode(batch.x))

    return over_samples(add, start, world, key, n_batches, batch_size)[0]


def _summary(records: Records, W_dec: Array) -> dict[str, float]:
    """Means over living latents, or over features that fired."""
    features, latents = records.features, records.latents
    on = features[(features["freq"] > 0) | features["freq"].isna()]
    alive = latents[~latents["dead"]]
    of_alive = ("hedging", "features_per_latent", "basis_alignment", "gain", "ablation_residual",
                "ablation_interference")  # fmt: skip
    living = jnp.asarray(~latents["dead"].to_numpy(bool))
    coherence = {name: float(value) for name, value in pairwise_cosines(W_dec, living).items()}
    return {
        "scale_error": float(on["scale_error"].mean()),
        "split_features": float((on["n_latents"] > 1).mean()),
        "merged_features": float(on["merged"].mean()),
        **{name: float(alive[name].mean()) for name in of_alive},
        "uniqueness_alive": alive["best_feature"].nunique() / len(alive) if len(alive) else np.nan,
        "dense_latents": int((latents["freq"] > DENSE).sum()),
        **coherence,
        "frame_error": float(frame_error(W_dec, living)),
    }
