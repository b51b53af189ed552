"""Forests against exact enumeration: joint laws, exclusion, compensation, scaling by parents."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from toysae.errors import ToysaeError
from toysae.worlds.compensation import exact, first_order
from toysae.worlds.firing import Active
from toysae.worlds.forest import DenseForest, Forest, ScaledByParent
from toysae.worlds.magnitudes import Constant, RectifiedNormal
from toysae.worlds.plant import forest, regular_forest

N = 40_000
# Ragged: feature 0 has three children, 1 has one, 2 has two; 3 is free.
PARENTS = np.array([-1, 0, 0, -1, 0, 1, 2, 2])
Q = np.array([0.6, 0.5, 0.7, 0.2, 0.4, 0.5, 0.6, 0.3])
EXCLUSIVE = {
    "all": np.ones(8, bool),
    "none": np.zeros(8, bool),
    "root only": np.arange(8) == 0,
    "inner only": np.arange(8) == 2,
}
LOADING = np.array([0.7, -0.5, 0.6, 0.8, 0.3, 0.0, -0.7, 0.5])[:, None]


def law(parents, q, exclusive):
    """P(exactly this set fires), `[2^n]` by bit mask, from all events and choices in float64."""
    n = len(parents)
    out = np.zeros(2**n)
    for events in itertools.product((False, True), repeat=n):
        chance = np.prod(np.where(events, q, 1 - q))
        states = [(chance, np.zeros(n, bool))]
        for node in range(n):
            if parents[node] < 0:
                for _, on in states:
                    on[node] = events[node]
        for node in range(n):  # parents come before their children
            children = [c for c in range(n) if parents[c] == node and events[c]]
            spread = []
            for weight, on in states:
                if not (on[node] and children):
                    spread.append((weight, on))
                    continue
                kept = [[c] for c in children] if exclusive[node] else [children]
                for each in kept:
                    after = on.copy()
                    after[each] = True
                    spread.append((weight / len(kept), after))
            states = spread
        for weight, on in states:
            out[(on * 2 ** np.arange(n)).sum()] += weight
    return out


def law_under_factor(parents, q, exclusive, loading, nodes=24):
    """The same with one shared factor, by Gauss-Hermite quadrature."""
    u, weight = np.polynomial.hermite_e.hermegauss(nodes)
    own = np.sqrt(1 - loading[:, 0] ** 2)
    out = np.zeros(2 ** len(parents))
    for value, w in zip(u, weight / weight.sum(), strict=True):
        out += w * law(
            parents, special.ndtr((special.ndtri(q) + loading[:, 0] * value) / own), exclusive
        )
    return out


def marginals(probability, n):
    return np.array([probability[(np.arange(2**n) >> i) & 1 == 1].sum() for i in range(n)])


def draw(firing, n=N, seed=0):
    return jax.jit(firing.sample, static_argnums=1)(jax.random.key(seed), n)


def dense(active, n_features):
    out = np.zeros((len(active.indices), n_features), int)
    np.add.at(out, (np.arange(len(out))[:, None], np.asarray(active.indices)), active.on)
    return out


def assert_draws_follow(active, probability):
    n_features = int(np.log2(len(probability)))
    on = dense(active, n_features)
    assert on.max() <= 1
    observed = np.bincount(on @ 2 ** np.arange(n_features), minlength=len(probability))
    assert observed[probability < 1e-15].sum() == 0
    expected = len(on) * probability
    big = expected > 5
    observed = np.append(observed[big], observed[~big].sum())
    expected = np.append(expected[big], expected[~big].sum())
    keep = expected > 0
    # np.sum of expected is len(on) up to rounding, which chisquare is strict about.
    expected = expected[keep] * observed.sum() / expected[keep].sum()
    assert stats.chisquare(observed[keep], expected).pvalue > 1e-4


def test_the_oracle_on_a_case_by_hand():
    # Parent .5 with two exclusive children of q = .5: each fires with .5 (.25 + .25 / 2).
    probability = law(np.array([-1, 0, 0]), np.full(3, 0.5), np.ones(3, bool))
    np.testing.assert_allclose(probability.sum(), 1)
    np.testing.assert_allclose(marginals(probability, 3), [0.5, 0.1875, 0.1875])
    assert probability[7] == 0


@pytest.mark.parametrize("is_dense", [True, False])
@pytest.mark.parametrize("which", EXCLUSIVE)
def test_joint_law_is_the_enumerated_one(which, is_dense):
    exclusive = EXCLUSIVE[which]
    firing = forest(PARENTS, Q, exclusive, compensate="given", dense=is_dense)
    assert isinstance(firing, DenseForest if is_dense else Forest)
    assert_draws_follow(draw(firing), law(PARENTS, Q, exclusive))


@pytest.mark.parametrize("is_dense", [True, False])
@pytest.mark.parametrize("which", ["all", "root only"])
def test_joint_law_under_a_shared_factor_is_the_enumerated_one(which, is_dense):
    exclusive = EXCLUSIVE[which]
    firing = forest(PARENTS, Q, exclusive, LOADING, "given", dense=is_dense)
    expected = law_under_factor(PARENTS, Q, exclusive, LOADING)
    assert_draws_follow(draw(firing, seed=1), expected)
    independent = law(PARENTS, Q, exclusive)
    assert np.abs(expected - independent).sum() > 0.1  # the factor matters


@pytest.mark.parametrize("which", EXCLUSIVE)
def test_exact_compensation_gives_the_marginals_asked_for(which):
    exclusive = EXCLUSIVE[which]
    probs = np.array([0.5, 0.2, 0.12, 0.3, 0.1, 0.15, 0.05, 0.06])
    q = exact(PARENTS, probs, exclusive, np.zeros((8, 0)))
    np.testing.assert_allclose(marginals(law(PARENTS, q, exclusive), 8), probs, rtol=1e-7)
    q = exact(PARENTS, probs, exclusive, LOADING)
    reached = marginals(law_under_factor(PARENTS, q, exclusive, LOADING, 40), 8)
    np.testing.assert_allclose(reached, probs, rtol=3e-3)


def test_exclusive_children_may_use_up_their_parent():
    parents = np.array([-1, 0, 0, 0])
    probs = np.array([0.2, 0.1, 0.06, 0.04])
    q = exact(parents, probs, np.ones(4, bool), np.zeros((4, 0)))
    np.testing.assert_allclose(marginals(law(parents, q, np.ones(4, bool)), 4), probs, rtol=1e-4)


def test_first_order_compensation_is_saelens_formula():
    # By hand: q_1 = .1 / .4 (1 + .06 / .4), q_2 = .06 / .4 (1 + .1 / .4), q_3 = .05 / .1.
    q = first_order(np.array([-1, 0, 0, 1]), np.array([0.4, 0.1, 0.06, 0.05]), np.ones(4, bool))
    np.testing.assert_allclose(q, [0.4, 0.25 * 1.15, 0.15 * 1.25, 0.5])
    assert first_order(np.array([-1, 0]), np.array([0.1, 0.3]), np.ones(2, bool))[1] == 1


@st.composite
def forests(draw_):
    n = draw_(st.integers(1, 7))
    parents = np.array([draw_(st.integers(-1, i - 1)) for i in range(n)])
    q = np.array([draw_(st.floats(0.05, 1.0)) for _ in range(n)])
    exclusive = np.array([draw_(st.booleans()) for _ in range(n)])
    return parents, q, exclusive, draw_(st.booleans())


@settings(max_examples=8, deadline=None, derandomize=True)
@given(forests())
def test_any_forest_follows_its_law_and_rules(case):
    parents, q, exclusive, is_dense = case
    firing = forest(parents, q, exclusive, compensate="given", dense=is_dense)
    active = draw(firing, 4000)
    n = len(parents)
    on = dense(active, n)
    child = parents >= 0
    assert (on[:, child] <= on[:, parents[child]]).all()
    for head in np.flatnonzero(exclusive):
        assert on[:, parents == head].sum(1).max(initial=0) <= 1
    indices, fires = np.asarray(active.indices), np.asarray(active.on)
    assert (active.parent is None) == (active.depth == 0) == (not child.any())
    place = np.full(indices.shape, -1) if active.parent is None else np.asarray(active.parent)
    slots = np.arange(fires.shape[1])
    assert (place < slots).all() or (is_dense and (place < indices).all())
    expected = np.where(parents[indices] >= 0, parents[indices], -1)
    found = np.where(place >= 0, np.take_along_axis(indices, np.maximum(place, 0), 1), -1)
    assert (found == expected)[fires].all()
    assert active.dropped is None or int(active.dropped.sum()) == 0
    assert_draws_follow(active, law(parents, q, exclusive))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(forests(), st.floats(0.2, 0.99))
def test_exact_compensation_of_any_feasible_forest(case, share):
    parents, weight, exclusive, _ = case
    n = len(parents)
    probs = np.zeros(n)
    for i in range(n):  # children share a part of what their parent leaves
        siblings = weight[parents == parents[i]].sum() if exclusive[parents[i]] else 1.0
        probs[i] = weight[i] if parents[i] < 0 else share * probs[parents[i]] * weight[i] / siblings
    q = exact(parents, probs, exclusive, np.zeros((n, 0)))
    np.testing.assert_allclose(marginals(law(parents, q, exclusive), n), probs, rtol=1e-6)


@pytest.fixture(scope="module")
def middling():
    """300 features in trees, partly exclusive, under three factors: sparse by default."""
    parents = regular_forest(20, 3, 2, 300)
    probs = np.where(parents < 0, 0.15, 0.03)
    probs[parents >= 20] = 0.004
    exclusive = np.arange(300) % 2 == 0
    factors = np.random.default_rng(0).normal(size=(300, 3)) * 0.2
    firing = [forest(parents, probs, exclusive, factors, dense=d) for d in (False, True)]
    return parents, probs, firing


def test_sparse_and_dense_forests_agree_in_second_moments(middling):
    _, probs, (sparse, every) = middling
    assert isinstance(sparse, Forest) and isinstance(every, DenseForest)
    assert all(g.slots and g.slots < g.children.size for g in sparse.generations)
    active = draw(sparse, N)
    assert int(active.dropped.sum()) == 0
    on = [dense(active, 300), dense(draw(every, N, seed=1), 300)]
    assert active.on.shape[1] < 300 and on[0].max() == 1
    z = (on[0].mean(0) - probs) / np.sqrt(probs * (1 - probs) / N)
    assert np.sqrt((z**2).mean()) < 1.15  # exact compensation, to the error of the draws of u
    direction = np.random.default_rng(1).normal(size=(300, 8))
    ours, theirs = ((each @ direction) ** 2 for each in on)
    gap = ours.mean(0) - theirs.mean(0)
    assert np.abs(gap / np.sqrt((ours.var(0) + theirs.var(0)) / N)).max() < 4.5


@pytest.mark.parametrize("is_dense", [True, False])
def test_a_longer_draw_begins_with_a_shorter_one(is_dense):
    firing = forest(PARENTS, Q, EXCLUSIVE["root only"], LOADING, "given", dense=is_dense)
    short, long = draw(firing, 64), draw(firing, 128)
    np.testing.assert_array_equal(long.on[:64], short.on)
    for a, b in ((short.indices, long.indices), (short.parent, long.parent)):
        np.testing.assert_array_equal(np.where(short.on, b[:64], -1), np.where(short.on, a, -1))


def test_children_are_scaled_by_their_parents(middling):
    parents, _, (firing, _) = middling
    mean = jnp.linspace(2.0, 1.0, 300)
    law_of_own = RectifiedNormal(mean, 0.7)
    scaled = ScaledByParent(law_of_own, mean)

    @jax.jit
    def sample(key):
        active = firing.sample(key, 400)
        return active, law_of_own.sample(key, active), scaled.sample(key, active)

    active, own, ours = sample(jax.random.key(5))
    own, ours = dense_values(active, own), dense_values(active, ours)
    for child in range(300):
        if parents[child] >= 0:
            own[:, child] *= own[:, parents[child]] / float(mean[parents[child]])
    np.testing.assert_allclose(ours, own, rtol=1e-5, atol=1e-6)
    assert (ours[:, parents >= 20] > 0).any()


@pytest.mark.parametrize("is_dense", [True, False])
@pytest.mark.parametrize("depth", [0, 1, 7])
def test_scaling_reaches_any_depth(is_dense, depth):
    """A chain in which a parent at twice its mean doubles all below it."""
    parents = np.arange(-1, depth)
    firing = forest(parents, np.ones(depth + 1), compensate="given", dense=is_dense)
    scaled = ScaledByParent(Constant(2.0), jnp.ones(depth + 1))
    active = draw(firing, 3)
    assert active.depth == depth and (active.parent is None) == (depth == 0)
    values = np.zeros((3, depth + 1))
    place = np.arange(3)[:, None], np.asarray(active.indices)
    np.add.at(values, place, np.where(active.on, scaled.sample(jax.random.key(0), active), 0.0))
    np.testing.assert_array_equal(values, np.tile(2.0 ** np.arange(1, depth + 2), (3, 1)))


def test_parents_without_a_depth_are_refused():
    active = replace(draw(forest(PARENTS, Q, compensate="given"), 4), depth=0)
    with pytest.raises(ToysaeError, match="no depth"):
        ScaledByParent(Constant(), jnp.ones(8)).sample(jax.random.key(0), active)


def dense_values(active: Active, values):
    """`[n, 300]` values of the features that are on."""
    out = np.zeros((len(values), 300))
    np.add.at(
        out,
        (np.arange(len(out))[:, None], np.asarray(active.indices)),
        np.where(active.on, values, 0.0),
    )
    return out


def test_regular_forests_are_numbered_breadth_first():
    np.testing.assert_array_equal(
        regular_forest(2, 2, 2), [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    )
    np.testing.assert_array_equal(regular_forest(2, 2, 1, 8), [-1, -1, 0, 0, 1, 1, -1, -1])
    np.testing.assert_array_equal(regular_forest(2, 2, 1, 4), [-1, -1, 0, 0])


THREE = np.array([-1, 0, 0])


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: forest(np.array([-1, 2, 1]), Q[:3]), "cycle"),
        (lambda: forest(np.array([1, -1]), Q[:2]), "breadth-first"),
        (lambda: forest(np.array([-1, 5]), Q[:2]), "out of range"),
        (lambda: forest(np.array([-2, 0]), Q[:2]), "out of range"),
        (lambda: forest(np.array([], int), Q[:0]), "integers"),
        (lambda: forest(THREE, Q), "must be [n_features = 3]"),
        (lambda: forest(THREE, np.array([0.5, 0.0, 0.1])), "0.0 of feature 1 must be in (0, 1]"),
        (lambda: forest(THREE, np.array([0.5, 0.6, 0.1])), "feature 1 cannot have probability 0.6"),
        (lambda: forest(THREE, np.array([0.5, 0.3, 0.3]), True), "at most 0.2"),
        (lambda: forest(THREE, np.full(3, 0.1), compensate="exat"), "did you mean 'exact'"),
        (lambda: forest(THREE, np.full(3, 0.1), factors=np.zeros((2, 1))), "copula factors"),
        (lambda: regular_forest(0, 2, 1), "n_roots 0"),
    ],
)
def test_errors_name_the_value(build, match):
    with pytest.raises(ToysaeError) as error:
        build()
    assert match in str(error.value)
