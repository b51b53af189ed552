"""Joint laws of groups, exactly-k, compositional codes, circles and bursts, by enumeration."""

from itertools import combinations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from toysae.errors import ToysaeError
from toysae.worlds import make_world, sample
from toysae.worlds.bursts import bursts
from toysae.worlds.compositional import compositional
from toysae.worlds.exactly_k import ExactlyKEqual, exactly_k, inclusion, odds_for
from toysae.worlds.groups import Together, exclusive, joint, paired_groups
from toysae.worlds.independent import independent
from toysae.worlds.probabilities import firing_probabilities

N = 40_000


def fires(firing, n=N, seed=0):
    """Dense on/off `[n, n_features]`; a feature is on in at most one slot."""
    active = jax.jit(lambda key: firing.sample(key, n))(jax.random.key(seed))
    out = np.zeros((n, firing.n_features), int)
    np.add.at(out, (np.arange(n)[:, None], np.asarray(active.indices)), np.asarray(active.on))
    assert out.max() <= 1
    return out


def assert_law(on, law):
    """Chi-square of joint outcomes (tuples of features that are on) against their law."""
    observed = {}
    for row in on:
        key = tuple(np.flatnonzero(row))
        observed[key] = observed.get(key, 0) + 1
    assert set(observed) <= {outcome for outcome, p in law.items() if p > 0}
    assert sum(law.values()) == pytest.approx(1.0)
    kept = {o: p for o, p in law.items() if p * len(on) >= 5}
    counts = np.array([observed.get(o, 0) for o in kept])
    expected = np.array([p * len(on) for p in kept.values()])
    rest = len(on) - counts.sum(), len(on) - expected.sum()
    if rest[1] >= 5:
        counts, expected = np.append(counts, rest[0]), np.append(expected, rest[1])
    expected *= counts.sum() / expected.sum()
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_joint_states_have_their_law():
    firing = joint([{(0,): 0.2, (0, 1): 0.05, (1,): 0.1}, {(2,): 0.3, (3, 4): 0.25}], 5)
    first = {(): 0.65, (0,): 0.2, (0, 1): 0.05, (1,): 0.1}
    second = {(): 0.45, (2,): 0.3, (3, 4): 0.25}
    law = {a + b: p * q for a, p in first.items() for b, q in second.items()}
    assert_law(fires(firing), law)


def test_exclusive_groups_never_fire_together_and_keep_their_marginals():
    probs = np.array([0.1, 0.2, 0.3, 0.05, 0.5, 0.25])
    group = np.array([0, 1, 0, 0, 1, 2])
    on = fires(exclusive(probs, group))
    for a, b in combinations(range(6), 2):
        if group[a] == group[b]:
            assert not (on[:, a] & on[:, b]).any()
        else:
            p = probs[a] * probs[b]
            assert abs((on[:, a] & on[:, b]).mean() - p) < 5 * np.sqrt(p / N)
    assert np.abs(on.mean(0) - probs).max() < 5 * np.sqrt(0.25 / N)


@pytest.mark.parametrize("co_occurrence", [0.0, 0.3, 1.0])
def test_pairs_co_occur_as_asked(co_occurrence):
    a, b = 0.25, 0.1
    both = co_occurrence * b
    law = {(): 1 - a - b + both, (0,): a - both, (1,): b - both, (0, 1): both}
    assert_law(fires(paired_groups(np.array([a, b]), co_occurrence)), law)


