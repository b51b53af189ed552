import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from toysae.errors import ToysaeError
from toysae.recovery import fista_codes, fista_oracle


def _problem(n_features, d_in=8, batch=20, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((n_features, d_in)) * rng.uniform(0.5, 2, (n_features, 1))
    x = rng.random((batch, n_features)) * (rng.random((batch, n_features)) < 0.2) @ directions
    return jnp.float32(x), jnp.float32(directions)


@pytest.mark.parametrize("n_features", [5, 12])  # either Gram is the smaller one
@pytest.mark.parametrize("l1_coeff", [0.05, 0.5])
def test_codes_satisfy_the_optimality_conditions(n_features, l1_coeff):
    x, D = _problem(n_features)
    a = np.float64(fista_codes(x, D, l1_coeff, n_iterations=2000))
    # Of ‖x - aD‖² + λ Σ a, a >= 0: gradient 2 (aD - x) Dᵀ + λ is 0 where a > 0, else >= 0.
    gradient = 2 * (a @ np.float64(D) - x) @ np.float64(D).T + l1_coeff
    active = a > 0
    assert (a >= 0).all() and 0 < active.mean() < 1
    assert np.abs(gradient[active]).max() < 1e-3 * l1_coeff + 2e-5
    assert gradient[~active].min() > -1e-3 * l1_coeff - 2e-5


def test_zero_coefficient_is_nonnegative_least_squares():
    x, D = _problem(5)
    expected = np.stack([nnls(np.float64(D.T), np.float64(row))[0] for row in x])
    np.testing.assert_allclose(fista_codes(x, D, 0.0, n_iterations=2000), expected, atol=1e-4)


def test_one_feature_by_hand():
    # min (3 - 2a)² + λ a: a = (12 - λ)/8; with a negative input, 0.
    x, D = jnp.array([[3.0], [-3.0]]), jnp.array([[2.0]])
    np.testing.assert_allclose(fista_codes(x, D, 4.0), [[1.0], [0.0]], atol=1e-5)


def test_default_iterations_are_enough_for_an_incoherent_dictionary():
    rng = np.random.default_rng(1)
    D = rng.standard_normal((64, 32)).astype(np.float32)
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    x = np.float32((rng.random((50, 64)) * (rng.random((50, 64)) < 0.06)) @ D)
    short, long = fista_codes(x, D, 0.1), fista_codes(x, D, 0.1, n_iterations=5000)
    np.testing.assert_allclose(short, long, atol=2e-3)


def test_a_zero_dictionary_and_no_iterations():
    assert not np.any(fista_codes(jnp.ones((2, 3)), jnp.zeros((4, 3)), 0.1))
    with pytest.raises(ToysaeError, match="n_iterations"):
        fista_codes(jnp.ones((2, 3)), jnp.ones((4, 3)), 0.1, n_iterations=0)


def test_oracle_curve_equals_its_codes():
    x, D = _problem(12)
    coefficients = jnp.array([0.01, 0.3, 1e4])
    got = fista_oracle(x, D, coefficients)
    assert all(v.shape == (3,) for v in got.values())
    for i, l1_coeff in enumerate(coefficients):
        a = np.float64(fista_codes(x, D, l1_coeff))
        mse = ((x - a @ D) ** 2).sum(1).mean()
        variance = ((x - x.mean(0)) ** 2).sum(1).mean()
        np.testing.assert_allclose(got["l0"][i], (a != 0).sum(1).mean(), rtol=1e-6)
        np.testing.assert_allclose(got["mse"][i], mse, rtol=1e-4)
        np.testing.assert_allclose(got["ev"][i], 1 - mse / variance, atol=1e-5)
    assert got["l0"][2] == 0 and np.all(np.diff(got["mse"]) > 0)
