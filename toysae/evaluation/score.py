"""Scores of one SAE, wherever it comes from, on one world: the row of a sweep's table, detection
and failure modes, and the records behind them."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..bits import in_32_bits
from ..checked import integer
from ..errors import require
from ..lazy import pd
from ..programs import BRIEF
from ..recovery import (
    Detections,
    Records,
    add_batch,
    add_detections,
    add_ratio,
    cosines,
    detection_scores,
    empty_ratio,
    empty_totals,
    enc_dec_cosines,
    match,
    measure,
    no_detections,
    random_floor,
    saelens_scores,
    summarise,
)
from ..sae import SAE
from ..training.state import keys_of
from ..worlds import World
from .failure_modes import Looks, empty_looks, failure_modes, look
from .scoring import over_samples, truth_scores

BATCH = 1024


@dataclass(frozen=True)
class Scored:
    """One SAE's scores.

    Attributes:
        table: one row, with the columns of a sweep's table, those of
            :func:`toysae.recovery.detection_scores`, and SAELens' own definitions as `saelens_*`.
        records: per feature and per latent, see :class:`toysae.recovery.Records`, with the columns
            of failure modes: of features `scale_error`, `n_latents`, `merged`; of latents `gain`,
            `hedging`, `hedged_feature`, `features_per_latent`, `basis_alignment`, `ablation_n`,
            `ablation_residual`, `ablation_interference`.
        pairs: one row for each (parent, child), see
            :func:`toysae.recovery.absorption.absorption`; if a child absorbs its parent, with the
            parent's recall and precision before and after repair. Empty if no feature has a parent.
    """

    table: pd.DataFrame
    records: Records
    pairs: pd.DataFrame

    def to_json(self) -> str:
        """The scores as one JSON object: the row, and `features`, `latents` and `pairs` as objects
        with one list for each column. NaN and infinities become null."""
        frames = {**vars(self.records), "pairs": self.pairs}
        lists = {
            name: {str(column): _plain(frame[column]) for column in frame}
            for name, frame in frames.items()
        }
        row = {str(name): _plain(self.table[name])[0] for name in self.table}
        return json.dumps({**row, **lists}, indent=1, allow_nan=False)


def _plain(column: pd.Series) -> list:
    values = column.to_numpy()
    if values.dtype.kind != "f":
        return values.tolist()
    # The shortest form of a float32, not all digits of its float64.
    return [float(str(v)) if np.isfinite(v) else None for v in values]


@dataclass(frozen=True)
class Matched:
    """A dictionary matched with a world's truth: the scores that need no sample.

    Attributes:
        cos: signed cosines `[n_features, d_sae]`.
        records: of :func:`toysae.recovery.match`.
        scores: of :func:`toysae.evaluation.scoring.truth_scores`.
    """

    cos: np.ndarray
    records: Records
    scores: dict[str, float]


def match_dictionary(
    W_dec: Float[Array, "d_sae d_in"], truth: Float[Array, "n_features d_in"]
) -> Matched:
    """Matches a dictionary with the truth, once for all SAEs that differ only in their codes."""
    cos = np.asarray(cosines(truth, W_dec))
    records = match(cos)
    return Matched(cos, records, truth_scores(records, cos))


@in_32_bits
def score_sae(
    sae: SAE,
    world: World,
    n_samples: int = 65_536,
    seed: int = 0,
    matched: Matched | None = None,
    modes: bool = True,
) -> Scored:
    """Scores one SAE on fresh samples of a world: recovery, detection, reconstruction, sparsity
    and failure modes.

    Warns if there are fewer samples than features, as rare features cannot be measured then.

    Args:
        sae: as it is used outside training.
        world: with the true features.
        n_samples: evaluation samples, rounded up to whole batches of 1,024.
        seed: of the evaluation sample.
        matched: the match of the same dictionary and world, if it has been computed.
        modes: also measure failure modes, in about twice the time.

    Returns:
        The scores. `true_l0` is that of the evaluation sample, `floor` the `mmcs` of independent
        random directions.

    Raises:
        ToysaeError: an ensemble, an SAE with another d_in than the world, no samples, or
            parameters that are not finite.
    """
    integer("n_samples", n_samples, 1)
    _check_sae(sae, world)
    d_in, d_sae = sae.spec.d_in, sae.spec.d_sae
    matched = matched or match_dictionary(sae.W_dec, world.target)
    n_features = len(matched.cos)
    # In a world with a truth of its own, the features that fire are not those that are scored.
    pairs = no_detections(matched.records) if world.truth is None else None
    key, n_batches = keys_of(jnp.array([seed], jnp.int32), "evaluation")[0], -(-n_samples // BATCH)
    start = pairs, empty_looks(sae, world, matched.records) if modes else None
    (totals, ratio, seen, looks), true_l0 = _evaluate(
        sae, world, key, *start, jnp.int32(n_batches), BATCH
    )
    scores = jax.device_get(summarise(totals))
    encoder = None
    if "W_enc" in sae.spec.encoder.provides:
        encoder = enc_dec_cosines(sae.weights.enc["W_enc"], sae.W_dec)
    lengths = np.linalg.norm(np.asarray(sae.W_dec, np.float64), axis=1)
    records = measure(matched.records, seen, scores.pop("firing_freq"), lengths, encoder)
    parents, mode_scores = pd.DataFrame(), {}
    if looks is not None:
        records, parents, mode_scores = failure_modes(
            sae, world, records, seen, looks, key, jnp.int32(n_batches), BATCH
        )
    _warn_of_the_tail(records.features["freq"], n_batches * BATCH)
    row = {
        "world": world.name,
        "d_in": d_in,
        "n_features": n_features,
        "ratio": n_features / d_in,
        "d_sae": d_sae,
        "encoder": type(sae.spec.encoder).__name__,
        "activation": type(sae.spec.activation).__name__,
        "n_eval": n_batches * BATCH,
        "eval_seed": seed,
        **matched.scores,
        **{name: np.asarray(value).item() for name, value in scores.items()},
        "true_l0": float(true_l0),
        "floor": random_floor(d_in, d_sae),
        **detection_scores(records),
        **mode_scores,
        **saelens_scores(records, totals, ratio),
    }
    table = pd.DataFrame(row, index=pd.Index([0]))
    return Scored(table, records, parents)


def _check_sae(sae: SAE, world: World) -> None:
    d_in = sae.spec.d_in
    require(sae.W_dec.ndim == 2, f"W_dec has shape {list(sae.W_dec.shape)}: score one SAE at a "
            "time, e.g. result.sae(0)")  # fmt: skip
    require(d_in == world.d_in, f"the SAE's d_in {d_in} is not the d_in {world.d_in} of world "
            f"{world.name!r}: give a world of d_in={d_in}")  # fmt: skip
    require(np.isfinite(np.asarray(sae.W_dec)).all(), "W_dec is not finite: the SAE diverged")
    for path, leaf in jax.tree_util.tree_leaves_with_path(sae.weights):
        name = jax.tree_util.keystr(path)
        require(not np.isnan(np.asarray(leaf)).any(), f"{name} has NaN: the SAE diverged")


@partial(jax.jit, static_argnames="batch_size", compiler_options=BRIEF)
def _evaluate(
    sae: SAE,
    world: World,
    key: PRNGKeyArray,
    pairs: Detections | None,
    looks: Looks | None,
    n_batches: Int[Array, ""],
    batch_size: int,
):
    """All sums over fresh samples that the scores need, and `true_l0`."""

    def add(carry, batch, key):
        totals, ratio, seen, looks = carry
        f = sae(batch.x)
        return (
            add_batch(totals, batch.x, f.x_hat, f.z),
            add_ratio(ratio, batch.x, f.x_hat),
            None if seen is None else add_detections(seen, batch, f.z),
            None if looks is None else look(looks, sae, batch, f.z, key),
        )

    start = empty_totals(sae.spec.d_in, sae.spec.d_sae), empty_ratio(), pairs, looks
    return over_samples(add, start, world, key, n_batches, batch_size)


def _warn_of_the_tail(freq: pd.Series, n_samples: int) -> None:
    if n_samples >= len(freq):
        return
    unseen = np.flatnonzero(freq == 0)
    which = ", ".join(map(str, unseen[:10])) + (", ..." if len(unseen) > 10 else "")
    silent = f"; {len(unseen):,} of them never fired: {which}" if len(unseen) else ""
    warnings.warn(
        f"{n_samples:,} samples for {len(freq):,} features: the rare ones are not measurable"
        f"{silent}. Give more samples (n_samples)",
        stacklevel=3,
    )
