"""A user's own arrays as a world."""

import jax
import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.worlds import assemble, sample

ROWS = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, -1.0]])
PROBS = np.array([0.5, 0.25, 0.1])


def test_own_dictionary_and_probabilities():
    world = assemble(ROWS, PROBS, "constant", bias=np.array([1.0, -1.0]))
    batch = sample(world, jax.random.key(0), 20_000)
    acts = np.asarray(batch.feature_acts, np.float64)
    np.testing.assert_allclose(batch.x, acts @ ROWS + [1, -1], atol=1e-5)
    assert np.abs((acts != 0).mean(0) - PROBS).max() < 5 * np.sqrt(0.25 / 20_000)
    np.testing.assert_allclose(
        world.directions, ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True), atol=1e-6
    )
    np.testing.assert_allclose(world.generating_matrix, ROWS.T)


def test_a_rectified_world_states_its_target():
    rows = np.array([[3.0, -4.0], [1.0, 1.0]])
    world = assemble(rows, PROBS[:2], rectify=True)
    np.testing.assert_allclose(world.directions, [[1, 0], [0.5**0.5, 0.5**0.5]], atol=1e-6)


NAN = np.array([[1.0, np.nan], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: assemble(np.ones(3), PROBS), r"must be \[n_features, d_in\]"),
        (lambda: assemble(NAN, PROBS[:2]), r"directions is not finite at \[\[0, 1\]\]"),
        (lambda: assemble(ROWS, PROBS[:2]), "firing is over 2 features but directions has 3"),
        (lambda: assemble(ROWS, PROBS * 3), r"1.5 of feature 0 must be in \[0, 1\]"),
        (lambda: assemble(np.zeros((2, 2)), PROBS[:2]), "has no direction"),
        (lambda: assemble(-np.ones((2, 2)), PROBS[:2], rectify=True), "once rectified"),
        (lambda: assemble(ROWS, PROBS, bias=np.zeros(3)), "bias of shape"),
        (lambda: assemble(ROWS, PROBS, bias=np.array([0, np.inf])), "bias is not finite"),
        (lambda: assemble(ROWS, PROBS, noise_sd=-0.1), "noise_sd -0.1"),
        (lambda: assemble(ROWS, PROBS, noise_sd=float("nan")), "noise_sd nan"),
        (lambda: assemble(ROWS, PROBS, "unifrm"), "did you mean 'uniform'"),
        (lambda: assemble(ROWS, PROBS, generating_matrix=np.ones((3, 2))), "d_in = 2 rows"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ToysaeError, match=message):
        make()
