"""Non-negative FISTA: sparse codes of inputs in a dictionary.

Minimises ||x - zD||^2 + l1_coeff ||z||_1 over z >= 0 (Beck and Teboulle 2009) with the restarts
of O'Donoghue and Candès (2015). Used by the FISTA encoder and the truth's oracle.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..linalg import top_eigenvalue

_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def fista(
    x: Float[Array, "*batch d_in"],
    D: Float[Array, "n d_in"],
    l1_coeff: Float[Array, ""] | float,
    lipschitz: Float[Array, ""] | float,
    n_iterations: int,
) -> Float[Array, "*batch n"]:
    """Codes after `n_iterations`, with exact zeros.

    Args:
        x: inputs.
        D: dictionary rows of any length.
        l1_coeff: in units of squared error per unit of code.
        lipschitz: at least the largest eigenvalue of D D^T, or the iteration may diverge.
        n_iterations: steps (static).
    """
    # The gradient of the square is 2 (zD - x) D^T, Lipschitz with 2 L: hence l1_coeff / (2 L).
    threshold = l1_coeff / (2 * lipschitz)

    def step(carry, _):
        codes, ahead, t = carry
        descent = _matmul(x - _matmul(ahead, D), D.T) / lipschitz
        new = jnp.maximum(ahead + descent - threshold, 0)
        # Momentum that points uphill is dropped, sample by sample.
        uphill = jnp.sum((ahead - new) * (new - codes), axis=-1, keepdims=True) > 0
        t = jnp.where(uphill, 1.0, t)
        t_new = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return (new, new + (t - 1) / t_new * (new - codes), t_new), None

    start = jnp.zeros((*x.shape[:-1], D.shape[0]), x.dtype)
    ones = jnp.ones((*x.shape[:-1], 1), x.dtype)
    return jax.lax.scan(step, (start, start, ones), length=n_iterations)[0][0]


def _gram(D: Array) -> Array:
    """The smaller of D D^T and D^T D: both have the same largest eigenvalue."""
    rows = D if D.shape[0] <= D.shape[1] else D.T
    return _matmul(rows, rows.T)


def exact_lipschitz(D: Float[Array, "n d_in"]) -> Float[Array, ""]:
    """The largest eigenvalue of D D^T, up to 2e-5 above: for a dictionary used many times."""
    return jnp.maximum(top_eigenvalue(_gram(D)), jnp.finfo(D.dtype).tiny)


def quick_lipschitz(D: Float[Array, "n d_in"]) -> Float[Array, ""]:
    """30 power iterations and 2 % of margin, since they approach from below: for training,
    where the dictionary changes every step and :func:`exact_lipschitz` would dominate."""
    return 1.02 * spectral_square(_gram(D), 30) + 1e-12


def spectral_square(gram: Float[Array, "n n"], n_iterations: int) -> Float[Array, ""]:
    """The largest eigenvalue of a Gram matrix from below, by power iteration."""
    # A random start: a symmetric one (all ones) is orthogonal to what antipodal rows span.
    v = jax.random.normal(jax.random.key(0), gram.shape[:1], gram.dtype)
    for _ in range(n_iterations):
        v = gram @ v
        v = v * jax.lax.rsqrt(jnp.sum(v * v) + 1e-30)
    return jnp.sum(v * (gram @ v))
