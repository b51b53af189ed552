"""Factorisations by products, and NumPy's outside, against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.linalg import (
    orthonormal_rows,
    polar,
    singular_axes,
    solve_positive,
    top_eigenvalue,
    top_eigenvector,
)

RNG = np.random.default_rng(0)


def f32(a):
    return jnp.asarray(a, jnp.float32)


def gram(n, more=3):
    rows = RNG.normal(size=(n, n + more))
    return np.asarray(f32(rows @ rows.T), np.float64)


def with_values(shape, values):
    """A random matrix with these singular values."""
    U, _, Vt = np.linalg.svd(RNG.normal(size=shape), full_matrices=False)
    return U * values @ Vt, U @ Vt


@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (20, 8), (64, 64)])
@pytest.mark.parametrize("smallest", [1.0, 1e-2])
def test_polar_is_the_nearest_orthonormal_matrix(shape, smallest):
    W, nearest = with_values(shape, 7 * np.geomspace(1, smallest, min(shape)))
    found = np.asarray(jax.jit(polar)(f32(W)), np.float64)
    np.testing.assert_allclose(found, nearest, atol=1e-6 / smallest)
    square = found @ found.T if shape[0] <= shape[1] else found.T @ found
    np.testing.assert_allclose(square, np.eye(min(shape)), atol=2e-6)


def test_polar_of_gaussian_matrices_whose_squares_are_ill_conditioned():
    for n in (32, 64):
        W = RNG.normal(size=(3, n, n))
        found = np.asarray(jax.jit(jax.vmap(polar))(f32(W)), np.float64)
        U, _, Vt = np.linalg.svd(W)
        np.testing.assert_allclose(found, U @ Vt, atol=2e-5)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_polar_completes_what_a_matrix_lacks(scale):
    low = RNG.normal(size=(12, 2)) @ RNG.normal(size=(2, 6))
    low[3:5] = 0
    for W in (low, low.T, np.zeros((6, 6))):
        found = np.asarray(jax.jit(polar)(f32(scale * W)), np.float64)
        found = found if W.shape[0] <= W.shape[1] else found.T
        np.testing.assert_allclose(found @ found.T, np.eye(6), atol=2e-6)


@pytest.mark.parametrize("n", [1, 2, 33, 200])
def test_the_top_eigenvalue_is_never_below_and_hardly_above(n):
    G = gram(n)
    top = np.linalg.eigvalsh(G)[-1]
    for scale in (1e-30, 1.0, 1e4, 1e34):
        assert 1 <= float(jax.jit(top_eigenvalue)(f32(scale * G))) / (scale * top) < 1 + 2e-5
    # As many equal ones as there can be: the farthest that the norm is from it.
    assert 1 <= float(top_eigenvalue(jnp.eye(n))) < 1 + 2e-5
    assert float(top_eigenvalue(jnp.zeros((n, n)))) == 0


def test_the_top_eigenvector():
    for values in ([1.0, 0.5, 0.1], [1.0, 0.999, 0.5], [1e-12, 0, 0]):
        Q = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
        v = np.asarray(jax.jit(top_eigenvector)(f32(Q * values @ Q.T)), np.float64)
        assert abs(v @ Q[:, 0]) == pytest.approx(1, abs=1e-5)
    twice = np.asarray(top_eigenvector(f32(Q * [1.0, 1.0, 0.2] @ Q.T)), np.float64)
    assert np.linalg.norm(twice @ Q[:, :2]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("n", [1, 7, 32, 33, 100])
def test_solve_positive_is_as_exact_as_lapack(n):
    A, B = gram(n) + 0.01 * n * np.eye(n), RNG.normal(size=(n, 5))
    expected = np.linalg.solve(A, np.asarray(f32(B), np.float64))
    found = np.asarray(jax.jit(solve_positive)(f32(A), f32(B)), np.float64)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 2e-7 * max(np.linalg.cond(A), 5)
    both = jax.vmap(solve_positive)(f32([A, 2 * A]), f32([B, B]))
    np.testing.assert_allclose(both[0], 2 * both[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6), (6, 6), (300, 6)])
def test_axes_are_numpys_singular_vectors_with_their_rank(shape):
    W = RNG.normal(size=shape) * [1, 2, 3, 1, 1, 0]
    axes = singular_axes(W)
    _, s, Vt = np.linalg.svd(W, full_matrices=False)
    assert int(axes.rank) == min(shape[0], 5) and axes.rows.dtype == jnp.float32
    np.testing.assert_allclose(axes.lengths, s, atol=1e-5)
    kept = slice(int(axes.rank))
    np.testing.assert_allclose(np.abs((axes.rows * Vt)[kept].sum(1)), 1, atol=1e-5)
    assert int(singular_axes(np.zeros((3, 2))).rank) == 1


def test_orthonormal_rows_span_what_the_rows_span():
    rows = RNG.normal(size=(3, 7))
    Q = np.asarray(orthonormal_rows(f32(rows)), np.float64)
    np.testing.assert_allclose(Q @ Q.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(rows @ Q.T @ Q, rows, atol=1e-5)
