"""Copulas: marginals and joints against scipy, thinned arrivals, the nearest correlation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from toysae.errors import ToysaeError
from toysae.worlds.assemble import assemble
from toysae.worlds.copula import (
    LowRankCopula,
    concatenated,
    dense_copula,
    factors_of,
    from_factors,
    low_rank_copula,
    nearest_correlation,
    random_factors,
)
from toysae.worlds.firing import Active
from toysae.worlds.given_factors import ByArrival, OneByOne, hazard_bound, parts, running_sum
from toysae.worlds.magnitudes import Uniform
from toysae.worlds.plant import forest
from toysae.worlds.world import combine, dense_acts, sample

N = 40_000
PROBS = np.array([0.5, 0.2, 0.05, 0.3])
FACTORS = np.array([[0.8, 0.0], [0.6, -0.5], [-0.7, 0.3], [0.0, 0.2]])


def dense(active, n_features):
    """`[n, n_features]` int view; a feature on in two slots would count twice."""
    out = np.zeros((len(active.indices), n_features), int)
    np.add.at(out, (np.arange(len(out))[:, None], np.asarray(active.indices)), active.on)
    return out


def draw(firing, n=N, seed=0):
    return jax.jit(firing.sample, static_argnums=1)(jax.random.key(seed), n)


def joint(probs, correlation, i, j):
    """P(both fire) of a Gaussian copula."""
    upper = special.ndtri(probs[[i, j]])
    cov = np.array([[1, correlation[i, j]], [correlation[i, j], 1]])
    return stats.multivariate_normal.cdf(upper, mean=[0, 0], cov=cov)


def correlation_of(factors):
    correlation = factors @ factors.T
    np.fill_diagonal(correlation, 1.0)
    return correlation


@pytest.mark.parametrize("kind", ["low rank", "dense", "factors of dense"])
def test_marginals_and_pairs_are_those_of_the_gaussian_copula(kind):
    correlation = correlation_of(FACTORS)
    firing = {
        "low rank": lambda: from_factors(PROBS, FACTORS),
        "dense": lambda: dense_copula(PROBS, correlation),
        "factors of dense": lambda: from_factors(PROBS, factors_of(correlation)),
    }[kind]()
    on = dense(draw(firing), 4)
    for i in range(4):
        assert stats.binomtest(int(on[:, i].sum()), N, PROBS[i]).pvalue > 1e-4
        for j in range(i):
            both = int((on[:, i] & on[:, j]).sum())
            assert stats.binomtest(both, N, joint(PROBS, correlation, i, j)).pvalue > 1e-4


def test_the_hazard_bound_bounds_and_is_tight():
    x = np.linspace(-12, 30, 100_001).astype(np.float32)
    ratio = np.asarray(hazard_bound(jnp.asarray(x)), np.float64)
    ratio /= -special.log_ndtr(-x.astype(np.float64))
    assert ratio.min() >= 1
    assert ratio[(x >= -5) & (x <= 0)].max() < 1.066


def test_running_sums():
    x = np.random.default_rng(0).random((3, 5, 16)).astype(np.float32)
    np.testing.assert_allclose(running_sum(jnp.asarray(x)), np.cumsum(x, -1), rtol=1e-6)


@pytest.fixture(scope="module")
def mixed():
    """A copula with common features, drawn one by one, and 700 rare ones, drawn by arrival."""
    probs = np.concatenate([np.linspace(0.4, 0.1, 40), np.geomspace(0.02, 5e-4, 700)])
    factors = np.random.default_rng(3).normal(size=(740, 3)) * 0.15
    firing = from_factors(probs, factors)
    assert [type(part) for part in firing.parts] == [OneByOne, ByArrival]
    assert all(part.slots < len(part.ids) for part in firing.parts)
    return probs, factors, firing


def test_sparse_draws_have_the_law_of_dense_ones(mixed):
    probs, factors, firing = mixed
    active = draw(firing, N)
    on = dense(active, 740)
    assert on.max() == 1 and int(active.dropped.sum()) == 0
    # Marginals.
    z = (on.sum(0) - N * probs) / np.sqrt(N * probs * (1 - probs))
    assert stats.kstest(z, "norm").pvalue > 1e-4
    # The oracle: all Gaussians drawn in float64.
    rng = np.random.default_rng(1)
    own = np.sqrt(1 - (factors**2).sum(1))
    gaussians = rng.normal(size=(N, 3)) @ factors.T
    gaussians += own * rng.normal(size=gaussians.shape).astype(np.float32)
    oracle = gaussians > -special.ndtri(probs)
    for part in (slice(0, 40), slice(40, 740)):
        ours, theirs = on[:, part].sum(1), oracle[:, part].sum(1)
        top = int(np.quantile(theirs, 0.999))
        table = [np.bincount(np.minimum(c, top), minlength=top + 1) for c in (ours, theirs)]
        assert stats.chi2_contingency(np.array(table) + 1e-9).pvalue > 1e-4
    # Co-firing: E[x x^T] against random vectors, in which all pairs take part.
    direction = rng.normal(size=(740, 8))
    ours, theirs = (on @ direction) ** 2, (oracle @ direction) ** 2
    gap = ours.mean(0) - theirs.mean(0)
    assert np.abs(gap / np.sqrt((ours.var(0) + theirs.var(0)) / N)).max() < 4.5


def test_pairs_of_rare_features_are_those_of_the_gaussian_copula():
    probs = np.full(3000, 0.005)
    factors = np.zeros((3000, 1))
    factors[:2, 0] = 0.9
    firing = from_factors(probs, factors)
    assert isinstance(firing.parts[0], ByArrival)
    active = draw(firing, N, seed=2)
    first, second = ((active.on & (active.indices == i)).any(1) for i in (0, 1))
    both = int((first & second).sum())
    p = joint(probs[:2], correlation_of(factors[:2]), 0, 1)
    assert stats.binomtest(both, N, p).pvalue > 1e-4
    assert p > 50 * 0.005**2  # the pair is far from independent


def test_a_longer_draw_begins_with_a_shorter_one(mixed):
    short, long = draw(mixed[2], 64), draw(mixed[2], 128)
    np.testing.assert_array_equal(long.on[:64], short.on)
    np.testing.assert_array_equal(
        np.where(short.on, long.indices[:64], -1), np.where(short.on, short.indices, -1)
    )


def test_too_few_slots_are_counted():
    (part,) = parts(np.full(2000, 0.01), np.zeros((2000, 1)))
    assert isinstance(part, ByArrival)
    u = jnp.zeros((200, 1))
    same = part.ids, part.slope, part.offset
    few = ByArrival(*same, 4), OneByOne(*same, 4), OneByOne(*same, len(part.ids))
    arrivals, some, every = jax.jit(lambda key: [each.fire(key, u) for each in few])(
        jax.random.key(0)
    )
    assert (np.asarray(arrivals.dropped) > 0).mean() > 0.99  # about 20 arrive
    np.testing.assert_array_equal(some.dropped, np.maximum(every.on.sum(1) - 4, 0))


def in_order_firings():
    """Every firing that has a slot for each feature, in every way of building it."""
    parents = np.array([-1, 0, 0, 1, -1, -1])
    loadings = np.full((6, 1), 0.3)
    probs = np.array([0.5, 0.3, 0.2, 0.1, 0.4, 0.2])
    common = np.full(300, 0.5)
    return {
        "dense copula": dense_copula(probs, np.eye(6)),
        "low rank": from_factors(probs, loadings),
        "low rank, common": LowRankCopula(parts(common, np.full((300, 1), 0.5)), 300),
        "dense forest": forest(parents, probs),
        "dense forest, factors": forest(parents, probs, factors=loadings),
        "dense forest, no tree": forest(np.full(6, -1), probs),
    }


@pytest.mark.parametrize("name", in_order_firings())
def test_a_slot_for_each_feature_is_in_order(name):
    firing = in_order_firings()[name]
    active = draw(firing, 200)
    assert active.in_order
    every = np.broadcast_to(np.arange(firing.n_features), active.on.shape)
    np.testing.assert_array_equal(active.indices, every)


@pytest.mark.rotation(2)
@pytest.mark.parametrize("name", in_order_firings())
def test_in_order_draws_are_those_of_the_gathered_path(name):
    firing = in_order_firings()[name]
    n = firing.n_features
    directions = np.random.default_rng(0).normal(size=(n, 5))
    world = assemble(directions, firing, Uniform())
    batch = sample(world, jax.random.key(3), 200)
    np.testing.assert_array_equal(batch.feature_acts, dense_acts(batch.indices, batch.values, n))
    gathered = combine(batch.indices, batch.values, world.rows)
    np.testing.assert_allclose(batch.x, gathered, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_dense", [False, True])
def test_a_draw_of_several_parts_is_never_in_order(mixed, is_dense):
    """Even where its slots are as many as the features."""
    first = Active(jnp.array([[2, 0]]), jnp.array([[True, True]]), in_order=is_dense)
    second = Active(jnp.array([[1]]), jnp.array([[True]]), in_order=True)
    both = concatenated([first, second])
    assert not both.in_order and both.indices.tolist() == [[2, 0, 1]]
    assert not draw(mixed[2], 10).in_order


def test_random_factors_have_their_scale_and_leave_own_variance():
    factors = random_factors(jax.random.key(0), 2000, 25, 0.1)
    assert abs(factors.std() - 0.1) < 0.002
    capped = random_factors(jax.random.key(0), 2000, 25, 1.0)
    np.testing.assert_allclose((capped**2).sum(1), 0.99)
    assert isinstance(low_rank_copula(jax.random.key(0), np.full(30, 0.1), 5), LowRankCopula)


def test_nearest_correlation_is_highams():
    matrix = np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]])
    nearest = nearest_correlation(matrix, least=0.0)
    expected = [[1, 0.760689917052, 0.157296961448], [0.760689917052, 1, 0.760689917052]]
    np.testing.assert_allclose(nearest[:2], expected, atol=1e-5)  # Higham (2002), section 4
    valid = correlation_of(FACTORS)
    np.testing.assert_allclose(nearest_correlation(valid), valid, atol=1e-8)
    random = np.random.default_rng(0).uniform(-1, 1, (12, 12))
    random = (random + random.T) / 2
    np.fill_diagonal(random, 1.0)
    fixed = nearest_correlation(random)
    assert np.linalg.eigvalsh(fixed)[0] > 0 and np.allclose(np.diag(fixed), 1)
    dense_copula(np.full(12, 0.1), fixed)  # is accepted


def test_factors_of_a_correlation_give_it_back():
    correlation = nearest_correlation(correlation_of(np.random.default_rng(0).random((6, 4)) / 3))
    factors = factors_of(correlation)
    product = factors @ factors.T
    np.testing.assert_allclose(product - np.diag(np.diag(product)), correlation - np.eye(6))
    assert (np.diag(product) < 1).all()


BAD = np.array([[1.0, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: from_factors(np.array([0.1, 1.0]), np.zeros((2, 1))), "must be in (0, 1)"),
        (lambda: from_factors(np.array([0.1, 0.0]), np.zeros((2, 1))), "0.0 of feature 1 must"),
        (lambda: from_factors(np.full(2, 0.1), np.zeros((3, 1))), "must be [n_features = 2, rank]"),
        (lambda: from_factors(np.full(2, 0.1), np.zeros((2, 3))), "lower the rank"),
        (lambda: from_factors(np.full(2, 0.1), np.full((2, 1), np.inf)), "not finite"),
        (lambda: from_factors(np.full(2, 0.1), np.full((2, 1), 1.0)), "scale them down"),
        (lambda: low_rank_copula(jax.random.key(0), np.full(4, 0.1), rank=5), "rank 5"),
        (lambda: low_rank_copula(jax.random.key(0), np.full(4, 0.1), 2, -1.0), "scale -1.0"),
        (lambda: dense_copula(np.full(3, 0.1), BAD), "nearest valid one is"),
        (lambda: dense_copula(np.full(2, 0.1), np.eye(3)), "must be [2, 2]"),
        (lambda: dense_copula(np.full(2, 0.1), np.array([[1.0, 0.2], [0.1, 1]])), "not symmetric"),
        (lambda: dense_copula(np.full(2, 0.1), 2 * np.eye(2)), "diagonal"),
    ],
)
def test_errors_name_the_value(build, match):
    with pytest.raises(ToysaeError) as error:
        build()
    assert match in str(error.value)


def test_the_distance_to_the_nearest_correlation_is_right():
    with pytest.raises(ToysaeError) as error:
        dense_copula(np.full(3, 0.1), BAD)
    distance = np.linalg.norm(nearest_correlation(BAD) - BAD)
    assert f"{distance:.3g} away in Frobenius norm" in str(error.value)
