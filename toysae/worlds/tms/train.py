"""Trains toy models: points (density, importance, lr) x seeds in one compiled loop.

Data are drawn inside the loop, once for each seed. All points of a seed see coupled samples, so
that a member trained alone equals the same member in an ensemble.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ... import pytree
from ...errors import ToysaeError, require
from ...keys import named_key, seed_key
from .geometry import dimensions_per_feature, feature_dimensionality
from .model import TMSHypers, TMSParams, TMSSpec, draw_uniforms, features_at, init_tms_params, loss

NumberGrid = float | Sequence | np.ndarray
"""One number for all points, or one for each."""

_ADAM = optax.scale_by_adam(0.9, 0.999, eps=1e-8)
_EVAL_CHUNK = 4096  # evaluation samples held at a time


def tms_hypers(
    spec: TMSSpec,
    density: NumberGrid,
    importance: NumberGrid = 1.0,
    lr: NumberGrid = 1e-3,
    lr_decay: NumberGrid = 0.0,
) -> TMSHypers:
    """Checks hypers and gives them one leading axis of points.

    Args:
        spec: of the models.
        density: `[n_points]` or one number, in (0, 1], at most 1/2 for anticorrelated pairs.
        importance: one number for all features, or `[n_points, n_features]`, or `[n_features]`.
        lr: `[n_points]` or one number, more than 0.
        lr_decay: `[n_points]` or one number, in [0, 1].

    Raises:
        ToysaeError: a number out of range, or shapes that do not fit.
    """
    density, lr, lr_decay = (np.atleast_1d(v).astype(np.float32) for v in (density, lr, lr_decay))
    importance = np.atleast_1d(np.asarray(importance, np.float32))
    fits = importance.ndim <= 2 and importance.shape[-1] in (1, spec.n_features)
    require(fits, f"importance of shape {importance.shape} does not fit {spec.n_features} features")
    n_points = max(len(density), len(lr), len(lr_decay), len(np.atleast_2d(importance)))
    for name, values in (("density", density), ("lr", lr), ("lr_decay", lr_decay)):
        fits = values.ndim == 1 and len(values) in (1, n_points)
        require(fits, f"{name} of shape {values.shape} does not fit {n_points} points")
    top = spec.max_density
    why = "" if top == 1 else f" for {spec.pairs} pairs"
    _check(density, (density > 0) & (density <= top), f"density {{}} must be in (0, {top:g}]{why}")
    _check(importance, (importance >= 0) & (importance < np.inf), "importance {} must be >= 0")
    _check(lr, (lr > 0) & (lr < np.inf), "lr {} must be more than 0")
    _check(lr_decay, (lr_decay >= 0) & (lr_decay <= 1), "lr_decay {} must be in [0, 1]")
    density, lr, lr_decay = (np.broadcast_to(v, n_points) for v in (density, lr, lr_decay))
    importance = np.broadcast_to(importance, (n_points, spec.n_features))
    return TMSHypers(*map(jnp.asarray, (density, importance, lr, lr_decay)))


def _check(values: np.ndarray, good: np.ndarray, message: str) -> None:
    if not good.all():
        raise ToysaeError(message.format(f"{values[~good][0]:g}"))


@pytree.dataclass
class TMSState:
    """Models in training; every leaf of `params` and `moments` has axes `[n_seeds, n_points]`."""

    params: TMSParams
    moments: optax.OptState
    step: Int[Array, ""]


@partial(jax.jit, static_argnames="spec")
def start_models(spec: TMSSpec, hypers: TMSHypers, seeds: Int[Array, " n_seeds"]) -> TMSState:
    """Returns the state before any step: all points of a seed start at the same weights."""

    def one(seed, _):
        params = init_tms_params(spec, seed_key(seed, "tms-init"))
        return params, _ADAM.init(params)  # pyright: ignore[reportArgumentType]  (any pytree)

    members = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(seeds, hypers)
    return TMSState(*members, step=jnp.int32(0))


@partial(jax.jit, static_argnames=("spec", "batch_size"), donate_argnames="state")
def advance_models(
    spec: TMSSpec,
    state: TMSState,
    hypers: TMSHypers,
    seeds: Int[Array, " n_seeds"],
    until: Int[Array, ""],
    n_steps: Float[Array, ""],
    batch_size: int,
) -> TMSState:
    """Trains until step `until` of `n_steps`, both traced. `state` is donated."""
    keys = jax.vmap(lambda seed: seed_key(seed, "tms-data"))(seeds)

    def in_seed(key, step, params, moments):
        uniforms = draw_uniforms(spec, jax.random.fold_in(key, step), batch_size)

        def one(params, moments, h):
            x = features_at(spec, uniforms, h.density)
            gradient = jax.grad(partial(loss, spec))(params, x, h.importance)
            ahead, moments = _ADAM.update(gradient, moments)
            left = 1 - (step + 1) / n_steps
            fall = jnp.where(h.lr_decay > 0, left / jnp.maximum(h.lr_decay, 1e-9), 1.0)
            lr = h.lr * jnp.minimum(fall, 1.0)
            return jax.tree.map(lambda p, u: p - lr * u, params, ahead), moments

        return jax.vmap(one)(params, moments, hypers)

    def body(s: TMSState) -> TMSState:
        members = jax.vmap(in_seed, (0, None, 0, 0))(keys, s.step, s.params, s.moments)
        return TMSState(*members, step=s.step + 1)

    return jax.lax.while_loop(lambda s: s.step < until, body, state)


@partial(jax.jit, static_argnames="spec")
def evaluate(
    spec: TMSSpec, params: TMSParams, hypers: TMSHypers, n_chunks: Int[Array, ""]
) -> Float[Array, "n_seeds n_points"]:
    """Returns the loss on `n_chunks` x 4,096 samples that are the same for every seed."""
    key = named_key(jax.random.key(0), "tms-eval")

    def add(chunk, total):
        uniforms = draw_uniforms(spec, jax.random.fold_in(key, chunk), _EVAL_CHUNK)

        def one(params, h):
            return loss(spec, params, features_at(spec, uniforms, h.density), h.importance)

        return total + jax.vmap(jax.vmap(one), (0, None))(params, hypers)

    zero = jnp.zeros(params.b.shape[:2])
    return jax.lax.fori_loop(0, n_chunks, add, zero) / n_chunks


@dataclass(frozen=True)
class TrainedTMS:
    """Trained toy models, on axes `[n_seeds, n_points]`.

    Attributes:
        spec: of every model.
        hypers: `[n_points]`.
        seeds: `[n_seeds]`.
        params: after training.
        loss: `[n_seeds, n_points]` on 65,536 samples that all seeds share.
        steps: `[snapshots]` steps of the snapshots; the first is 0.
        W: `[snapshots, n_seeds, n_points, d_hidden, n_features]`.
        loss_curve: `[snapshots, n_seeds, n_points]` on 4,096 samples.
    """

    spec: TMSSpec
    hypers: TMSHypers
    seeds: np.ndarray
    params: TMSParams
    loss: np.ndarray
    steps: np.ndarray
    W: np.ndarray
    loss_curve: np.ndarray

    def best_seed(self) -> np.ndarray:
        """Returns the position in `seeds` of the lowest loss `[n_points]`, diverged models last."""
        return np.argmin(np.where(np.isfinite(self.loss), self.loss, np.inf), axis=0)

    def best(self, values: np.ndarray) -> np.ndarray:
        """Returns the best seed's `[n_points, ...]` of the values `[n_seeds, n_points, ...]`."""
        values = np.asarray(values)
        return values[self.best_seed(), np.arange(values.shape[1])]

    def dimensionality(self) -> np.ndarray:
        """Returns D_i along training, `[snapshots, n_seeds, n_points, n_features]`."""
        return np.stack([np.asarray(feature_dimensionality(w)) for w in self.W])

    def dimensions(self) -> np.ndarray:
        """Returns D* along training, `[snapshots, n_seeds, n_points]`."""
        return np.asarray(dimensions_per_feature(self.W))


