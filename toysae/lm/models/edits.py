"""Changes to activations while a model runs: replace, ablate, add, pin, or pass through an SAE.

An edit is a pytree, so that changing its numbers compiles nothing anew.
"""

from abc import ABC, abstractmethod

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ... import pytree


@pytree.dataclass
class Edit(ABC):
    """Base of edits.

    Attributes:
        site: by TransformerLens' name.
        first: the first position that is changed. Position 0 is the attention sink of most models,
            whose residual stream is a hundred times as long as elsewhere.
    """

    site: str = pytree.field(pytree_node=False)
    first: int = pytree.field(pytree_node=False, default=0, kw_only=True)

    def applied(self, acts: Float[Array, "batch seq d"]) -> Float[Array, "batch seq d"]:
        """The activations at the site as this edit leaves them."""
        if self.first == 0:
            return self(acts).astype(acts.dtype)
        changed = self(acts)[:, self.first :].astype(acts.dtype)
        return acts.at[:, self.first :].set(changed)

    @abstractmethod
    def __call__(self, acts: Array) -> Array:
        """The activations changed at every position."""


@pytree.dataclass
class Replace(Edit):
    """Puts other activations in their place: `[batch, seq, d]`, or one vector `[d]` for all."""

    value: Float[Array, "..."]

    def __call__(self, acts: Array) -> Array:
        return jnp.broadcast_to(self.value, acts.shape)


@pytree.dataclass
class Ablate(Edit):
    """Sets the coordinates where `dims [d]` is true to 0."""

    dims: Bool[Array, " d"]

    def __call__(self, acts: Array) -> Array:
        return jnp.where(self.dims, 0.0, acts)


@pytree.dataclass
class Add(Edit):
    """Adds a vector `[d]`, or one for each place `[batch, seq, d]`: steering."""

    vector: Float[Array, "..."]

    def __call__(self, acts: Array) -> Array:
        return acts + self.vector


@pytree.dataclass
class Pin(Edit):
    """Sets the component along `direction [d]`, of any length, to `value`, in units of x."""

    direction: Float[Array, " d"]
    value: Float[Array, ""]

    def __call__(self, acts: Array) -> Array:
        unit = self.direction / jnp.sqrt(jnp.sum(self.direction**2))
        return acts + (self.value - acts @ unit)[..., None] * unit


@pytree.dataclass
class KeepMean(Edit):
    """Applies another edit to activations less their own mean over dimensions, which is kept."""

    edit: Edit

    def __call__(self, acts: Array) -> Array:
        own = acts.mean(-1, keepdims=True)
        return own + self.edit(acts - own)
