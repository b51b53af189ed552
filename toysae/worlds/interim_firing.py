"""The correlated, decaying firing of the interim report, in both of its published readings.

Sharkey, Braun and Millidge 2022: z ~ N(0, Sigma) -> Phi(z) -> decay by feature index ->
rescale to a mean number of active features -> Bernoulli. The replication (HoagyC,
sparse_coding) and the other reading ("power") differ in Sigma, decay and rescaling.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, PRNGKeyArray

from .. import draws, pytree
from ..keys import named_key
from .firing import Active, Firing, compact, slots_for


@pytree.dataclass
class Replication(Firing):
    """Phi(z) * decay^g, rescaled so that the mean over features is mean_active / n_features.

    The replication draws one z for each batch, shared by its rows; `per_sample` draws one for each
    row. An empty row gets one random feature with coefficient 1.
    """

    root: Float[Array, "n_features n_features"]
    mean_active: float = pytree.field(pytree_node=False)
    decay: float = pytree.field(pytree_node=False)
    per_sample: bool = pytree.field(pytree_node=False)

    @property
    def n_features(self) -> int:
        return self.root.shape[-2]

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        n_features = self.root.shape[0]
        z = _correlated(key, self.root, n if self.per_sample else 1)
        raw = jnp.exp(log_ndtr(z)) * self.decay ** jnp.arange(n_features)
        active = _draw(key, raw, n, self.mean_active)
        empty = ~active.on.any(1)
        random = jax.random.randint(named_key(key, "filler"), (n,), 0, n_features, jnp.int32)
        return Active(
            active.indices.at[:, 0].set(jnp.where(empty, random, active.indices[:, 0])),
            active.on.at[:, 0].set(active.on[:, 0] | empty),
            filler=empty,
        )


@pytree.dataclass
class Power(Firing):
    """Phi(z)^(decay * g), rescaled for each sample; empty rows are kept."""

    root: Float[Array, "n_features n_features"]
    mean_active: float = pytree.field(pytree_node=False)
    decay: float = pytree.field(pytree_node=False)

    @property
    def n_features(self) -> int:
        return self.root.shape[-2]

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        z = _correlated(key, self.root, n)
        raw = jnp.exp(self.decay * jnp.arange(self.n_features) * log_ndtr(z))
        return _draw(key, raw, n, self.mean_active)


def replication_root(key: PRNGKeyArray, n_features: int) -> Float[Array, "n_features n_features"]:
    """Draws a square root of (U + U^T)/2 - 1.001 lambda_min I, with U uniform on [0, 1)."""
    uniform = np.asarray(jax.random.uniform(key, (n_features, n_features)), np.float64)
    values, vectors = np.linalg.eigh((uniform + uniform.T) / 2)
    root = vectors * np.sqrt(np.maximum(values - 1.001 * values[0], 0.0))
    return jnp.asarray(root, jnp.float32)


def power_root(key: PRNGKeyArray, n_features: int) -> Float[Array, "n_features n_features"]:
    """Draws a Gaussian A: Sigma = A A^T, whose diagonal is about n_features, so Phi saturates."""
    return jax.random.normal(key, (n_features, n_features))


def _correlated(key: PRNGKeyArray, root: Array, n: int) -> Array:
    return draws.normal(named_key(key, "copula"), (n, root.shape[1])) @ root.T


def _draw(key: PRNGKeyArray, raw: Array, n: int, mean_active: float) -> Active:
    """Fires features with `raw` probabilities, rescaled to the mean number of active features."""
    n_features = raw.shape[-1]
    probs = raw * (mean_active / n_features / raw.mean(-1, keepdims=True))
    fires = draws.uniform(named_key(key, "fire"), (n, n_features)) < probs
    indices, on = compact(fires, slots_for(mean_active, n_features))
    return Active(indices, on)
