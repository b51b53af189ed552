"""The state of training: members with leading axes [world, member], and one step counter."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from .. import pytree
from ..keys import named_key, seed_key
from ..sae import (
    Forward,
    Hypers,
    Params,
    SAESpec,
    Stats,
    forward,
    init_stats,
    resolve,
)
from ..sae.arithmetic import FUSED, SPARSE
from ..sae.component import Component, Weights
from ..sae.fused import loss_of
from ..sae.plain import arrays_of, is_plain, other_parts
from ..sae.running import next_stats
from ..sae.sparse import plain_loss
from .optimiser import adam, clipped, learning_rate

_DIVERGED = 1e6  # diverged from this loss on, over the largest mean ||x||^2 of a batch


@pytree.dataclass
class Member:
    """One SAE in training.

    Attributes:
        params: trained parameters.
        opt: Adam's moments.
        run: running statistics that its components read.
        diverged: whether it has diverged and stands still.
        scale: the largest mean ||x||^2 of a batch so far, with which its loss is compared.
    """

    params: Params
    opt: optax.OptState
    run: Stats
    diverged: Bool[Array, "*lead"]
    scale: Float[Array, "*lead"]


@pytree.dataclass
class TrainState:
    """An ensemble in training.

    Attributes:
        members: leaves with leading axes `[n_worlds, n_members]`.
        step: steps taken; without a member axis, or every cond on it would become a select.
        firings: `[n_worlds, n_features]` how often each feature has fired in training.
        loss: `[n_worlds, n_members]` of the last step.
    """

    members: Member
    step: Int[Array, ""]
    firings: Int[Array, "n_worlds n_features"]
    loss: Float[Array, "n_worlds n_members"]


def member_from(spec: SAESpec, params: Params, h: Hypers) -> Member:
    """A member before any step, with these parameters."""
    opt = adam(h).init(params)  # pyright: ignore[reportArgumentType]  (any pytree will do)
    return Member(params, opt, init_stats(spec), jnp.zeros((), bool), jnp.float32(0))


def latent_axes(spec: SAESpec, params: Params) -> Any:
    """For each array of the parameters, its axis over latents as its component declares it, counted
    from the end: the first if there are several, 0 if there is none."""

    def declared(component: Component) -> dict[str, int]:
        return {name: (*axes, 0)[0] for name, axes in component.latent_axes().items()}

    b_dec = None if params.b_dec is None else 0
    W_dec, enc, act = (declared(c) for c in (spec.decoder, spec.encoder, spec.activation))
    return Params(**W_dec, b_dec=b_dec, enc=enc, act=act)  # pyright: ignore[reportArgumentType]


def member_latent_axes(spec: SAESpec, member: Member) -> Any:
    """:func:`latent_axes` of everything that training carries of an SAE."""
    params = latent_axes(spec, member.params)
    opt = optax.tree_map_params(
        optax.scale_by_adam(), lambda _, axis: axis, member.opt, params,
        transform_non_params=lambda _: 0,
    )  # fmt: skip
    run = {name: -1 if stat.per_latent else 0 for name, stat in spec.stats().items()}
    return Member(params, opt, run, 0, 0)  # pyright: ignore[reportArgumentType]


def member_key(world_seed: Int[Array, ""], sae_seed: Int[Array, ""]) -> PRNGKeyArray:
    """A member's key from its two seeds."""
    return jax.random.fold_in(seed_key(sae_seed, "sae"), world_seed)


def training_pass(
    spec: SAESpec, weights: Weights, run: Stats, h: Hypers, key: PRNGKeyArray, x: Array
) -> Forward:
    """The forward pass of training: of x as the objective corrupts it, with the clean x as target,
    for penalties that reconstruct too."""
    seen = spec.objective.corrupt(key, x, h)
    return replace(forward(spec, weights, run, h, seen), x=x)


def training_loss(
    spec: SAESpec, f: Forward, run: Stats, h: Hypers, key: PRNGKeyArray
) -> Float[Array, ""]:
    """The loss that training minimises on one batch, with penalties."""
    return spec.objective.loss(key, f.x, f, h) + spec.penalty.cost(f, run, h)


def member_loss(
    spec: SAESpec, params: Params, run: Stats, h: Hypers, key: PRNGKeyArray, x: Array
) -> tuple[Array, Stats]:
    """The loss of one member on one batch, and its next running statistics."""
    w = resolve(spec, params)
    if spec.arithmetic == FUSED:  # without running statistics, see check_fused
        return loss_of(spec, w, run, h, x), {}
    f = training_pass(spec, w, run, h, key, x)
    stats = next_stats(spec.stats(), f, run, h)
    if spec.arithmetic == SPARSE and is_plain(spec):
        z, others = jax.lax.stop_gradient(f.z), other_parts(spec.penalty)
        loss = plain_loss(x, z, *arrays_of(spec, w, run, h))
        return loss + others.cost(f, run, h), stats
    return training_loss(spec, f, run, h, key), stats


def member_step(
    spec: SAESpec,
    member: Member,
    h: Hypers,
    key: PRNGKeyArray,
    x: Float[Array, "batch d_in"],
    progress: Float[Array, ""],
) -> tuple[Member, Array]:
    """Takes one Adam step of one member. A diverged one stands still: zero gradient, zero lr."""
    run = {**member.run, "progress": progress}
    (loss, stats), grad = jax.value_and_grad(member_loss, argnums=1, has_aux=True)(
        spec, member.params, run, h, key, x
    )
    # Not this batch's alone: one without any firing would make every loss look large.
    scale = jnp.maximum(member.scale, jnp.mean(jnp.sum(x * x, -1)).astype(jnp.float32))
    too_large = (scale > 0) & (loss >= _DIVERGED * scale)
    diverged = member.diverged | too_large | ~jnp.isfinite(loss)
    grad = grad.replace(W_dec=spec.decoder.project(member.params.W_dec, grad.W_dec))
    grad = jax.tree.map(lambda g: jnp.where(diverged, 0.0, g), clipped(grad, h))
    direction, opt = adam(h).update(grad, member.opt)
    lr = jnp.where(diverged, 0.0, learning_rate(h, progress))
    params = jax.tree.map(lambda p, u: p - lr * u, member.params, direction)
    W_dec = spec.decoder.retract(params.W_dec)
    # Retracting a retracted decoder again would change its last bits.
    params = params.replace(W_dec=jnp.where(diverged, member.params.W_dec, W_dec))
    return Member(params, opt, stats, diverged, scale), loss


def keys_of(world_seeds: Int[Array, " n_worlds"], label: str) -> Key[Array, " n_worlds"]:
    """One named key for each world seed."""
    return jax.vmap(lambda seed: named_key(seed_key(seed, "data"), label))(world_seeds)
