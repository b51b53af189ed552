"""Closed-form losses against sampling, exact integration against finite differences."""

import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.worlds.tms import expected_loss, optimum, three_in_two, two_in_one
from toysae.worlds.tms.closed_form import CASES, arrangement, tuned

POINTS = [(0.05, 0.3), (0.4, 1.0), (0.9, 4.0), (1.0, 0.5)]
ARRANGEMENTS = [(n, m, name) for (n, m), (_, table) in CASES.items() for name in table]


def weights(n, extra):
    return np.append(np.ones(n - 1), extra)


def sampled(W, b, density, importance, n_samples=100_000, seed=0):
    """Mean loss and its standard error, by drawing the data."""
    rng = np.random.default_rng(seed)
    shape = (n_samples, W.shape[1])
    x = np.where(rng.random(shape) < density, rng.random(shape), 0.0)
    losses = ((x - np.maximum(x @ (W.T @ W) + b, 0)) ** 2) @ importance
    return losses.mean(), losses.std() / n_samples**0.5


@pytest.mark.parametrize(("n", "m", "name"), ARRANGEMENTS)
def test_each_closed_form_is_its_arrangements_loss(n, m, name):
    for density, extra in POINTS:
        W, b = arrangement(n, m, name, density)
        closed = CASES[n, m][0](density, extra)[name]
        exact = expected_loss(W, b, density, weights(n, extra))[0]
        assert closed == pytest.approx(exact, rel=1e-4)
        mean, error = sampled(W, b, density, weights(n, extra))
        assert closed == pytest.approx(mean, abs=5 * error)


def test_exact_integration_agrees_with_sampling_at_random_weights():
    rng = np.random.default_rng(1)
    for n in (1, 2, 3, 4):
        W, b, importance = rng.normal(size=(2, n)), 0.3 * rng.normal(size=n), rng.random(n)
        mean, error = sampled(W, b, 0.6, importance, 200_000)
        assert expected_loss(W, b, 0.6, importance, 12)[0] == pytest.approx(mean, abs=5 * error)


def test_the_exact_gradient_is_the_slope():
    rng = np.random.default_rng(2)
    W, b, importance = rng.normal(size=(2, 3)), 0.3 * rng.normal(size=3), np.array([1, 0.5, 2])
    _, grad_W, grad_b = expected_loss(W, b, 0.4, importance, 48)
    slopes = []
    for push in np.eye(9):
        sides = []
        for sign in (1e-4, -1e-4):
            flat = np.append(W, b) + sign * push
            sides.append(expected_loss(flat[:6].reshape(2, 3), flat[6:], 0.4, importance, 48)[0])
        slopes.append((sides[0] - sides[1]) / 2e-4)
    np.testing.assert_allclose(np.append(grad_W, grad_b), slopes, rtol=1e-4, atol=1e-6)


def test_free_gains_and_biases_only_help():
    for density, extra in POINTS[1:3]:
        closed = min(two_in_one(density, extra).values())
        loss, W, b = optimum(2, 1, density, extra)
        assert loss <= closed * (1 + 1e-6)
        assert loss > 0.85 * closed  # and not by much: the arrangement is what matters
        assert loss == pytest.approx(expected_loss(W, b, density, weights(2, extra))[0])
    # A linear fit of a lone feature cannot be bettered: E x^2 - (E x)^2 of the other stays.
    lone, _, _ = tuned(np.array([[1.0, 0.0]]), np.array([0, 0.45]), 0.9, np.array([1, 0.1]))
    assert lone == pytest.approx(0.1 * (0.9 / 3 - 0.9**2 / 4), rel=1e-3)


def test_regions_of_the_diagrams():
    def best(forms):
        return min(forms, key=lambda name: forms[name])

    assert best(two_in_one(0.01, 1.0)) == "extra in superposition"
    assert best(two_in_one(0.9, 0.3)) == "extra ignored"
    assert best(two_in_one(0.9, 3.0)) == "extra alone"
    assert best(three_in_two(0.9, 0.3)) == "extra ignored"
    assert best(three_in_two(0.05, 0.3)) == "extra in superposition"
    assert best(three_in_two(0.05, 3.0)) == "extra alone, others antipodal"
    assert best(three_in_two(0.9, 3.0)) == "extra alone, another ignored"
    # At equal importance, superposition pays below density 4/7.
    for density in (4 / 7 - 0.01, 4 / 7 + 0.01):
        forms = two_in_one(density, 1.0)
        pays = forms["extra in superposition"] < forms["extra ignored"]
        assert pays == (density < 4 / 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: two_in_one(0.0, 1.0), "density 0 must be in"),
        (lambda: three_in_two(1.1, 1.0), "density 1.1 must be in"),
        (lambda: two_in_one(0.5, -1.0), "importance -1 must be at least 0"),
        (lambda: optimum(5, 2, 0.5, 1.0), "no closed forms for 5 features in 2"),
        (lambda: expected_loss(np.ones((1, 5)), np.ones(5), 0.5, np.ones(5)), "5 features are too"),
    ],
)
def test_what_cannot_be_answered_is_refused(call, message):
    with pytest.raises(ToysaeError, match=message):
        call()
