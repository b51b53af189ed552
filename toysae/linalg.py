"""Factorisations, none of which calls LAPACK inside a compiled program.

On a CPU with as many devices as cores, jaxlib's batched LAPACK calls (svd, eigh, qr, solve,
cholesky, ...) can wait for ever on the threads that they need themselves. Functions for programs
are therefore made of matrix products, which are fast on any device: :func:`polar`,
:func:`top_eigenvalue`, :func:`top_eigenvector`, :func:`solve_positive`. Functions for use outside
of programs call NumPy in float64: :func:`singular_axes`, :func:`orthonormal_rows`.
"""

from functools import partial
from math import ceil

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from . import draws, pytree

_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_SQUARINGS = 20
_MOST_STEPS = 96
_BLOCK = 32


@pytree.dataclass
class Axes:
    """Right singular vectors of a matrix, strongest first.

    Attributes:
        rows: `[r, d]` orthonormal, r the smaller size of the matrix.
        lengths: `[r]` the singular values.
        rank: how many of them are more than float32's rounding of the largest; at least 1.
    """

    rows: Float[Array, "*lead r d"]
    lengths: Float[Array, "*lead r"]
    rank: Int[Array, "*lead"]


def singular_axes(matrix: Float[np.ndarray, "n d"] | Float[Array, "n d"]) -> Axes:
    """The right singular vectors of a matrix, by NumPy in float64, as float32.

    Args:
        matrix: concrete values, not traced by a JAX transformation.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape[0] > matrix.shape[1]:  # float64 resolves squares to 1e-16, lengths to 1e-8
        squares, columns = np.linalg.eigh(matrix.T @ matrix)
        lengths, rows = np.sqrt(np.maximum(squares[::-1], 0)), columns.T[::-1]
    else:
        _, lengths, rows = np.linalg.svd(matrix, full_matrices=False)
    tolerance = lengths[0] * max(matrix.shape) * np.finfo(np.float32).eps
    rank = max(int((lengths > tolerance).sum()), 1)
    arrays = rows.astype(np.float32), lengths.astype(np.float32), np.int32(rank)
    return Axes(*jax.device_put(arrays))


def orthonormal_rows(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Makes at most d rows orthonormal one after another (QR), by NumPy in float64, as float32."""
    return jnp.asarray(np.linalg.qr(np.asarray(rows, np.float64).T)[0].T, jnp.float32)


def polar(W: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """The nearest matrix with all singular values 1, by Newton-Schulz steps W <- 1.5 W - .5 W W'W.

    It is orthonormal to about 1e-6 in float32, and as near as its condition allows: rounding moves
    it by about 1e-7 times the largest over the smallest singular value. Directions missing from W
    are filled with arbitrary ones, so that rows or columns are orthonormal whatever the rank.
    """
    wide = W.shape[0] <= W.shape[1]
    rows = W if wide else W.T
    size = jnp.abs(rows).max()
    rows = rows / jnp.where(size > 0, size, 1.0)
    # Missing directions start from this noise, which is below the rounding of the others.
    noise = draws.normal(jax.random.key(0), rows.shape).astype(rows.dtype)
    top = top_eigenvalue(_matmul(rows, rows.T))
    rows = rows / jnp.sqrt(jnp.where(top > 0, top, 1.0))
    rows = rows + jnp.finfo(rows.dtype).eps / sum(rows.shape) ** 0.5 * noise
    eye = jnp.eye(rows.shape[0], dtype=rows.dtype)

    def gap(rows: Array) -> Array:
        return eye - _matmul(rows, rows.T)

    def step(carry):
        rows, left, n = carry
        rows = rows + 0.5 * _matmul(left, rows)
        return rows, gap(rows), n + 1

    def unfinished(carry):
        # A step squares the gap: from .03, two more steps come to rounding.
        return (jnp.sum(carry[1] ** 2) > 0.03**2) & (carry[2] < _MOST_STEPS)

    carry = jax.lax.while_loop(unfinished, step, (rows, gap(rows), 0))
    rows, *_ = step(step(carry))
    return rows if wide else rows.T


def top_eigenvalue(gram: Float[Array, "n n"]) -> Float[Array, ""]:
    """An upper bound on the largest eigenvalue of a positive semidefinite matrix.

    It is ||G^m||_F^(1/m) with m = 2^20, by squaring 20 times, which lies between the eigenvalue and
    sqrt(n)^(1/m) times it: at most 5e-6 above for n up to 10^4. Another 1e-5 is added for rounding,
    so that it is at most 2e-5 above, at any scale but denormal numbers. 0 for a matrix of zeros.
    """
    size, log_top, _ = _squared(gram)
    return size * (jnp.exp(log_top) * (1 + 1e-5))


def top_eigenvector(gram: Float[Array, "n n"]) -> Float[Array, " n"]:
    """A unit eigenvector of the largest eigenvalue of a positive semidefinite matrix (not all 0).

    It is a column of G^m with m = 2^20. If other eigenvalues are within about 1e-5 of the largest,
    it is a vector of the space that their eigenvectors span. Its sign is arbitrary.
    """
    *_, power = _squared(gram)
    v = power[:, jnp.argmax(jnp.diagonal(power))]
    return v * jax.lax.rsqrt(jnp.maximum(jnp.sum(v * v), jnp.finfo(v.dtype).tiny))


def _squared(gram: Array) -> tuple[Array, Array, Array]:
    """The largest |entry|; of the matrix over it, log ||G^m||_F / m and G^m scaled to norm 1."""
    size = jnp.abs(gram).max()

    def scaled(G: Array) -> tuple[Array, Array]:
        norm = jnp.sqrt(jnp.sum(G * G))
        return jnp.log(norm), G / jnp.where(norm > 0, norm, 1.0)

    def square(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        log_top, G = carry
        log_norm, G = scaled(_matmul(G, G))
        return log_top + log_norm * jnp.exp2(-(i + 1).astype(G.dtype)), G

    start = scaled(gram / jnp.where(size > 0, size, 1.0))
    return size, *jax.lax.fori_loop(0, _SQUARINGS, square, start)


def solve_positive(A: Float[Array, "n n"], B: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """X of A X = B for a symmetric positive definite A, by block Gauss-Jordan elimination.

    It exchanges no pivots, as such a matrix needs none. The error is like that of a Cholesky
    solve: about 1e-7 times the condition number of A.
    """
    return _eliminated(A, B, _BLOCK if A.shape[0] > _BLOCK else 1)


def _eliminated(A: Array, B: Array, block: int) -> Array:
    """A^-1 B, eliminating `block` columns at a time."""
    n = A.shape[0]
    missing = ceil(n / block) * block - n
    A = jnp.pad(A, ((0, missing), (0, missing))) + jnp.diag(jnp.arange(n + missing) >= n)
    M = jnp.concatenate([A, jnp.pad(B, ((0, missing), (0, 0)))], 1)

    def eliminate(i: Array, M: Array) -> Array:
        start = i * block
        rows = jax.lax.dynamic_slice_in_dim(M, start, block)
        pivot = jax.lax.dynamic_slice_in_dim(rows, start, block, 1)
        rows = rows / pivot if block == 1 else _eliminated(pivot, rows, 1)
        column = jax.lax.dynamic_slice_in_dim(M, start, block, 1)
        M = M - _matmul(column, rows)
        return jax.lax.dynamic_update_slice_in_dim(M, rows, start, 0)

    return jax.lax.fori_loop(0, M.shape[0] // block, eliminate, M)[:n, A.shape[0] :]