def train_tms(
    spec: TMSSpec,
    hypers: TMSHypers,
    seeds: int | Sequence[int] | np.ndarray = 1,
    n_steps: int = 10_000,
    batch_size: int = 1024,
    n_snapshots: int = 20,
    n_eval: int = 65_536,
) -> TrainedTMS:
    """Trains every point with every seed.

    Args:
        spec: of every model.
        hypers: see :func:`tms_hypers`.
        seeds: the number of seeds, or the seeds.
        n_steps: Adam steps.
        batch_size: samples a step.
        n_snapshots: evenly spaced snapshots, besides the one before training.
        n_eval: samples of the final loss, rounded up to chunks of 4,096.

    Raises:
        ToysaeError: a count below 1, or a seed that is not a non-negative integer.
    """
    counts = {"n_steps": n_steps, "batch_size": batch_size, "n_snapshots": n_snapshots,
              "n_eval": n_eval}  # fmt: skip
    for name, value in counts.items():
        require(value >= 1, f"{name} {value} must be at least 1")
    chosen = np.arange(seeds) if isinstance(seeds, int) else np.atleast_1d(seeds)
    require(chosen.size > 0, f"seeds {seeds} must be at least 1")
    whole = np.issubdtype(chosen.dtype, np.integer) and bool((chosen >= 0).all())
    require(whole, f"seeds {seeds} must be non-negative integers")
    keys = jnp.asarray(chosen, jnp.int32)
    state = start_models(spec, hypers, keys)
    steps = np.unique(np.linspace(0, n_steps, n_snapshots + 1).round().astype(int))
    W, losses = [], []
    for until in steps:
        state = advance_models(
            spec, state, hypers, keys, jnp.int32(until), jnp.float32(n_steps), batch_size
        )
        W.append(np.asarray(state.params.W))
        losses.append(np.asarray(evaluate(spec, state.params, hypers, jnp.int32(1))))
    n_chunks = jnp.int32(-(-n_eval // _EVAL_CHUNK))
    final = np.asarray(evaluate(spec, state.params, hypers, n_chunks))
    params = jax.tree.map(np.asarray, state.params)
    return TrainedTMS(spec, hypers, chosen, params, final, steps, np.stack(W), np.stack(losses))


def models_of_point(trained: TrainedTMS, point: int) -> TrainedTMS:
    """Returns the models of one point, which keeps its axis of length 1."""
    keep = slice(point, point + 1)
    return replace(
        trained,
        hypers=jax.tree.map(lambda v: v[keep], trained.hypers),
        params=jax.tree.map(lambda v: v[:, keep], trained.params),
        loss=trained.loss[:, keep],
        W=trained.W[:, :, keep],
        loss_curve=trained.loss_curve[:, :, keep],
    )