def test_many_groups_are_drawn_sparsely():
    firing = exclusive(np.full(4000, 0.001), np.arange(4000) // 2)
    on = fires(firing, 5000)
    assert firing.groups.count_cdf.shape[0] < 60
    assert not (on[:, ::2] & on[:, 1::2]).any()
    assert on.sum(1).mean() == pytest.approx(4.0, abs=0.15)


def test_exactly_k_with_equal_probabilities_draws_every_subset():
    firing = exactly_k(np.full(6, 0.5))
    assert isinstance(firing, ExactlyKEqual)
    assert_law(fires(firing), {c: 1 / 20 for c in combinations(range(6), 3)})


def test_exactly_k_with_unequal_probabilities_is_the_conditional_bernoulli_law():
    probs = np.array([0.9, 0.6, 0.5, 0.5, 0.3, 0.2])
    odds = odds_for(probs, 3)
    weights = {c: np.prod(odds[list(c)]) for c in combinations(range(6), 3)}
    law = {c: w / sum(weights.values()) for c, w in weights.items()}
    marginals = [sum(p for c, p in law.items() if i in c) for i in range(6)]
    np.testing.assert_allclose(marginals, probs, atol=1e-9)
    np.testing.assert_allclose(inclusion(odds, 3), probs, atol=1e-9)
    assert_law(fires(exactly_k(probs)), law)


def test_exactly_k_of_many_unequal_features():
    probs = 1 / (10 + np.arange(2000.0))
    probs *= 8 / probs.sum()
    on = fires(exactly_k(probs), N // 2)
    assert (on.sum(1) == 8).all()
    blocks, expected = on.mean(0).reshape(40, 50).sum(1), probs.reshape(40, 50).sum(1)
    assert np.abs((blocks - expected) / np.sqrt(expected / len(on))).max() < 4.5


def test_compositional_codes():
    firing = compositional(np.full(12, 0.1), 2, 3)
    on = fires(firing).reshape(N, 2, 2, 3)
    shown = on.sum(3)
    assert shown.max() == 1  # one value of an attribute
    assert (shown[:, :, 0] == shown[:, :, 1]).all()  # all attributes or none
    assert np.abs(on.mean(0) - 0.1).max() < 5 * np.sqrt(0.09 / N)
    both = (on[:, 0, 0, 0] & on[:, 0, 1, 2]).mean()
    assert both == pytest.approx(0.3 / 9, abs=5 * np.sqrt(0.033 / N))


def test_circles_have_two_features_an_angle_and_a_radius():
    world = make_world("circles", 0, d_in=16, n_features=16, l0=4.0, magnitude="constant")
    acts = np.asarray(sample(world, jax.random.key(0), N // 2).feature_acts, np.float64)
    radius = np.hypot(acts[:, ::2], acts[:, 1::2])
    on = radius > 0
    np.testing.assert_allclose(radius[on], 1.0, atol=1e-5)
    assert on.sum(1).mean() == pytest.approx(2.0, abs=0.06)
    angle = np.arctan2(acts[:, 1::2], acts[:, ::2])[on]
    assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-4
    plane = np.asarray(world.directions)
    np.testing.assert_allclose(plane @ plane.T, np.eye(16), atol=1e-5)


def test_asymmetry_belongs_to_circles():
    fields = {"d_in": 16, "n_features": 16, "l0": 4.0, "magnitude": "constant", "asymmetry": 0.5}
    world = make_world("circles", 0, **fields)
    acts = np.asarray(sample(world, jax.random.key(0), N).feature_acts, np.float64)
    jitter = np.exp(0.5 * stats.norm.ppf((np.arange(8) + 0.5) / 8))
    radius = np.hypot(acts[:, ::2], acts[:, 1::2])
    on = radius > 0
    np.testing.assert_allclose(np.sort(radius.max(0)), jitter, rtol=1e-5)
    spread = radius.max(0) - np.where(on, radius, np.inf).min(0)  # a circle has one radius
    assert np.abs(spread).max() < 1e-5
    norms = np.linalg.norm(np.asarray(world.rows), axis=1)
    np.testing.assert_array_equal(norms[::2].round(5), norms[1::2].round(5))  # no ellipse
    np.testing.assert_allclose(np.sort(norms[::2]), jitter, rtol=1e-5)
    expected = 2 * jitter / jitter.sum()
    sd = np.sqrt(expected * (1 - expected) / N)
    assert (np.abs(np.sort(on.mean(0)) - expected) < 5 * sd).all()


@pytest.mark.parametrize("probs", ["geometric", "zipf"])
def test_circles_keep_their_l0_under_a_tail(probs):
    world = make_world("circles", 0, d_in=16, n_features=16, l0=3.0, probs=probs, decay=0.6)
    fired = np.asarray(sample(world, jax.random.key(1), N).feature_counts()).sum() / N
    p = firing_probabilities(probs, 8, 1.5, decay=0.6)
    assert abs(fired - 3.0) < 5 * 2 * np.sqrt((p * (1 - p)).sum() / N)


def test_together_keeps_runs_together():
    on = fires(Together(independent(np.array([0.2, 0.4])), 3), 2000)
    assert (on.reshape(-1, 2, 3).min(2) == on.reshape(-1, 2, 3).max(2)).all()


@pytest.mark.parametrize("persistence", [0.0, 0.6])
def test_bursts_are_a_markov_chain(persistence):
    p = np.array([0.3, 0.1])
    on = fires(bursts(p, persistence))
    effective = N * (1 - persistence) / (1 + persistence)
    assert np.abs(on.mean(0) - p).max() < 5 * np.sqrt(0.25 / effective)
    for lag in (1, 2, 3):
        joint_on = (on[:-lag] & on[lag:]).mean(0)
        expected = p * p + p * (1 - p) * persistence**lag
        assert np.abs(joint_on - expected).max() < 5 * np.sqrt(0.25 / effective)
    assert abs((on[:, 0] & on[:, 1]).mean() - 0.03) < 5 * np.sqrt(0.03 / effective)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: joint([], 2), "no groups"),
        (lambda: joint([{(0,): 0.1}], 2), "feature 1 is in no group"),
        (lambda: joint([{(0,): 0.1}, {(0, 1): 0.1}], 2), "feature 0 is in 2 groups"),
        (lambda: joint([{(0, 5): 0.1}], 2), "feature 5 is outside"),
        (lambda: joint([{(0,): 1.2}], 1), "probability 1.2"),
        (lambda: joint([{(0,): 0.7, (1,): 0.7}], 2), "1.4 together: scale them by 0.714"),
        (lambda: joint([{(0, 0): 0.7}], 1), "twice"),
        (lambda: exclusive(np.full(4, 0.4), np.zeros(4, int)), "total probability 1.6, over 1"),
        (lambda: exclusive(np.full(2, 0.1), np.array([0, 2])), "group 1 has no feature"),
        (lambda: exclusive(np.full(2, 0.1), np.zeros(3, int)), "2 probabilities but 3"),
        (lambda: paired_groups(np.full(3, 0.1), 0.0), "n_features 3 must be even"),
        (lambda: paired_groups(np.full(2, 0.7), 0.2), "cannot co-occur in only 0.2"),
        (lambda: paired_groups(np.full(2, 0.1), 1.2), "co_occurrence 1.2"),
        (lambda: exactly_k(np.array([0.5, 0.7])), "l0 1.2 must be a whole number"),
        (lambda: exactly_k(np.array([1.0, 0.5, 0.5])), r"1.0 of feature 0 must be in \[0, 1\)"),
        (lambda: compositional(np.full(6, 0.1), 2, 2), "multiple of"),
        (lambda: compositional(np.arange(8) / 20, 2, 2), "equally often"),
        (lambda: bursts(np.full(2, 0.1), -0.5), "persistence -0.5"),
    ],
)
def test_impossible_laws_are_refused(make, message):
    with pytest.raises(ToysaeError, match=message):
        make()


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=6))
def test_any_partition_into_exclusive_groups_is_exclusive(groups):
    """Random sizes and probabilities, zeros and group totals of exactly 1 among them."""
    scaled = [np.array(g) / max(sum(g), 1.0) for g in groups]
    probs = np.concatenate(scaled)
    group = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    on = fires(exclusive(probs, group), 2000)
    for number in range(len(groups)):
        assert on[:, group == number].sum(1).max() <= 1
    assert np.abs(on.mean(0) - probs).max() < 6 * np.sqrt(0.25 / 2000)
    assert not on[:, probs == 0].any()
