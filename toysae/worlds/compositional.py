"""Compositional codes: an object that is present shows one value of each of its attributes.

The feature of (object, attribute, value) fires when the object is present and has that value, so
the attributes of one object always fire together and the values of one attribute never do.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import pytree
from ..errors import require
from ..keys import named_key
from .firing import Active, Firing
from .groups import alias_tables, pick
from .independent import independent
from .probabilities import checked_probabilities


@pytree.dataclass
class Compositional(Firing):
    """Objects fire by a law of their own; each has one slot for each of its attributes.

    Attributes:
        objects: how the objects fire.
        accept: `[n_objects * n_attributes, n_values]` alias tables of the values.
        alias: the same shape.
        n_attributes: of each object.
    """

    objects: Firing
    accept: Float[Array, "tables n_values"]
    alias: Int[Array, "tables n_values"]
    n_attributes: int = pytree.field(pytree_node=False)

    @property
    def n_features(self) -> int:
        return self.accept.shape[-2] * self.accept.shape[-1]

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        active = self.objects.sample(named_key(key, "objects"), n)
        attribute = jnp.arange(self.n_attributes, dtype=jnp.int32)
        table = (active.indices[..., None] * self.n_attributes + attribute).reshape(n, -1)
        value = pick(named_key(key, "value"), self.accept, self.alias, table)
        indices = table * self.accept.shape[-1] + value
        on = jnp.repeat(active.on, self.n_attributes, axis=1)
        return Active(indices.astype(jnp.int32), on, dropped=active.dropped)


def compositional(
    probs: Float[np.ndarray, " n_features"], n_attributes: int, n_values: int
) -> Compositional:
    """Returns the firing of objects that have `n_attributes` attributes of `n_values` values each.

    Args:
        probs: marginals of the features, ordered object, attribute, value. The attributes of one
            object must have the same total, which is how often the object is present, as equal
            probabilities have.
        n_attributes: attributes of each object.
        n_values: values of each attribute.

    Raises:
        ToysaeError: a probability outside [0, 1], n_features that is not a multiple of
            n_attributes x n_values, totals that differ or pass 1.
    """
    probs = checked_probabilities(probs)
    size = n_attributes * n_values
    require(n_attributes >= 1, f"n_attributes {n_attributes} must be at least 1")
    require(n_values >= 1, f"n_values {n_values} must be at least 1")
    n = probs.size
    require(n % size == 0, f"n_features {n} must be a multiple of n_attributes x n_values = {size}")
    weights = probs.reshape(-1, n_attributes, n_values)
    totals = weights.sum(2)
    equal = bool(np.allclose(totals, totals[:, :1], rtol=1e-6))
    require(equal, "the attributes of an object must be present equally often: use probs=uniform")
    require(totals.max() <= 1 + 1e-9, f"an object would be present {totals.max():.3g} of the time, "
            "over 1: lower l0 or use fewer values")  # fmt: skip
    rows = weights.reshape(-1, n_values)
    accept, alias = alias_tables(np.where(rows.sum(1, keepdims=True) > 0, rows, 1.0))
    return Compositional(independent(np.minimum(totals[:, 0], 1.0)), accept, alias, n_attributes)
