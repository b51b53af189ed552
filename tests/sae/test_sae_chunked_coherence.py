"""OrtSAE's penalty within random chunks: against NumPy, and over all partitions."""

from itertools import permutations
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.sae import ChunkedCoherence, DecoderCoherence, Forward, SAESpec, Weights, make_spec
from toysae.sae.geometry_penalties import chunked_coherence
from toysae.sae.running import Steps
from toysae.training import advance, start
from toysae.training.members import make_ensemble
from toysae.worlds import make_world


def rows_of(n, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.linspace(0.5, 2, n)[:, None]


def squared_cosines(W):
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    return (unit @ unit.T) ** 2


def numpy_penalty(W, order, size, of):
    """By loops over the chunks."""
    squares, values, most = squared_cosines(W), [], np.zeros(len(W))
    for start_ in range(0, len(W), size):
        chunk = order[start_ : start_ + size]
        for i in chunk:
            others = [squares[i, j] for j in chunk if j != i]
            values += others
            most[i] = max(others, default=0)
    return most.mean() if of == "max" else np.mean(values)


def f32(a):
    return jnp.asarray(a, jnp.float32)


@pytest.mark.parametrize("of", ["max", "mean"])
@pytest.mark.parametrize(("n", "size"), [(12, 4), (11, 4), (9, 4), (7, 2), (6, 6), (5, 100)])
def test_it_equals_numpys_with_its_gradient(n, size, of):
    W, rng = rows_of(n), np.random.default_rng(1)
    order = rng.permutation(n)

    def penalty(W):
        return chunked_coherence(W, jnp.asarray(order, jnp.int32), size, of)

    value, grad = jax.jit(jax.value_and_grad(penalty))(f32(W))
    assert float(value) == pytest.approx(numpy_penalty(W, order, size, of), rel=1e-5)
    for _ in range(3):
        way = rng.normal(size=W.shape)
        up, down = (numpy_penalty(W + s * way, order, size, of) for s in (1e-6, -1e-6))
        found = float((np.asarray(grad, np.float64) * way).sum())
        assert found == pytest.approx((up - down) / 2e-6, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("n", "size"), [(6, 3), (6, 2), (5, 2), (5, 3)])
def test_over_all_partitions_the_mean_is_the_full_penalty(n, size):
    W = rows_of(n, seed=2)
    orders = jnp.asarray(list(permutations(range(n))), jnp.int32)
    both = {
        of: jax.vmap(lambda order, of=of: chunked_coherence(f32(W), order, size, of))(orders)
        for of in ("mean", "max")
    }
    w = Weights(f32(W), None, {})
    f = Forward(*[jnp.zeros((1, 3))] * 2, *[jnp.zeros((1, n))] * 2, None, w)
    full = float(DecoderCoherence().cost(f, {}, {"coherence_coeff": jnp.float32(1)}))
    assert float(both["mean"].mean()) == pytest.approx(full, rel=1e-5)
    if n % size == 0:
        # The m - 1 others in i's chunk are a random subset: the r-th largest is its maximum with
        # probability C(n - 1 - r, m - 2) / C(n - 1, m - 1).
        squares = squared_cosines(W)
        largest = -np.sort(-np.array([np.delete(row, i) for i, row in enumerate(squares)]), 1)
        chance = [comb(n - 1 - r, size - 2) / comb(n - 1, size - 1) for r in range(1, n)]
        expected = (largest * chance).sum(1).mean()
        assert float(both["max"].mean()) == pytest.approx(expected, rel=1e-5)


def test_a_zero_row_has_a_finite_gradient():
    W = f32(rows_of(6)).at[2].set(0)
    order = jnp.arange(6, dtype=jnp.int32)
    for of in ("max", "mean"):
        assert np.isfinite(jax.grad(chunked_coherence)(W, order, 3, of)).all()


def test_each_step_deals_anew_and_members_alike():
    W, h = f32(rows_of(40)), {"coherence_coeff": jnp.float32(1)}
    f = Forward(*[jnp.zeros((1, 3))] * 2, *[jnp.zeros((1, 40))] * 2, None, Weights(W, None, {}))
    stat, steps, costs = Steps(), Steps().init(40), []
    for step in range(200):
        assert int(steps) == step
        costs.append(float(ChunkedCoherence(4, "mean").cost(f, {"steps": steps}, h)))
        steps = stat.step(steps, f, {}, {})
    full = float(DecoderCoherence().cost(f, {}, h))
    assert len(set(costs)) > 190
    assert np.mean(costs) == pytest.approx(full, abs=4 * np.std(costs) / 200**0.5)
    # One chunk holds all pairs, however they are dealt.
    assert float(ChunkedCoherence(64, "mean").cost(f, {"steps": steps}, h)) == pytest.approx(
        full, rel=1e-5
    )


def test_training_with_it_separates_latents_without_recompiling():
    world = make_world("sphere", 0, d_in=8, n_features=16, l0=2.0)
    spec = make_spec("topk", 8, 24, penalty=ChunkedCoherence(6))
    given = {"k": 2, "lr": 3e-3}
    group = make_ensemble([world], [0], spec, {**given, "coherence_coeff": [0.0, 10.0]}, [0], 64)
    state = advance(start(group), group.once_started(), jnp.int32(1), jnp.float32(300))
    compiled = advance._cache_size()
    state = advance(state, group.once_started(), jnp.int32(300), jnp.float32(300))
    assert advance._cache_size() == compiled and not state.members.diverged.any()
    np.testing.assert_array_equal(state.members.run["steps"], 300)
    off = ~np.eye(24, dtype=bool)
    squares = [np.where(off, squared_cosines(np.asarray(W, np.float64)), 0).max(1).mean()
               for W in state.members.params.W_dec[0]]  # fmt: skip
    assert squares[1] < 0.7 * squares[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1,), "size 1 must be at least 2"),
        ((4, "maximum"), "unknown ChunkedCoherence of 'maximum': did you mean 'max'"),
    ],
)
def test_bad_settings_are_refused(given, message):
    with pytest.raises(ToysaeError, match=message):
        SAESpec(4, 6, penalty=ChunkedCoherence(*given))
