"""Published worlds: their stated statistics, and the pair that no data can tell apart."""

from itertools import combinations

import jax
import numpy as np
import pytest

from toysae.worlds import make_world, sample

N = 40_000


def on(world, n=N):
    return np.asarray(sample(world, jax.random.key(0), n).feature_acts) != 0


def near(found, expected, n=N):
    return abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / n) + 1e-12


@pytest.mark.parametrize(
    ("name", "joint"),
    [
        ("absorption", 0.05),
        ("absorption-variance", 0.05),
        ("absorption-co-occurrence", 0.0475),
        ("absorption-independent", 0.0125),
    ],
)
def test_absorption(name, joint):
    world = make_world(name, 0)
    assert world.directions.shape == (4, 50)
    fires = on(world)
    for feature, p in enumerate((0.25, 0.05, 0.05, 0.05)):
        assert near(fires[:, feature].mean(), p)
    assert near((fires[:, 0] & fires[:, 1]).mean(), joint)
    assert near((fires[:, 2] & fires[:, 3]).mean(), 0.0025)
    if joint == 0.05:
        assert (fires[:, 0] | ~fires[:, 1]).all()  # never the child without the parent


def both_readings(sd):
    implied = make_world("absorption", 0, n_free=0, magnitude_sd=sd)
    exclusive = make_world("exclusive-pair", 0, magnitude_sd=sd)
    return (sample(world, jax.random.key(7), 4000) for world in (implied, exclusive))


def test_implication_and_an_exclusive_pair_draw_the_same_data():
    implied, exclusive = both_readings(0.0)
    np.testing.assert_allclose(implied.x, exclusive.x, atol=1e-6)
    assert (np.asarray(exclusive.values != 0).sum(1) <= 1).all()
    assert (np.asarray(implied.values != 0).sum(1) == 2).any()


def test_the_two_readings_part_when_magnitudes_vary():
    implied, exclusive = both_readings(0.2)
    pair = np.asarray(implied.values != 0).sum(1) == 2

    def angle_spread(x):
        """Of the inputs where parent and child fire: how far they leave one line."""
        x = np.asarray(x, np.float64)[pair]
        values = np.linalg.svd(x, compute_uv=False)
        return values[1] / values[0]

    assert angle_spread(exclusive.x) < 1e-5
    assert angle_spread(implied.x) > 0.05


@pytest.mark.parametrize("independent_child", [False, True])
def test_hedging(independent_child):
    fires = on(make_world("hedging", 0, independent_child=independent_child))
    assert near(fires[:, 0].mean(), 0.25)
    assert near(fires[:, 1].mean(), 0.2 if independent_child else 0.05)
    assert (fires[:, 0] | ~fires[:, 1]).all() != independent_child


@pytest.mark.parametrize("correlation", [0.4, -0.4])
def test_sparse_but_wrong_small(correlation):
    from scipy import stats

    fires = on(make_world("sparse-but-wrong", 0, correlation=correlation))
    t = stats.norm.isf(0.4)
    cov = [[1, correlation], [correlation, 1]]
    expected = stats.multivariate_normal([0, 0], cov).cdf([-t, -t])
    for feature in range(5):
        assert near(fires[:, feature].mean(), 0.4)
    for feature in range(1, 5):
        assert near((fires[:, 0] & fires[:, feature]).mean(), expected)


def test_sparse_but_wrong_large():
    world = make_world("sparse-but-wrong-large", 0)
    assert world.directions.shape == (50, 100)
    fires = on(world)
    probs = 0.345 * (49 - np.arange(50)) / 50 + 0.05
    assert np.abs(fires.mean(0) - probs).max() < 5 * np.sqrt(0.24 / N)
    assert fires.sum(1).mean() == pytest.approx(10.95, abs=0.1)
    phi = np.corrcoef(fires.T)[np.triu_indices(50, 1)]
    assert np.sqrt((phi**2).mean()) > 10 / np.sqrt(N)  # real correlation, far over the noise


def test_matryoshka_tree():
    world = make_world("matryoshka-tree", 0)
    fires = on(world)
    np.testing.assert_allclose(world.directions @ world.directions.T, np.eye(20), atol=1e-5)
    for first in (0, 4, 8):
        assert near(fires[:, first].mean(), 0.15)
        children = fires[:, first + 1 : first + 4]
        assert (children.sum(1) <= fires[:, first]).all()  # exclusive, and only with the parent
        for child in children.T:
            assert near(child.mean(), 0.03)
    for single in range(12, 20):
        assert near(fires[:, single].mean(), 0.05)
    values = np.asarray(sample(world, jax.random.key(0), N).values)
    assert values[values != 0].std() == pytest.approx(0.05, rel=0.05)


def test_balanced_matryoshka():
    fires = on(make_world("balanced-matryoshka", 0))
    assert near(fires[:, 0].mean(), 0.25)
    for child in (1, 2, 3):
        assert near(fires[:, child].mean(), 0.0375)
        assert (fires[:, 0] | ~fires[:, child]).all()
    for a, b in combinations((1, 2, 3), 2):
        assert near((fires[:, a] & fires[:, b]).mean(), 0.25 * 0.15**2)


def test_sanity_checks():
    constant = make_world("sanity-checks", 0)
    batch = sample(constant, jax.random.key(0), 4000)
    assert constant.directions.shape == (3200, 100)
    values = np.asarray(batch.values)
    assert (values != 0).sum(1).mean() == pytest.approx(20, abs=0.4)
    logs = np.log(values[values != 0])
    assert (logs.mean(), logs.std()) == (pytest.approx(0, abs=0.01), pytest.approx(0.25, abs=0.01))
    spread = make_world("sanity-checks-log-uniform", 0)
    counts = np.asarray(sample(spread, jax.random.key(0), 20_000).feature_counts()) / 20_000
    share = (np.arange(3200) + 0.5) / 3200
    probs = 10.0 ** (-1.2 - 4.3 * share)
    blocks = counts.reshape(32, 100).mean(1), probs.reshape(32, 100).mean(1)
    top = blocks[1] > 1e-3
    np.testing.assert_allclose(blocks[0][top], blocks[1][top], rtol=0.05)
    assert counts.sum() == pytest.approx(probs.sum(), rel=0.02)
    assert probs.sum() == pytest.approx(20.4, abs=0.1)
