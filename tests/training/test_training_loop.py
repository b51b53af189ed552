"""The training loop: ensembles equal single runs, numbers do not recompile, divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from toysae.recovery.probe import recovery_probe
from toysae.sae import RECIPES, Params, make_spec
from toysae.training import advance, curve_points, start, train_ensemble, trained
from toysae.training.members import make_ensemble
from toysae.training.optimiser import adam, clipped, learning_rate
from toysae.training.starting import start_from
from toysae.training.state import keys_of
from toysae.worlds import make_world

D, S, BATCH = 8, 16, 32
FIELDS = {"d_in": D, "n_features": 16, "l0": 2.0}


@pytest.fixture(scope="module")
def worlds():
    return [make_world("sphere", seed, **FIELDS) for seed in range(3)]


def group_of(worlds, seeds, hypers, sae_seeds=(0,), recipe="untied"):
    spec = make_spec(recipe, D, S)
    read = {"l1_coeff": 0.1, "l0_coeff": 0.03, "k": 4.0, "l0_target": 3.0}
    known = {**RECIPES[recipe].toy, **read}
    hypers = {name: v for name, v in known.items() if name in spec.hypers()} | hypers
    return make_ensemble([worlds[s] for s in seeds], seeds, spec, hypers, sae_seeds, BATCH)


def go(ensemble, until, n_steps=None):
    n_steps = n_steps or until
    return advance(start(ensemble), ensemble.once_started(), jnp.int32(until), jnp.float32(n_steps))


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


# Ensembles


def test_a_member_alone_equals_itself_in_an_ensemble(worlds):
    many = go(group_of(worlds, [0, 1, 2], {"l1_coeff": [0.05, 0.2], "lr": 3e-3}, [4, 7]), 100)
    for world_seed in (0, 2):
        for place, (l1, seed) in enumerate([(0.05, 4), (0.05, 7), (0.2, 4), (0.2, 7)]):
            if place in (0, 3):
                alone = go(
                    group_of(worlds, [world_seed], {"l1_coeff": l1, "lr": 3e-3}, [seed]), 100
                )
                for name in ("W_dec", "b_dec"):
                    one, many_ = (getattr(s.members.params, name) for s in (alone, many))
                    np.testing.assert_allclose(one[0, 0], many_[world_seed, place], atol=1e-5)
                np.testing.assert_array_equal(alone.firings[0], many.firings[world_seed])


def test_members_do_differ(worlds):
    state = go(group_of(worlds, [0, 1, 2], {"l1_coeff": [0.05, 0.2]}, [4, 7]), 20)
    W = np.asarray(state.members.params.W_dec).reshape(12, -1)
    gaps = np.abs(W[:, None] - W[None]).max(-1)[np.triu_indices(12, 1)]
    assert gaps.min() > 1e-4  # by their L1 alone, after 20 steps


def test_same_seeds_same_bits(worlds):
    one, two = (go(group_of(worlds, [1], {"lr": 3e-3}), 60) for _ in range(2))
    for a, b in zip(leaves(one), leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)
    other = go(group_of(worlds, [1], {"lr": 3e-3}, [1]), 60)
    gap = np.abs(np.asarray(one.members.params.W_dec - other.members.params.W_dec)).max()
    assert gap > 0.1


def test_chunks_do_not_matter(worlds):
    ensemble = group_of(worlds, [0], {"lr": 3e-3, "lr_decay": 0.5})
    whole = go(ensemble, 40)
    state = start(ensemble)
    for until in (0, 1, 17, 40):
        state = advance(state, ensemble.once_started(), jnp.int32(until), jnp.float32(40))
    for a, b in zip(leaves(whole), leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_step_equals_a_hand_written_one(worlds):
    """Loss, projected gradient, Adam and renormalisation of the untied SAE in NumPy."""
    ensemble = group_of(worlds, [0], {"l1_coeff": 0.1, "lr": 0.01})
    before = jax.device_get(start(ensemble).members.params)
    after = go(ensemble, 1, 1)
    key = jax.random.fold_in(keys_of(ensemble.world_seeds, "train")[0], 0)
    x = np.asarray(worlds[0].sample(key, BATCH).x, np.float64)
    W = np.asarray(before.W_dec[0, 0], np.float64)
    b = np.asarray(before.b_dec[0, 0], np.float64)
    W_enc = np.asarray(before.enc["W_enc"][0, 0], np.float64)
    z = np.maximum((x - b) @ W_enc, 0)
    error = z @ W + b - x
    loss = (error**2).sum(1).mean() + 0.1 * z.sum(1).mean()
    assert float(after.loss[0, 0]) == pytest.approx(loss, rel=1e-5)
    dz = (z > 0) * (2 * error @ W.T + 0.1) / BATCH
    grads = {"W_dec": z.T @ (2 * error) / BATCH, "b_enc": dz.sum(0), "W_enc": (x - b).T @ dz,
             "b_dec": 2 * error.mean(0) - (dz @ W_enc.T).sum(0)}  # fmt: skip
    grads["W_dec"] -= (grads["W_dec"] * W).sum(1, keepdims=True) * W
    step = {name: g / (np.abs(g) + 1e-8) * 0.01 for name, g in grads.items()}  # Adam's first
    new_W = W - step["W_dec"]
    new_W /= np.linalg.norm(new_W, axis=1, keepdims=True)
    found = jax.device_get(after.members.params)
    clear = np.abs(grads["W_dec"]) > 1e-5  # the sign of a tiny gradient is noise
    assert clear.mean() > 0.5
    np.testing.assert_allclose(found.W_dec[0, 0][clear], new_W[clear], atol=2e-4)
    np.testing.assert_allclose(found.b_dec[0, 0], b - step["b_dec"], atol=2e-4)
    clear = np.abs(grads["W_enc"]) > 1e-5
    np.testing.assert_allclose(found.enc["W_enc"][0, 0][clear], (W_enc - step["W_enc"])[clear],
                               atol=2e-4)  # fmt: skip


# Compilation and memory


def test_other_numbers_do_not_recompile(worlds):
    def two(h, n_steps):
        return go(group_of(worlds, [0], h, [0, 1]), n_steps)

    two({"l1_coeff": 0.1, "lr": 1e-3}, 5)
    compiled, started = advance._cache_size(), start_from._cache_size()
    two({"l1_coeff": 0.3, "lr": 1e-2, "lr_decay": 0.3, "lr_warmup": 0.1, "l1_warmup": 0.2}, 33)
    two({"l1_coeff": 0.0, "lr": 0.0, "beta1": 0.5}, 1)
    ensemble = group_of(worlds, [2], {"lr": 1e-3}, [5, 6])
    state = start(ensemble)
    for until in (1, 7, 20):
        state = advance(state, ensemble.once_started(), jnp.int32(until), jnp.float32(20))
    assert (advance._cache_size(), start_from._cache_size()) == (compiled, started)


def test_the_state_does_not_grow_with_the_steps(worlds):
    ensemble = group_of(worlds, [0], {"lr": 1e-3}, [0, 1])
    shapes = [[leaf.shape for leaf in leaves(go(ensemble, n))] for n in (1, 200)]
    assert shapes[0] == shapes[1]
    program = advance.lower(start(ensemble), ensemble.once_started(), jnp.int32(1), jnp.float32(10))
    stats = program.compile().memory_analysis()
    if stats is None:
        pytest.skip("the backend reports no memory")
    weights = 4 * 2 * (2 * D * S)
    assert stats.temp_size_in_bytes < 100 * weights + 4 * 20 * BATCH * (S + D) * 2


# Data


@pytest.mark.parametrize("n_features", [16, 400])
def test_firings_count_the_data_that_were_seen(n_features):
    world = make_world("sphere", 1, d_in=D, n_features=n_features, l0=2.0, probs="zipf")
    ensemble = make_ensemble(
        [world], [5], make_spec("tied", D, S), {"l1_coeff": 0.1}, [0, 1], BATCH
    )
    state = go(ensemble, 12)
    key = keys_of(ensemble.world_seeds, "train")[0]
    replay = jax.jit(lambda step: world.sample(jax.random.fold_in(key, step), BATCH).feature_acts)
    expected = sum((np.asarray(replay(step)) != 0).sum(0) for step in range(12))
    np.testing.assert_array_equal(state.firings[0], expected)
    assert expected.sum() > 500


# Divergence


@pytest.mark.parametrize("bad", [{"lr": 1e30}, {"l1_coeff": 1e38}])
def test_a_diverged_member_stands_still_and_harms_no_one(worlds, bad):
    good = {"l1_coeff": 0.1, "lr": 3e-3}
    (name, value), = bad.items()  # fmt: skip
    rest = {k: v for k, v in good.items() if k != name}
    ill = group_of(worlds, [0], {**rest, name: [good[name], value, good[name]]})
    well = group_of(worlds, [0], {**rest, name: [good[name]] * 3})
    state, healthy = go(ill, 50), go(well, 50)
    assert np.asarray(state.members.diverged)[0].tolist() == [False, True, False]
    assert not np.asarray(healthy.members.diverged).any()
    for leaf, other in zip(jax.tree.leaves(state.members.params),
                           jax.tree.leaves(healthy.members.params), strict=True):  # fmt: skip
        assert np.isfinite(leaf).all()
        for member in (0, 2):
            np.testing.assert_allclose(leaf[0, member], other[0, member], atol=1e-6)
    at_49 = go(ill, 49, 50)
    for a, b in zip(leaves(at_49.members.params), leaves(state.members.params), strict=True):
        np.testing.assert_array_equal(a[0, 1], b[0, 1])
        assert np.abs(a[0, 0] - b[0, 0]).max() > 0


@pytest.mark.slow
def test_parameters_stay_finite_at_any_learning_rate(worlds, program):
    stays_finite(worlds, program)


@pytest.mark.parametrize("recipe", ["tied", "untied", "topk", "jumprelu", "held-orthogonal", "mlp"])
def test_core_parameters_stay_finite_at_any_learning_rate(worlds, recipe):
    stays_finite(worlds, recipe)


def stays_finite(worlds, recipe):
    state = go(group_of(worlds, [0], {"lr": [1.0, 1e30]}, recipe=recipe), 30)
    for leaf in jax.tree.leaves(state.members.params):
        assert np.isfinite(leaf).all()
    assert (np.asarray(state.members.diverged) | np.isfinite(state.loss)).all()


def test_train_group_reports_divergence(worlds):
    ensemble = group_of(worlds, [0, 1], {"lr": [3e-3, 1e30, 1e-3]})
    result = train_ensemble(ensemble, 60, recovery_probe, n_points=4, n_eval=64)
    assert result.diverged.tolist() == [[False, True, False]] * 2
    assert np.isfinite(result.curves["mmcs"]).all()


# Clipping


@pytest.mark.parametrize(("bound", "scale"), [(1.0, 1 / 13), (13.0, 1.0), (99.0, 1.0)])
def test_clipping_shortens_the_whole_gradient(bound, scale):
    grad = Params(jnp.array([[3.0, 0.0]]), jnp.array([4.0, 0.0]), {"b_enc": jnp.array([12.0])})
    short = clipped(grad, {"grad_clip": jnp.float32(bound)})
    for whole, part in zip(leaves(grad), leaves(short), strict=True):
        np.testing.assert_allclose(part, scale * whole, rtol=1e-6)
    assert clipped(grad, {}) is grad


def test_clipping_is_by_member_and_off_unless_given(worlds):
    plain = go(group_of(worlds, [0], {"lr": 3e-3}), 50)
    clip = go(group_of(worlds, [0], {"lr": 3e-3, "grad_clip": [1e9, 1e-6]}), 50)
    for a, b in zip(leaves(plain.members.params), leaves(clip.members.params), strict=True):
        np.testing.assert_allclose(a[0, 0], b[0, 0], atol=1e-6)
    moments = np.abs(np.asarray(clip.members.opt.mu.W_dec)).max((0, 2, 3))
    assert moments[1] < 1e-6 < moments[0]


# Curves


def test_train_group_measures_at_its_points(worlds):
    ensemble = group_of(worlds, [0, 1], {"lr": 3e-3}, [0, 1, 2])
    seen = []
    result = train_ensemble(ensemble, 60, recovery_probe, n_points=6, n_eval=64,
                         on_chunk=lambda snapshot: seen.append(snapshot.step))  # fmt: skip
    steps = curve_points(60, 6)
    np.testing.assert_array_equal(result.curve_steps, steps)
    assert seen == sorted(set(seen)) and set(steps.tolist()) <= set(seen)
    assert {"mmcs", "mcs_above_0.9", "l0", "ev", "loss", "mcs_hist"} == set(result.curves)
    for name, curve in result.curves.items():
        bins = (40,) if name == "mcs_hist" else ()
        assert curve.shape == (2, 3, *bins, len(steps))
        assert np.isfinite(curve[..., 1:]).all(), name
    assert np.isnan(result.curves["loss"][..., 0]).all()
    whole = go(ensemble, 60)
    saes = trained(whole, ensemble.once_started())
    np.testing.assert_allclose(result.saes.weights.W_dec, saes.weights.W_dec, atol=1e-6)
    np.testing.assert_allclose(result.curves["loss"][..., -1], whole.loss, rtol=1e-5)
    np.testing.assert_array_equal(result.firings, whole.firings)
    cos = np.asarray(worlds[1].directions) @ np.asarray(saes.weights.W_dec[1, 2]).T
    assert result.curves["mmcs"][1, 2, -1] == pytest.approx(cos.max(1).mean(), abs=1e-5)


@pytest.mark.parametrize("n_points", [1, 2, 3, 10, 41])
@pytest.mark.parametrize("n_steps", [1, 2, 99, 101, 1000, 123_457])
def test_curve_points(n_steps, n_points):
    points = curve_points(n_steps, n_points)
    assert points[0] == 0 and points[-1] == n_steps
    assert np.all(np.diff(points) > 0) and np.issubdtype(points.dtype, np.integer)
    assert len(points) <= n_points + 2
    if n_steps >= 1000 and n_points >= 10:
        assert ((points > 0) & (points <= 100)).any() and len(points) > 0.6 * n_points


# The optimiser


@pytest.mark.parametrize(
    ("warmup", "decay", "expected"),
    [
        (0.0, 0.0, {0.01: 1.0, 0.5: 1.0, 1.0: 1.0}),
        (0.2, 0.0, {0.05: 0.25, 0.1: 0.5, 0.2: 1.0, 0.7: 1.0, 1.0: 1.0}),
        (0.0, 0.2, {0.01: 1.0, 0.8: 1.0, 0.9: 0.5, 0.95: 0.25, 1.0: 0.0}),
        (0.5, 0.5, {0.25: 0.5, 0.5: 1.0, 0.75: 0.5}),
        (1.0, 1.0, {0.25: 0.25, 0.5: 0.5, 0.75: 0.25}),
    ],
)
def test_the_learning_rate_by_hand(warmup, decay, expected):
    h = {"lr": jnp.float32(0.3), "lr_warmup": jnp.float32(warmup), "lr_decay": jnp.float32(decay)}
    for progress, factor in expected.items():
        found = float(learning_rate(h, jnp.float32(progress)))
        assert found == pytest.approx(0.3 * factor, rel=1e-5, abs=1e-7), progress


def test_adam_equals_optax():
    h = {"beta1": jnp.float32(0.8), "beta2": jnp.float32(0.99)}
    ours, theirs = adam(h), optax.adam(1.0, 0.8, 0.99)
    params = jnp.arange(4.0)
    one, two = ours.init(params), theirs.init(params)
    for step in range(4):
        grad = jnp.sin(params * (step + 1))
        up, one = ours.update(grad, one)
        down, two = theirs.update(grad, two)
        np.testing.assert_allclose(up, -down, rtol=1e-5)


def test_a_frozen_lr_moves_nothing(worlds):
    ensemble = group_of(worlds, [0], {"lr": 0.0})
    first = [np.asarray(leaf) for leaf in jax.tree.leaves(start(ensemble).members.params)]
    for a, b in zip(first, jax.tree.leaves(go(ensemble, 20).members.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
