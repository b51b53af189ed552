"""Firing: the alias table, Poisson arrivals, Bernoulli, probabilities."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from toysae.errors import ToysaeError
from toysae.worlds.bursts import bursts
from toysae.worlds.compositional import compositional
from toysae.worlds.copula import dense_copula, from_factors
from toysae.worlds.exactly_k import exactly_k
from toysae.worlds.firing import TAIL, compact, poisson_slots
from toysae.worlds.groups import exclusive, paired_groups
from toysae.worlds.independent import (
    Arrivals,
    Bernoulli,
    alias_table,
    arrivals,
    independent,
    multiply_high,
)
from toysae.worlds.magnitudes import MAGNITUDES, magnitude
from toysae.worlds.plant import forest
from toysae.worlds.probabilities import TAILS, firing_probabilities

N = 20_000


def weights_of(accept, alias):
    """The weights that an alias table stands for, in float64."""
    accept = np.asarray(accept, np.float64)
    out = accept.copy()
    np.add.at(out, np.asarray(alias), 1 - accept)
    return out / len(accept)


def dense(active, n_features):
    out = np.zeros((len(active.indices), n_features), int)
    rows = np.arange(len(out))[:, None]
    np.add.at(out, (rows, np.asarray(active.indices)), np.asarray(active.on).astype(int))
    return out


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
@pytest.mark.parametrize("kind", ["uniform", "random", "zipf", "with zeros"])
def test_alias_table_stands_for_its_weights(n, kind):
    rng = np.random.default_rng(n)
    weights = {
        "uniform": np.ones(n),
        "random": rng.random(n),
        "zipf": 1.0 / np.arange(1, n + 1),
        "with zeros": np.where(np.arange(n) % 3 == 0, 1.0 + np.arange(n), 0.0),
    }[kind]
    weights = weights / weights.sum()
    accept, alias = alias_table(weights)
    assert np.all((accept >= 0) & (accept <= 1)) and np.all((alias >= 0) & (alias < n))
    np.testing.assert_allclose(weights_of(accept, alias), weights, rtol=1e-9, atol=1e-15)


def test_rare_features_keep_their_probability_in_float32():
    probs = firing_probabilities("zipf", 20_000, 8.0)
    firing = independent(probs)
    assert isinstance(firing, Arrivals)
    total = -np.log1p(-probs).sum()
    # The coin that is compared with `accept` is a multiple of 2^-24.
    accept = np.ceil(np.asarray(firing.accept, np.float64) * 2**24) / 2**24
    implied = -np.expm1(-weights_of(accept, firing.alias) * total)
    np.testing.assert_allclose(implied, probs, rtol=1e-3)
    assert probs.min() < 5e-5


def test_the_number_of_arrivals_is_poisson():
    probs = firing_probabilities("zipf", 2000, 4.0)
    firing = independent(probs)
    assert isinstance(firing, Arrivals)
    total, count = -np.log1p(-probs).sum(), np.arange(12)
    np.testing.assert_allclose(firing.count_cdf[:12], stats.poisson.cdf(count, total), atol=1e-6)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("make", [arrivals, independent])
def test_independent_features_fire_with_their_probabilities_and_never_twice(tail, make):
    probs = firing_probabilities(tail, 60, 3.0, decay=0.95)
    firing = make(probs)
    assert isinstance(firing, Arrivals if make is arrivals else Bernoulli)
    active = jax.jit(firing.sample, static_argnums=1)(jax.random.key(1), N)
    on = dense(active, 60)
    assert on.max() == 1
    error = np.abs(on.mean(0) - probs) / np.sqrt(probs * (1 - probs) / N)
    assert error.max() < 5, f"{error.max()} sigma"
    assert abs(on.sum(1).mean() - 3.0) < 5 * np.sqrt((probs * (1 - probs)).sum() / N)
    # The number of features on has the variance of independent firings.
    variance = (probs * (1 - probs)).sum()
    assert on.sum(1).var() == pytest.approx(variance, rel=0.05)
    # Pairwise independence: E[o_i o_j] = p_i p_j.
    joint, expected = on.T @ on / N, np.outer(probs, probs)
    sigma = np.sqrt(expected * (1 - expected) / N)
    paired_groups = np.triu_indices(60, 1)
    frequent = (expected * N > 5)[paired_groups]
    off = (np.abs(joint - expected) / sigma)[paired_groups][frequent]
    assert frequent.sum() > 30 and off.max() < 5.5


def test_a_high_probability_needs_more_than_its_hazard():
    # p = .8 has hazard 1.61: features arrive more than once, and must still count once.
    probs = np.r_[0.8, 0.6, np.full(98, 0.002)]
    on = dense(arrivals(probs).sample(jax.random.key(0), N), 100)
    assert on.max() == 1
    np.testing.assert_allclose(on[:, :2].mean(0), [0.8, 0.6], atol=5 * 0.5 / np.sqrt(N))
    both = (on[:, 0] & on[:, 1]).mean()
    assert abs(both - 0.48) < 5 * np.sqrt(0.48 * 0.52 / N)


def test_bernoulli_takes_probabilities_zero_and_one():
    firing = independent(np.array([0.0, 1.0, 0.3]))
    assert isinstance(firing, Bernoulli)
    on = dense(firing.sample(jax.random.key(0), N), 3)
    assert on[:, 0].sum() == 0 and on[:, 1].sum() == N
    assert abs(on[:, 2].mean() - 0.3) < 5 * np.sqrt(0.21 / N)


def test_where_bernoulli_leaves_a_uniform_it_is_one_and_its_own():
    probs = np.array([0.4, 0.05, 1e-3, 1.0])
    active = independent(probs).sample(jax.random.key(5), N)
    on, unit = np.asarray(active.on), np.asarray(active.unit)
    for i in range(4):
        left = unit[on[:, i], i]
        assert left.min() >= 0 and left.max() < 1
        assert stats.kstest(left, "uniform").pvalue > 1e-3
    both = on[:, 0] & on[:, 1]
    assert abs(np.corrcoef(unit[both, 0], unit[both, 1])[0, 1]) < 5 / np.sqrt(both.sum())


@pytest.mark.parametrize("law", MAGNITUDES)
def test_a_left_over_uniform_gives_the_same_law_as_one_drawn_anew(law):
    active = independent(np.full(40, 0.2)).sample(jax.random.key(2), 20_000)
    left, anew = (
        np.asarray(magnitude(law, 40).sample(jax.random.key(3), a))[np.asarray(a.on)]
        for a in (active, replace(active, unit=None))
    )
    assert stats.ks_2samp(left, anew).pvalue > 1e-3


def test_nothing_fires_at_probability_zero():
    on = dense(independent(np.zeros(4)).sample(jax.random.key(0), 100), 4)
    assert on.sum() == 0


LAWS = {
    "independent": independent,
    "exclusive": lambda probs: exclusive(probs, np.arange(probs.size) // 2),
    "pairs": lambda probs: paired_groups(probs, 0.5),
    "bursts": lambda probs: bursts(probs, 0.5),
    "exactly-k": exactly_k,
    "compositional": lambda probs: compositional(probs, 1, 2),
    "low-rank copula": lambda probs: from_factors(probs, np.zeros((probs.size, 1))),
    "dense copula": lambda probs: dense_copula(probs, np.eye(probs.size)),
    "forest": lambda probs: forest(np.full(probs.size, -1), probs),
}


@pytest.mark.parametrize("bad", [np.nan, -0.25, 1.25, np.inf, -np.inf])
@pytest.mark.parametrize("law", LAWS)
def test_impossible_probabilities_are_refused_by_every_law(law, bad):
    with pytest.raises(ToysaeError, match=rf"firing probability {bad} of feature 1 must be in "):
        LAWS[law](np.array([0.5, bad]))


@pytest.mark.parametrize("bad", [[], [[0.5]]])
def test_probabilities_are_a_vector(bad):
    with pytest.raises(ToysaeError, match="must be a non-empty vector"):
        independent(np.array(bad))


@pytest.mark.parametrize("n", [1, 2, 65_535, 65_536, 65_537, 1_000_003, 2**31 - 1])
def testmultiply_high_is_exact(n):
    rng = np.random.default_rng(0)
    edges = [0, 1, 0xFFFF, 0x10000, 0xFFFFFFFF, 0xFFFF0000, 0x7FFFFFFF, 0x80000000]
    bits = np.r_[np.array(edges, np.uint32), rng.integers(0, 2**32, 2000, dtype=np.uint32)]
    found = np.asarray(multiply_high(jnp.asarray(bits), n))
    assert found.tolist() == [int(b) * n >> 32 for b in bits]


def test_compact_lists_the_set_positions():
    fires = jax.random.uniform(jax.random.key(0), (200, 20)) < 0.2
    indices, on = map(np.asarray, compact(fires, 6))
    for row, index, mask in zip(np.asarray(fires), indices, on, strict=True):
        assert index[mask].tolist() == np.flatnonzero(row)[:6].tolist()
    assert indices.min() >= 0 and indices.max() < 20


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize(("n", "l0"), [(50, 3.0), (50, 30.0), (50, 50.0), (1, 1.0), (7, 0.01)])
def test_probabilities_sum_to_l0_and_stay_below_one(tail, n, l0):
    probs = firing_probabilities(tail, n, l0, decay=0.8, exponent=1.5)
    assert probs.sum() == pytest.approx(l0, rel=1e-12)
    assert probs.min() > 0 and probs.max() <= 1
    assert np.all(np.diff(probs) <= 1e-15)


def test_tails_have_their_shape():
    geometric = firing_probabilities("geometric", 40, 2.0, decay=0.9)
    np.testing.assert_allclose(geometric[1:] / geometric[:-1], 0.9, rtol=1e-12)
    zipf = firing_probabilities("zipf", 40, 1.2, exponent=2.0)
    np.testing.assert_allclose(zipf / zipf[0], np.arange(1, 41.0) ** -2, rtol=1e-12)
    capped = firing_probabilities("geometric", 40, 12.0, decay=0.8)
    free = capped < 1
    assert 0 < free.sum() < 40
    np.testing.assert_allclose(capped[free][1:] / capped[free][:-1], 0.8, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tail": "uniforn"}, "did you mean 'uniform'"),
        ({"l0": 9.0}, "l0 9.0.*n_features = 8"),
        ({"l0": 0.0}, "l0 0.0"),
        ({"decay": 0.0}, "decay 0.0"),
        ({"exponent": -1.0}, "exponent -1.0"),
        ({"exponent": np.inf}, "exponent inf"),
        ({"decades": np.inf}, "decades inf"),
        ({"n_features": 0}, "n_features 0"),
    ],
)
def test_impossible_probability_laws_are_refused(arguments, named):
    with pytest.raises(ToysaeError, match=named):
        firing_probabilities(**{"tail": "zipf", "n_features": 8, "l0": 2.0, **arguments})


@pytest.mark.parametrize("mean", [1e-9, 0.01, 0.5, 3.0, 34.4, 400.0, 9e3])
def test_slots_are_those_that_poisson_events_overflow_almost_never(mean):
    slots = poisson_slots(mean)
    assert stats.poisson.sf(slots - 1, mean) <= TAIL < stats.poisson.sf(slots - 2, mean)
