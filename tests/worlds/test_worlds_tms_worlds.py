"""Embeddings of toy models as worlds."""

import itertools

import jax
import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.worlds import make_world, sample
from toysae.worlds.tms import tms_preset

N = 20_000


@pytest.fixture(scope="module")
def pairs_world():
    return make_world("tms-6-3-pairs", 0, n_steps=2000)


def test_x_is_the_embedding_of_the_features(pairs_world):
    batch = sample(pairs_world, jax.random.key(0), 100)
    acts = np.asarray(batch.feature_acts, np.float64)
    np.testing.assert_allclose(batch.x, acts @ np.asarray(pairs_world.rows), atol=1e-5)
    W = np.asarray(pairs_world.generating_matrix)
    assert W.shape == (3, 6)
    lengths = np.linalg.norm(W, axis=0)
    kept = lengths >= 0.1 * lengths.max()
    np.testing.assert_allclose(pairs_world.rows, W.T[kept], atol=1e-6)


def test_correlated_pairs_fire_together(pairs_world):
    on = np.asarray(sample(pairs_world, jax.random.key(0), N).feature_acts) != 0
    assert pairs_world.n_features == 6
    assert (on[:, ::2] == on[:, 1::2]).all()
    assert np.abs(on.mean(0) - 0.1).max() < 5 * np.sqrt(0.09 / N)


def test_density_is_a_dial_and_magnitudes_are_uniform():
    world = make_world("arena-5-2", 0, n_steps=200, density=0.3)
    values = np.asarray(sample(world, jax.random.key(0), N).feature_acts)
    assert np.abs((values != 0).mean(0) - 0.3).max() < 5 * np.sqrt(0.21 / N)
    assert values[values != 0].mean() == pytest.approx(0.5, abs=0.01)
    assert values.max() <= 1


def test_checkpoints_are_different_embeddings():
    worlds = [
        make_world("tms-5-2", 1, n_steps=1000, checkpoint=place)
        for place in ("before", "in", "after", "final")
    ]
    matrices = [np.asarray(w.generating_matrix) for w in worlds]
    for first, second in itertools.pairwise(matrices):
        assert np.abs(first - second).max() > 1e-3


def test_a_toy_model_is_the_one_of_its_seed():
    first, again, other = (make_world("tms-5-2", s, n_steps=50) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.generating_matrix, again.generating_matrix)
    assert np.abs(np.asarray(first.generating_matrix - other.generating_matrix)).max() > 0.1
    assert tms_preset("tms-5-2", 0, 50).W.shape == (2, 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"checkpoint": "befor"}, "did you mean 'before'"),
        ({"n_steps": 0}, "n_steps 0"),
        ({"density": 1.5}, "density 1.5"),
    ],
)
def test_impossible_toy_models_are_refused(fields, message):
    with pytest.raises(ToysaeError, match=message):
        make_world("tms-5-2", 0, **fields)
