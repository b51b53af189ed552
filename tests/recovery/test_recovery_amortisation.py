"""The split of an SAE's objective, against closed forms and a float64 non-negative solver."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from toysae.recovery import fista_codes
from toysae.recovery.amortisation import duality_gap, gap_decomposition, l1_objective

L1 = 0.3


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def objective(x, z, D, l1):
    return ((x - z @ D) ** 2).sum(1) + l1 * np.abs(z).sum(1)


def least(x, D, l1):
    """min ||x - zD||^2 + l1 1'z over z >= 0 in float64: completing the square makes it NNLS."""
    root = np.linalg.cholesky(D @ D.T + 1e-12 * np.eye(len(D)))
    codes = [nnls(root.T, np.linalg.solve(root, D @ row - l1 / 2))[0] for row in x]
    return objective(x, np.array(codes), D, l1)


def orthonormal_least(x, D, l1):
    """With orthonormal rows the best code is ReLU(c - l1 / 2), c = xD'."""
    c = x @ D.T
    return np.where(c > l1 / 2, l1 * c - l1**2 / 4, c**2).sum(1).mean()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_orthonormal_dictionaries_have_a_closed_form(rng):
    d = 6
    truth, learned = (np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(2))
    x = np.maximum(rng.normal(size=(200, d)), 0) @ truth
    z = np.maximum(x @ learned.T, 0)  # a tied SAE without bias: it does not shrink
    gaps = gap_decomposition(*map(jnp.float32, (x, z, learned, truth)), L1)
    in_truth, in_learned = (orthonormal_least(x, D, L1) for D in (truth, learned))
    own = objective(x, z, learned, L1).mean()
    np.testing.assert_allclose(gaps.truth, in_truth, rtol=1e-5)
    np.testing.assert_allclose(gaps.dictionary, in_learned - in_truth, rtol=1e-4)
    np.testing.assert_allclose(gaps.amortisation, own - in_learned, rtol=1e-4)
    assert gaps.unconverged < 1e-5


def test_shrinkage_is_the_whole_amortisation_gap_of_unshrunk_codes(rng):
    # Every coefficient is above l1 / 2, so the best code is c - l1 / 2 and each costs l1^2 / 4.
    truth = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    z = rng.uniform(0.5, 1.5, (100, 5))
    gaps = gap_decomposition(*map(jnp.float32, (z @ truth, z, truth, truth)), L1)
    np.testing.assert_allclose(gaps.amortisation, 5 * L1**2 / 4, rtol=1e-4)
    np.testing.assert_allclose(gaps.dictionary, 0, atol=1e-6)


def test_parts_add_up_to_the_objective_and_match_a_float64_solver(rng):
    truth, learned = unit(rng.normal(size=(7, 8))), unit(rng.normal(size=(8, 8)))
    x = np.where(rng.random((64, 7)) < 0.3, rng.random((64, 7)), 0) @ truth
    z = np.maximum(x @ learned.T - 0.1, 0)
    gaps = gap_decomposition(*map(jnp.float32, (x, z, learned, truth)), L1, n_iterations=3000)
    best_truth, best_learned = least(x, truth, L1).mean(), least(x, learned, L1).mean()
    np.testing.assert_allclose(gaps.truth, best_truth, atol=1e-5)
    np.testing.assert_allclose(gaps.dictionary, best_learned - best_truth, atol=2e-5)
    whole = gaps.truth + gaps.dictionary + gaps.amortisation
    np.testing.assert_allclose(whole, objective(x, z, learned, L1).mean(), rtol=1e-5)


def test_converged_codes_have_no_gap_and_others_have_one(rng):
    D = unit(rng.normal(size=(24, 6)))  # far overcomplete
    x = jnp.float32(rng.normal(size=(128, 6)))
    best = fista_codes(x, jnp.float32(D), L1, 3000)
    gaps = gap_decomposition(x, best, jnp.float32(D), jnp.float32(D), L1, n_iterations=3000)
    assert abs(float(gaps.amortisation)) <= float(gaps.unconverged) + 1e-6 < 1e-4
    for other in (best * 0.9, best + 0.01, jnp.zeros_like(best)):
        gaps = gap_decomposition(x, other, jnp.float32(D), jnp.float32(D), L1, n_iterations=3000)
        assert gaps.amortisation > 1e-3


@pytest.mark.parametrize("n_iterations", [1, 3, 10, 3000])
def test_duality_gap_bounds_the_distance_to_the_minimum(rng, n_iterations):
    D = unit(rng.normal(size=(8, 8)))
    x = rng.normal(size=(50, 8))
    codes = fista_codes(jnp.float32(x), jnp.float32(D), L1, n_iterations)
    bound = np.asarray(duality_gap(jnp.float32(x), codes, jnp.float32(D), L1))
    above = objective(x, np.asarray(codes, float), D, L1) - least(x, D, L1)
    assert (above <= bound + 1e-5).all()
    assert (bound < 1e-4).all() if n_iterations == 3000 else bound.max() > 1e-2


def test_objective_counts_each_sample_by_itself():
    x, D = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.eye(2)
    z = jnp.array([[0.5, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(l1_objective(x, z, D, 0.1), [0.25 + 0.05, 0.2], rtol=1e-6)
