"""Scores of a trained ensemble: one table row for each SAE, and the arrays behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import hosts
from ..digests import add_arrays
from ..keys import named_key, seed_key
from ..lazy import pd
from ..programs import BRIEF
from ..recovery import (
    THRESHOLDS,
    Records,
    add_batch,
    cosines,
    direction_scores,
    distinct_matches,
    empty_totals,
    fista_oracle,
    match,
    random_floor,
    steps_to,
    summarise,
)
from ..sae import SAE, SAESpec
from ..training import Ensemble, Trained
from ..training.devices import ROWS, Layout, layout_of, over_rows
from ..training.state import keys_of, training_loss, training_pass
from ..worlds import Batch, Drawn, World, sample
from ..worlds.dictionaries import nearest_cosines

_ORACLE_SAMPLES = 1024


def over_samples(
    add: Callable[[Any, Batch, PRNGKeyArray], Any],
    start: Any,
    world: World,
    key: PRNGKeyArray,
    n_batches: Int[Array, ""] | int,
    batch_size: int,
) -> tuple[Any, Float[Array, ""]]:
    """Folds fresh samples of a world into `start`, and returns the result and `true_l0`, the mean
    active features of the samples.

    `add` takes the value so far, a batch, and the key that the batch was drawn with.
    """

    def body(step, carry):
        value, true_l0 = carry
        batch_key = jax.random.fold_in(key, step)
        batch = world.sample(batch_key, batch_size)
        l0 = batch.feature_counts().sum() / batch_size
        return add(value, batch, batch_key), true_l0 + (l0 - true_l0) / (step + 1)

    return jax.lax.fori_loop(0, n_batches, body, (start, jnp.float32(0)))


@partial(jax.jit, static_argnames=("spec", "batch_size", "layout"), compiler_options=BRIEF)
def evaluate_all(
    saes: SAE,
    spec: SAESpec,
    worlds: World,
    world_seeds: Int[Array, " n_worlds"],
    n_batches: Int[Array, ""],
    batch_size: int,
    layout: Layout | None = None,
) -> tuple[dict[str, Array], Float[Array, "n_worlds n_features"]]:
    """Scores SAEs over fresh samples at fixed memory.

    Returns:
        Scores with axes `[n_worlds, n_members]`: those of :func:`toysae.recovery.summarise`;
        `eval_loss`, the loss that training by `spec` minimises at its end, in batches of its size;
        and `true_l0`, the mean active features of the same samples, equal for all members of a
        world. And the mean length that each feature adds to x when it is on; NaN if it never was.
    """
    d_sae, d_in = saes.W_dec.shape[-2:]

    def in_world(n_batches, world, key, saes):
        n_members = saes.W_dec.shape[0]

        def add(carry, batch, key):
            members, n_on, mean_size = carry

            with_batch = partial(_with_batch, spec, batch.x, key)
            new = batch.feature_counts()
            n_on = n_on + new
            excess = batch.feature_sizes() - new * mean_size
            members = jax.vmap(with_batch)(members, saes)
            return members, n_on, mean_size + excess / jnp.maximum(n_on, 1)

        empty = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (n_members, *leaf.shape)),
            (empty_totals(d_in, d_sae), jnp.float32(0)),
        )
        start = empty, jnp.zeros(world.n_features, jnp.int32), jnp.zeros(world.n_features)
        ((totals, loss), n_on, mean_size), true_l0 = over_samples(
            add, start, world, key, n_batches, batch_size
        )
        length = mean_size * jnp.sqrt(jnp.sum(world.rows**2, axis=-1))
        true_l0 = jnp.broadcast_to(true_l0, (n_members,))
        scores = {**jax.vmap(summarise)(totals), "eval_loss": loss, "true_l0": true_l0}
        return scores, jnp.where(n_on > 0, length, jnp.nan)

    def rows(saes, worlds, world_seeds, n_batches):
        return jax.vmap(partial(in_world, n_batches))(
            worlds, keys_of(world_seeds, "evaluation"), saes
        )

    specs = (ROWS, P("world"), P("world"), P())
    evaluate = over_rows(rows, layout, specs, (ROWS, P("world")))
    return evaluate(saes, worlds, world_seeds, n_batches)


def _with_batch(spec, x, key, member, sae):
    totals, mean_loss = member
    run, h = sae.run, sae.hypers
    f = sae(x)
    # Equal to `f` unless training corrupts x: XLA then encodes once.
    trains = training_pass(spec, sae.weights, run, h, key, x)
    loss = training_loss(spec, trains, run, h, key)
    totals = add_batch(totals, x, f.x_hat, f.z)
    share = len(x) / totals.n_samples
    return totals, mean_loss + share * (loss - mean_loss)


@jax.jit
def _world_cosines(
    W_dec: Float[Array, "n_worlds n_members d_sae d_in"],
    truth: Float[Array, "n_worlds n_features d_in"] | Float[np.ndarray, "n_worlds n_features d_in"],
) -> Float[Array, "n_worlds n_members n_features d_sae"]:
    return jax.vmap(jax.vmap(lambda W, rows: cosines(rows, W), (0, None)))(W_dec, truth)


def truth_scores(records: Records, cos: np.ndarray) -> dict[str, float]:
    """The scores of one SAE's dictionary against the truth.

    Args:
        records: of these cosines.
        cos: signed cosines `[n_features, d_sae]`.

    Returns:
        The scores of :func:`toysae.recovery.direction_scores`, and for each threshold
        `distinct_above_`, the number of features that can have a latent of their own above it.
    """
    distinct = {f"distinct_above_{t:g}": distinct_matches(cos, t) for t in THRESHOLDS}
    return {**direction_scores(records), **distinct}


def truth_columns(cos: np.ndarray) -> pd.DataFrame:
    """:func:`truth_scores` of each of `[rows, n_features, d_sae]`; NaN in rows with a NaN."""
    measured = np.array([not np.isnan(c).any() for c in cos])
    known = [c if ok else np.zeros_like(c) for c, ok in zip(cos, measured, strict=True)]
    table = pd.DataFrame([truth_scores(match(c), c) for c in known])
    return table.where(np.broadcast_to(measured[:, None], table.shape))


def score_ensemble(
    ensemble: Ensemble, trained: Trained, n_steps: int, n_eval: int
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Scores every SAE of a trained ensemble.

    Args:
        ensemble: as trained.
        trained: the result of its training.
        n_steps: steps taken.
        n_eval: evaluation samples, rounded up to whole batches.

    Returns:
        A table with one row for each SAE in [world, member] order, and arrays whose leading axis
        is those rows: `mcs`, `feature_freq`, `firings_seen`, `feature_magnitude` (mean length added
        to x when on), `feature_nn_cos` (largest signed cosine to another feature)
        `[rows, n_features]`, `latent_freq` `[rows, d_sae]`, `curve_<name>` `[rows, points]`,
        `curve_mcs_hist` `[rows, bins, points]` (counts of features); and `curve_steps` `[points]`.
    """
    n_worlds, n_members = trained.diverged.shape
    n_batches = -(-n_eval // ensemble.batch_size)
    scores, magnitude = _evaluated(ensemble, trained.saes, n_batches)
    cos = _rows(_world_cosines(trained.saes.W_dec, np.asarray(ensemble.worlds.target)))
    firings = np.repeat(trained.firings, n_members, axis=0)
    arrays = {
        "mcs": cos.max(2),
        "feature_freq": firings / max(n_steps * ensemble.batch_size, 1),
        "firings_seen": firings,
        "feature_magnitude": np.repeat(magnitude, n_members, axis=0),
        "feature_nn_cos": np.repeat(_nearest(ensemble.worlds), n_members, axis=0),
        "latent_freq": _rows(scores.pop("firing_freq")),
        "curve_steps": trained.curve_steps,
        **{f"curve_{name}": _rows(curve) for name, curve in trained.curves.items()},
    }
    table = pd.DataFrame(
        {
            **sizes_of(ensemble, n_steps),
            "n_eval": n_batches * ensemble.batch_size,
            **numbers_of(ensemble),
            "diverged": trained.diverged.reshape(-1),
            **truth_columns(cos),
            **{name: _rows(value) for name, value in scores.items()},
            "loss": arrays["curve_loss"][:, -1],
            "floor": random_floor(ensemble.spec.d_in, ensemble.spec.d_sae),
            "mmcs_init": arrays["curve_mmcs"][:, 0],
        }
    )
    steps, censored = steps_to(trained.curve_steps, arrays["curve_mmcs"], 0.9)
    table["steps_to_0.9"], table["censored_0.9"] = steps, censored
    if "l1_coeff" in ensemble.hypers:
        places = table.assign(world_place=np.repeat(np.arange(n_worlds), n_members))
        both = places.merge(oracle_columns(ensemble), on=["world_place", "l1_coeff"], how="left")
        table = both.drop(columns="world_place")
    return table, arrays


def _evaluated(
    ensemble: Ensemble, saes: SAE, n_batches: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """:func:`evaluate_all` on the devices of the ensemble, as NumPy arrays."""
    layout = layout_of(len(ensemble.world_seeds), len(ensemble.sae_seeds), ensemble.split)
    worlds, seeds, by_world = ensemble.worlds, ensemble.world_seeds, P("world")
    if layout is not None:
        saes, worlds, seeds = layout.spread((saes, worlds, seeds), (ROWS, by_world, by_world))
    evaluated = evaluate_all(
        saes, ensemble.spec.once_started(), worlds, seeds, np.int32(n_batches),
        ensemble.batch_size, layout,
    )  # fmt: skip
    if layout is not None:
        evaluated = layout.gather(evaluated, (ROWS, by_world))
    return jax.device_get(hosts.whole(evaluated))


def sizes_of(ensemble: Ensemble, n_steps: int) -> dict[str, np.ndarray | float]:
    """The first columns of a table of an ensemble's SAEs: sizes, seeds and steps."""
    n_worlds, n_members = len(ensemble.world_seeds), len(ensemble.sae_seeds)
    n_features, d_in = ensemble.worlds.target.shape[-2:]
    return {
        "row": np.arange(n_worlds * n_members),
        "d_in": d_in,
        "n_features": n_features,
        "ratio": n_features / d_in,
        "d_sae": ensemble.spec.d_sae,
        "world_seed": np.repeat(np.asarray(ensemble.world_seeds), n_members),
        "sae_seed": np.tile(np.asarray(ensemble.sae_seeds), n_worlds),
        "n_steps": n_steps,
        "batch_size": ensemble.batch_size,
    }


def numbers_of(ensemble: Ensemble) -> dict[str, np.ndarray]:
    """The columns of the numbers of an ensemble's SAEs."""
    n_worlds = len(ensemble.world_seeds)
    return {name: np.tile(np.asarray(v), n_worlds) for name, v in ensemble.hypers.items()}


def table_of(
    ensemble: Ensemble, trained: Trained, n_steps: int, scores: Mapping[str, Any]
) -> pd.DataFrame:
    """One row an SAE in [world, member] order: sizes, numbers, `diverged`, and the scores, each
    `[n_worlds, n_members]`, `[rows]` or one number."""
    columns = {name: np.ravel(v) if np.ndim(v) else v for name, v in scores.items()}
    first = {**sizes_of(ensemble, n_steps), **numbers_of(ensemble)}
    return pd.DataFrame({**first, "diverged": trained.diverged.ravel(), **columns})


def _nearest(worlds: Drawn) -> np.ndarray:
    """Each feature's largest signed cosine to another, `[n_worlds, n_features]`; NaN for one."""
    return np.stack([nearest_cosines(rows) for rows in np.asarray(worlds.target, np.float32)])


def _rows(values: np.ndarray | Array) -> np.ndarray:
    """[n_worlds, n_members, ...] -> [rows, ...]."""
    values = np.asarray(values)
    return values.reshape(-1, *values.shape[2:])


def oracle_columns(ensemble: Ensemble) -> pd.DataFrame:
    """Scores of FISTA codes in the true dictionary, as of a perfect SAE: one row for each world
    and L1 coefficient."""
    coefficients = np.unique(np.asarray(ensemble.hypers["l1_coeff"]))
    worlds, frames = jax.device_get(ensemble.worlds), []
    for i, seed in enumerate(np.asarray(ensemble.world_seeds).tolist()):
        world = jax.device_put(jax.tree.map(lambda leaf, i=i: leaf[i], worlds))
        x = sample(world, named_key(seed_key(seed, "data"), "oracle"), _ORACLE_SAMPLES).x
        x = x if world.bias is None else x - world.bias
        scores = _oracle(*jax.device_get((x, world.target, coefficients)))
        frames.append(pd.DataFrame({"world_place": i, "l1_coeff": coefficients, **scores}))
    return pd.concat(frames)


_oracles: dict[bytes, dict[str, np.ndarray]] = {}
"""Scores by a digest of all that decides them: recipes and inits of a run share their worlds."""


def _oracle(*inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The scores for inputs, a dictionary and coefficients; a process computes them once."""
    content = hashlib.sha256()
    add_arrays(content, inputs)
    key = content.digest()
    if key not in _oracles:
        scores = fista_oracle(*jax.device_put(inputs))
        _oracles[key] = {f"truth_fista_{name}": np.asarray(scores[name]) for name in ("ev", "l0")}
    return _oracles[key]
