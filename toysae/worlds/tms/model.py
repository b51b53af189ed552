"""Toy models of superposition: a bottleneck that must hold more features than it has dimensions.

Elhage et al. 2022, "Toy Models of Superposition", transformer-circuits.pub/2022/toy_model:
h = W x; x' = ReLU(W^T h + b); loss sum_i I_i (x_i - x'_i)^2. A feature is 0 with probability
S = 1 - density and else U[0, 1]. W [d_hidden, n_features]: column i is how feature i is written.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ... import draws, pytree
from ...errors import require, unknown
from ...keys import named_key

FEATURE_KINDS = {
    "linear": "x' = W^T W x + b",
    "relu-output": "x' = ReLU(W^T W x + b)",
    "relu-hidden": "x' = ReLU(W^T ReLU(W x) + b)",
    "absolute-value": "y = ReLU(W_out ReLU(W x) + b) for |x|, x in [-1, 1]",
}
PAIRS = {
    "none": "features fire independently",
    "correlated": "features 2i and 2i + 1 are on together or off together",
    "anticorrelated": "features 2i and 2i + 1 are never on together",
}


@dataclass(frozen=True)
class TMSSpec:
    """Settings that change the compiled program.

    Attributes:
        n_features: features of the data.
        d_hidden: dimensions of the bottleneck.
        kind: a row of :data:`KINDS`.
        pairs: a row of :data:`PAIRS`: how features fire with each other.

    Raises:
        ToysaeError: an unknown kind or pairing, a size below 1, an odd n_features in pairs.
    """

    n_features: int
    d_hidden: int
    kind: str = "relu-output"
    pairs: str = "none"

    def __post_init__(self):
        if self.kind not in FEATURE_KINDS:
            raise unknown("toy model", self.kind, FEATURE_KINDS)
        if self.pairs not in PAIRS:
            raise unknown("pairing of features", self.pairs, PAIRS)
        for name in ("n_features", "d_hidden"):
            value = getattr(self, name)
            whole = isinstance(value, int) and value >= 1
            require(whole, f"{name} {value} must be a positive integer")
        even = self.pairs == "none" or self.n_features % 2 == 0
        require(even, f"n_features {self.n_features} must be even for {self.pairs} pairs")

    @property
    def max_density(self) -> float:
        """Largest firing probability: 1/2 for two features that exclude each other, else 1."""
        return 0.5 if self.pairs == "anticorrelated" else 1.0


@pytree.dataclass
class TMSHypers:
    """Numbers with leading member axes; changing them does not recompile.

    Attributes:
        density: probability 1 - S that a feature is on, in (0, 1].
        importance: `[n_features]` weights I_i of the loss, at least 0.
        lr: Adam's learning rate.
        lr_decay: fraction of training over which lr falls to 0 at the end, in [0, 1].
    """

    density: Float[Array, "*members"]
    importance: Float[Array, "*members n_features"]
    lr: Float[Array, "*members"]
    lr_decay: Float[Array, "*members"]


@pytree.dataclass
class TMSParams:
    """Learned weights.

    Attributes:
        W: `[d_hidden, n_features]`; column i writes feature i.
        W_out: `[d_hidden, n_features]`; column i reads feature i out; None where it is W.
        b: `[n_features]`.
    """

    W: Float[Array, "*members d_hidden n_features"]
    W_out: Float[Array, "*members d_hidden n_features"] | None
    b: Float[Array, "*members n_features"]


def init_tms_params(spec: TMSSpec, key: PRNGKeyArray) -> TMSParams:
    """Draws Xavier-normal weights; the bias is zero."""
    shape = (spec.d_hidden, spec.n_features)
    scale = (2 / sum(shape)) ** 0.5
    W = scale * jax.random.normal(named_key(key, "W"), shape)
    two_sided = spec.kind == "absolute-value"
    W_out = scale * jax.random.normal(named_key(key, "W_out"), shape) if two_sided else None
    return TMSParams(W, W_out, jnp.zeros(spec.n_features))


def draw_uniforms(spec: TMSSpec, key: PRNGKeyArray, n: int) -> Float[Array, "n n_features"]:
    """Draws the uniforms that :func:`features_at` turns into features at any density: one draw
    serves models of all densities, whose data are thus coupled."""
    return draws.uniform(key, (n, spec.n_features))


def features_at(
    spec: TMSSpec, uniforms: Float[Array, "n n_features"], density: Float[Array, ""]
) -> Float[Array, "n n_features"]:
    """Returns features x from :func:`draw_uniforms`: a feature is on where u < density, with value
    u / density, again a uniform."""
    if spec.pairs == "none":
        x = _on(uniforms, density)
    else:
        pairs = uniforms.reshape(len(uniforms), -1, 2)
        which, other = pairs[..., 0], pairs[..., 1]
        first = _on(which, density)
        if spec.pairs == "correlated":
            second = jnp.where(which < density, other, 0.0)
        else:
            second = jnp.where(which >= density, _on(which - density, density), 0.0)
        x = jnp.stack([first, second], -1).reshape(uniforms.shape)
    return jnp.where(x > 0, 2 * x - 1, 0.0) if spec.kind == "absolute-value" else x


def _on(u: Array, density: Array) -> Array:
    return jnp.where(u < density, u / density, 0.0)


def hidden(
    spec: TMSSpec, params: TMSParams, x: Float[Array, "n n_features"]
) -> Float[Array, "n d_hidden"]:
    """Returns the bottleneck h, on which an SAE is trained."""
    h = x @ params.W.T
    return jax.nn.relu(h) if spec.kind in ("relu-hidden", "absolute-value") else h


def output(
    spec: TMSSpec, params: TMSParams, x: Float[Array, "n n_features"]
) -> Float[Array, "n n_features"]:
    """Returns the model's output x'."""
    W_out = params.W if params.W_out is None else params.W_out
    y = hidden(spec, params, x) @ W_out + params.b
    return y if spec.kind == "linear" else jax.nn.relu(y)


def loss(
    spec: TMSSpec,
    params: TMSParams,
    x: Float[Array, "n n_features"],
    importance: Float[Array, " n_features"],
) -> Float[Array, ""]:
    """Mean over samples of sum_i I_i (target_i - x'_i)^2; the target is x, or |x|."""
    target = jnp.abs(x) if spec.kind == "absolute-value" else x
    return jnp.mean((target - output(spec, params, x)) ** 2 @ importance)
