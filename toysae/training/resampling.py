"""Resampling: restarts latents of a running ensemble, by the rule in the spec's `resample`."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..keys import named_key
from ..sae import Forward, Hypers, Params, SAESpec, Stats, forward, resolve
from ..sae.resampling import AtTimes
from ..sae.running import restarted
from ..worlds.dictionaries import unit_rows
from .optimiser import adam
from .state import Member, latent_axes

_APART = 1e-3  # how far rows that start at equal inputs are moved, over their length


def due_steps(rule: AtTimes, n_steps: Float[Array, ""]) -> Int[Array, " times"]:
    """The steps after which a run of `n_steps` resamples; it never does at step 0."""
    return jnp.round(jnp.array(rule.at) * n_steps).astype(jnp.int32)


def sample_losses(
    spec: SAESpec,
    params: Params,
    run: Stats,
    h: Hypers,
    key: PRNGKeyArray,
    x: Float[Array, "n d_in"],
) -> Float[Array, " n"]:
    """The whole loss, penalty included, on each input by itself."""
    f = forward(spec, resolve(spec, params), run, h, x)

    def one(x, x_hat, z, pre_acts, gate_acts) -> Array:
        alone = jax.tree.map(lambda a: a[None], (x, x_hat, z, pre_acts, gate_acts))
        alone = Forward(*alone, w=f.w)
        return spec.objective.loss(key, x[None], alone, h) + spec.penalty.cost(alone, run, h)

    return jax.vmap(one)(x, f.x_hat, f.z, f.pre_acts, f.gate_acts)


def draw_indices(
    key: PRNGKeyArray, weights: Float[Array, " n"], count: int
) -> Int[Array, " count"]:
    """Draws `count` indices with probability proportional to `weights`, none twice while others of
    positive weight are left (Gumbel's trick); then again from the first."""
    noise = jax.random.gumbel(key, weights.shape)
    order = jnp.argsort(-jnp.where(weights > 0, jnp.log(weights) + noise, -jnp.inf))
    possible = jnp.maximum((weights > 0).sum(), 1)
    return order[jnp.arange(count) % possible]


def resample_member(
    spec: SAESpec,
    member: Member,
    h: Hypers,
    key: PRNGKeyArray,
    x: Float[Array, "n d_in"],
    progress: Float[Array, ""],
    n_steps: Float[Array, ""],
) -> Member:
    """Restarts the latents of a member that the rule chooses, see :class:`AtTimes`.

    The other latents keep their bits, also in Adam's moments. A diverged member keeps all latents.

    Args:
        spec: with a rule in `resample`.
        member: one SAE in training.
        h: its numbers.
        key: of the draws.
        x: inputs to draw from; zero rows are never drawn, because they have no direction.
        progress: the fraction of training done.
        n_steps: steps of the whole training.
    """
    assert isinstance(spec.resample, AtTimes)
    params, run = member.params, {**member.run, "progress": progress}
    losses = sample_losses(spec, params, run, h, named_key(key, "loss"), x)
    losses = losses / jnp.maximum(jnp.abs(losses).max(), 1e-30)  # their squares stay in range
    weights = jnp.where((x != 0).any(-1), losses**2, 0.0)
    latents = spec.resample.chosen(member.run, h, n_steps, spec.d_in)
    latents &= ~member.diverged & (weights.sum() > 0)
    drawn = draw_indices(named_key(key, "draw"), weights, spec.d_sae)
    drawn = unit_rows(x[drawn[jnp.cumsum(latents) - 1]])  # the first of them for the first latent
    # Two latents at one input would always have the same gradient.
    apart = jax.random.normal(named_key(key, "apart"), drawn.shape) / drawn.shape[1] ** 0.5
    rows = unit_rows(drawn + _APART * apart)
    axes = latent_axes(spec, params)
    scale = h["resample_scale"] * _mean_length(params.enc, axes.enc, ~latents)
    enc = spec.encoder.init(named_key(key, "encoder"), rows * scale, h)
    mask = jax.tree.map(lambda axis: _along(latents, axis), axes)
    fresh = Params(rows, params.b_dec, enc, spec.activation.init(spec.d_sae, h))
    return Member(
        jax.tree.map(jnp.where, mask, fresh, params),
        optax.tree_map_params(
            adam(h), lambda moment, where: jnp.where(where, 0.0, moment), member.opt, mask
        ),
        restarted(spec.stats(), member.run, latents),
        member.diverged,
        member.scale,
    )


def _along(latents: Bool[Array, " d_sae"], axis: int) -> Bool[Array, "*shape"]:
    """The latents along an array's axis, counted from the end; nowhere if it is 0."""
    return latents.reshape(-1, *[1] * (-axis - 1)) if axis else jnp.zeros((), bool)


def _mean_length(
    enc: dict[str, Array], axes: dict[str, int], living: Bool[Array, " d_sae"]
) -> Float[Array, ""]:
    """The mean length of the living latents' encoder columns; 1 if none lives or has a column."""
    if "W_enc" not in enc:
        return jnp.float32(1)
    W_enc, axis = enc["W_enc"], axes["W_enc"]
    others = tuple(i for i in range(-W_enc.ndim, 0) if i != axis)
    lengths = jnp.sqrt(jnp.sum(W_enc**2, axis=others))
    mean = jnp.sum(jnp.where(living, lengths, 0.0)) / jnp.maximum(living.sum(), 1)
    return jnp.where(living.any(), mean, 1.0)
