"""SynthSAEBench-16k (arXiv 2602.14687): 16,384 features in 768 dimensions, trees and correlations.

It combines Zipf probabilities (`probabilities`), exclusive trees with SAELens' first-order
compensation (`forest`, `plant`), a low-rank copula (`copula`) and children scaled by their parents.
The dictionary is made nearly orthogonal here.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from ..errors import require
from ..keys import named_key
from .assemble import assemble
from .copula import random_factors
from .dictionaries import sphere, unit_rows
from .forest import ScaledByParent
from .magnitudes import RectifiedNormal
from .plant import forest, regular_forest
from .probabilities import zipf_between
from .world import World


def synth_sae_bench(
    key: PRNGKeyArray, d_in: int = 768, n_features: int = 16_384, n_roots: int = 128,
    branching: int = 4, depth: int = 3, exponent: float = 0.5, p_min: float = 5e-4,
    p_max: float = 0.4, rank: int = 25, scale: float = 0.1, bias_norm: float = 0.5,
    n_steps: int = 100,
) -> World:  # fmt: skip
    """SynthSAEBench (arXiv 2602.14687), at the defaults its 16k world.

    Features are numbered by falling probability: roots, then their children, and so on
    breadth-first, then features without parents. True L0 is about 34.4, mean |x| 28.3.

    Args:
        key: of everything that is drawn once.
        d_in: dimensions.
        n_features: features; trees are cut off at this number.
        n_roots: trees.
        branching: children of each node, at most one of which fires.
        depth: generations below the roots.
        exponent: Zipf exponent of the probabilities, mapped affinely onto [p_min, p_max].
        p_min: probability of the last feature, before exclusion takes its share.
        p_max: probability of the first.
        rank: factors of the copula; 0 for independent events.
        scale: sd of their loadings.
        bias_norm: length of the bias of x.
        n_steps: Adam steps on the dictionary, see :func:`near_orthogonal`.

    Raises:
        ToysaeError: a number out of range.
    """
    require(0 < p_min <= p_max < 1, f"p_min {p_min}, p_max {p_max} must be ordered within (0, 1)")
    require(bias_norm >= 0, f"bias_norm {bias_norm} must be at least 0")
    require(n_steps >= 0, f"n_steps {n_steps} must be at least 0")
    parents = regular_forest(n_roots, branching, depth, n_features)
    probs = zipf_between(n_features, exponent, p_min, p_max)
    factor_key = named_key(key, "factors")
    factors = random_factors(factor_key, n_features, rank, scale) if rank else None
    firing = forest(parents, probs, True, factors, compensate="first-order")
    mean = jnp.linspace(5.0, 4.0, n_features)
    sd = jnp.abs(0.5 + 0.5 * jax.random.normal(named_key(key, "sd"), (n_features,)))
    bias = sphere(named_key(key, "bias"), 1, d_in)[0]
    return assemble(
        near_orthogonal(named_key(key, "directions"), n_features, d_in, n_steps),
        firing,
        ScaledByParent(RectifiedNormal(mean, sd), mean),
        bias=bias_norm * bias if bias_norm else None,
        name="synth-sae-bench",
    )


def near_orthogonal(
    key: PRNGKeyArray, n_features: int, d_in: int, n_steps: int = 100, lr: float = 3e-4
) -> Float[Array, "n_features d_in"]:
    """Runs Adam from random directions on sum_{i != j} (f_i . f_j)^2 + n sum (|f_i|^2 - 1)^2.

    The sum over pairs is |F^T F|^2 - sum |f_i|^4, with F^T F only `[d_in, d_in]`: the same
    gradient as over all pairs at d_in / n_features of the work, without their matrix.
    """
    start = sphere(key, n_features, d_in)
    return _descend(start, n_steps, lr) if n_steps else start


@partial(jax.jit, static_argnames=("n_steps", "lr"))
def _descend(rows: Array, n_steps: int, lr: float) -> Array:
    adam = optax.adam(lr)
    n_features = rows.shape[0]

    def gradient(rows):
        square = jnp.sum(rows * rows, 1, keepdims=True)
        return 4 * (rows @ (rows.T @ rows) - square * rows + n_features * (square - 1) * rows)

    def step(carry, _):
        rows, state = carry
        updates, state = adam.update(gradient(rows), state)
        return (rows + updates, state), None

    (rows, _), _ = jax.lax.scan(step, (rows, adam.init(rows)), length=n_steps)
    return unit_rows(rows)
