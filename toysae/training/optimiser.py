"""Adam with a warm-up and a decay of the learning rate; every number may differ by member."""

from collections.abc import Iterable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ..sae import Hyper, Hypers, Params, SAESpec

HYPERS = (
    Hyper("lr", default=1e-3, low=0.0),
    Hyper("lr_warmup", default=0.0, low=0.0, high=1.0),
    Hyper("lr_decay", default=0.0, low=0.0, high=1.0),
    Hyper("beta1", default=0.9, low=0.0, high=0.9999999),
    Hyper("beta2", default=0.999, low=0.0, high=0.9999999),
)
"""`lr_warmup` and `lr_decay` are the fractions of training over which lr rises from 0 at the
start and falls to 0 at the end."""

OPTIONAL = (Hyper("grad_clip", low=1e-12),)
"""The largest length of a member's whole gradient, in units of our loss; read only if given,
because clipping is one more pass over all gradients."""


def declared(spec: SAESpec, given: Iterable[str] = ()) -> dict[str, Hyper]:
    """Every number that training a spec reads, by name; optional ones only if `given`."""
    optional = [hyper for hyper in OPTIONAL if hyper.name in given]
    return {**spec.hypers(), **{hyper.name: hyper for hyper in (*HYPERS, *optional)}}


def clipped(grad: Params, h: Hypers) -> Params:
    """The gradient, scaled to a length of at most `grad_clip` if the member has that number."""
    if "grad_clip" not in h:
        return grad
    clip = optax.clip_by_global_norm(h["grad_clip"])
    return clip.update(grad, clip.init(grad))[0]  # pyright: ignore[reportArgumentType, reportReturnType]


def adam(h: Hypers) -> optax.GradientTransformation:
    """Adam's direction, without the learning rate."""
    return optax.scale_by_adam(h["beta1"], h["beta2"], eps=1e-8)


def learning_rate(h: Hypers, progress: Float[Array, ""]) -> Float[Array, ""]:
    """lr after the fraction `progress` in (0, 1] of training."""
    rise = progress / jnp.maximum(h["lr_warmup"], 1e-9)
    fall = (1 - progress) / jnp.maximum(h["lr_decay"], 1e-9)
    # With no decay, the last step (progress 1) still counts whole.
    fall = jnp.where(h["lr_decay"] > 0, fall, 1.0)
    return h["lr"] * jnp.minimum(1.0, jnp.minimum(rise, fall))
