"""True feature directions: unit rows `[n_features, d_in]` at any ratio n_features / d_in."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..errors import require


def unit_rows(rows: Float[Array, "*batch n d"]) -> Float[Array, "*batch n d"]:
    """Rows scaled to length 1; a zero row stays zero, with a zero gradient."""
    square = jnp.sum(rows * rows, axis=-1, keepdims=True)
    return rows * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


def sphere(key: PRNGKeyArray, n_features: int, d_in: int) -> Float[Array, "n_features d_in"]:
    """Independent directions, uniform on the unit sphere (interim report, 2022)."""
    return unit_rows(jax.random.normal(key, (n_features, d_in)))


def antipodal(key: PRNGKeyArray, n_features: int, d_in: int) -> Float[Array, "n_features d_in"]:
    """Pairs (f, -f), feature 2i and 2i + 1. Up to 2 d_in features the pairs are orthogonal.

    Raises:
        ToysaeError: n_features is odd.
    """
    require(n_features % 2 == 0, f"n_features {n_features} must be even for antipodal pairs")
    rows = jax.random.normal(key, (n_features // 2, d_in))
    if n_features // 2 <= d_in:
        rows = jnp.linalg.qr(rows.T)[0].T
    rows = unit_rows(rows)
    return jnp.stack([rows, -rows], axis=1).reshape(n_features, d_in)


def anisotropic_matrix(
    key: PRNGKeyArray, d_out: int, d_hidden: int, exponent: float
) -> Float[Array, "d_out d_hidden"]:
    """A random matrix whose i-th singular value is (i + 1)^-exponent, largest 1."""
    rank = min(d_out, d_hidden)
    left_key, right_key = jax.random.split(key)
    left = jnp.linalg.qr(jax.random.normal(left_key, (d_out, rank)))[0]
    right = jnp.linalg.qr(jax.random.normal(right_key, (d_hidden, rank)))[0]
    spectrum = (jnp.arange(rank) + 1.0) ** -exponent
    return (left * spectrum) @ right.T
