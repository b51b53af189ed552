"""Training toy models: Adam by hand, ensembles equal single runs, and what is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.keys import seed_key
from toysae.worlds.tms import (
    TMS_PRESETS,
    TMSSpec,
    expected_loss,
    importance_decay,
    models_of_point,
    overlap,
    tms_hypers,
    tms_preset,
    train_tms,
    two_in_one,
)
from toysae.worlds.tms.model import draw_uniforms, features_at, init_tms_params
from toysae.worlds.tms.train import advance_models, evaluate, start_models

SPEC = TMSSpec(5, 2)
POINTS = {"density": [0.05, 0.3, 0.9], "lr": [1e-3, 3e-3, 1e-2], "lr_decay": [0.0, 0.5, 1.0]}


def run(spec=SPEC, seeds=2, n_steps=60, n_snapshots=1, **numbers):
    hypers = tms_hypers(spec, **{**POINTS, **numbers})
    return train_tms(spec, hypers, seeds, n_steps, 32, n_snapshots, n_eval=4096)


def adam_by_hand(spec, seed, density, importance, lr, lr_decay, n_steps, batch_size):
    """The same training in float64 NumPy, for x' = ReLU(W^T W x + b)."""
    params = init_tms_params(spec, seed_key(seed, "tms-init"))
    W, b = np.asarray(params.W, np.float64), np.asarray(params.b, np.float64)
    first, second = np.zeros(W.size + b.size), np.zeros(W.size + b.size)

    @jax.jit
    def batch(key):
        return features_at(spec, draw_uniforms(spec, key, batch_size), jnp.float32(density))

    for step in range(n_steps):
        key = jax.random.fold_in(seed_key(seed, "tms-data"), step)
        x = np.asarray(batch(key), np.float64)
        pre = x @ W.T @ W + b
        slope = 2 * importance * (np.maximum(pre, 0) - x) * (pre > 0) / batch_size
        pull = slope.T @ x
        gradient = np.append(W @ (pull + pull.T), slope.sum(0))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        left = 1 - (step + 1) / n_steps
        rate = lr * min(left / lr_decay, 1.0) if lr_decay else lr
        move = rate * mean / (np.sqrt(square) + 1e-8)
        W, b = W - move[: W.size].reshape(W.shape), b - move[W.size :]
    return W, b


def test_training_is_adam_by_hand():
    importance = importance_decay(5, 0.9)
    trained = run(importance=importance)
    for point in range(3):
        W, b = adam_by_hand(SPEC, 1, *(POINTS["density"][point], importance,
                            POINTS["lr"][point], POINTS["lr_decay"][point], 60, 32))  # fmt: skip
        np.testing.assert_allclose(trained.params.W[1, point], W, atol=2e-4)
        np.testing.assert_allclose(trained.params.b[1, point], b, atol=2e-4)


def test_a_model_alone_equals_itself_in_an_ensemble():
    many = run()
    alone = train_tms(
        SPEC, tms_hypers(SPEC, 0.3, lr=3e-3, lr_decay=0.5), np.array([1]), 60, 32, 1, 4096
    )
    np.testing.assert_allclose(many.params.W[1, 1], alone.params.W[0, 0], atol=1e-5)
    assert not np.allclose(many.params.W[0, 1], many.params.W[1, 1], atol=1e-2)
    assert not np.allclose(many.params.W[1, 0], many.params.W[1, 1], atol=1e-2)


def test_same_seed_same_bits_whatever_the_snapshots():
    one, other = run(), run(n_snapshots=4)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.loss, other.loss)
    assert other.steps.tolist() == [0, 15, 30, 45, 60]
    np.testing.assert_array_equal(other.W[-1], other.params.W)
    np.testing.assert_array_equal(other.W[0], one.W[0])


def test_numbers_do_not_recompile():
    run()
    sizes = [f._cache_size() for f in (start_models, advance_models, evaluate)]
    run(density=[0.1, 0.2, 0.4], importance=0.5, lr=2e-3, n_steps=41, seeds=np.array([8, 9]))
    assert [f._cache_size() for f in (start_models, advance_models, evaluate)] == sizes


def test_the_best_seed_and_one_point():
    trained = run(lr=[1e-3, 1e-2, 1e-2])
    assert trained.best(trained.loss).tolist() == trained.loss.min(0).tolist()
    point = models_of_point(trained, 2)
    np.testing.assert_array_equal(point.params.W[:, 0], trained.params.W[:, 2])
    np.testing.assert_array_equal(point.W[:, :, 0], trained.W[:, :, 2])
    assert point.dimensionality().shape == (2, 2, 1, 5)
    assert point.dimensions().shape == (2, 2, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_steps": 0}, "n_steps 0 must be at least 1"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"seeds": 0}, "seeds 0 must be at least 1"),
        ({"seeds": np.array([0.5])}, "must be non-negative integers"),
    ],
)
def test_counts_out_of_range_are_refused(fields, message):
    with pytest.raises(ToysaeError, match=message):
        train_tms(SPEC, tms_hypers(SPEC, 0.1), **fields)


# What is learned


def test_three_regions_of_the_phase_diagram_of_two_features_in_one():
    spec = TMSSpec(2, 1)
    places = [  # density, importance of the extra feature, its norm and overlap there
        (0.9, 0.2, 0, 0), (0.6, 0.1, 0, 0), (0.9, 4.0, 1, 0), (0.6, 10.0, 1, 0),
        (0.05, 0.5, 1, 1), (0.05, 2.0, 1, 1),
    ]  # fmt: skip
    density, extra = np.array(places)[:, :2].T
    importance = np.stack([np.ones(6), extra], 1)
    hypers = tms_hypers(spec, density, importance, lr=5e-3, lr_decay=0.5)
    trained = train_tms(spec, hypers, 6, 1500, 256, 1, 4096)
    W, b = (trained.best(v).astype(float) for v in (trained.params.W, trained.params.b))
    for k, (p, i, norm, shared) in enumerate(places):
        exact = expected_loss(W[k], b[k], p, importance[k])[0]
        assert exact == pytest.approx(min(two_in_one(p, i).values()), rel=0.02)
        assert np.linalg.norm(W[k, :, 1]) == pytest.approx(norm, abs=0.12)
        assert norm == 0 or overlap(W[k].astype(np.float32))[1] == pytest.approx(shared, abs=0.12)


def test_features_that_exclude_each_other_become_an_antipodal_pair():
    spec = TMSSpec(2, 1, pairs="anticorrelated")
    hypers = tms_hypers(spec, [0.1, 0.45], lr=5e-3, lr_decay=0.5)
    trained = train_tms(spec, hypers, 5, 1000, 256, 1, 8192)
    for W in trained.best(trained.params.W):
        np.testing.assert_allclose(W[0] / W[0, 0], [1, -1], atol=0.03)
    np.testing.assert_allclose(trained.best(trained.dimensionality()[-1]), 0.5, atol=0.01)
    assert (trained.best(trained.loss) < 1e-3).all()  # nothing is ever lost


def test_a_linear_model_keeps_the_most_important_features():
    """Eckart and Young: sum_i I_i |row i of (1 - A)|^2 over rank m is least at the top m."""
    spec, density = TMSSpec(6, 3, "linear"), 0.3
    importance = importance_decay(6, 0.6)
    hypers = tms_hypers(spec, density, importance, lr=1e-2, lr_decay=0.5)
    trained = train_tms(spec, hypers, 1, 1500, 256, 1)
    W = trained.params.W[0, 0]
    np.testing.assert_allclose(W.T @ W, np.diag([1, 1, 1, 0, 0, 0]), atol=0.05)
    variance = density / 3 - density**2 / 4
    assert trained.loss[0, 0] == pytest.approx(variance * importance[3:].sum(), rel=0.03)


def test_correlated_pairs_are_written_at_right_angles():
    W = tms_preset("tms-6-3-pairs", n_steps=3000, n_snapshots=1).W
    cosine = W.T @ W / np.outer(*[np.linalg.norm(W, axis=0)] * 2)
    assert np.abs([cosine[i, i + 1] for i in (0, 2, 4)]).max() < 0.15
    assert (cosine.min(1) < -0.9).all()  # each antipodal to one of another pair


def test_five_features_in_two_dimensions_make_a_pentagon():
    model = tms_preset("arena-5-2", n_steps=3000, n_snapshots=2)
    np.testing.assert_allclose(model.trained.dimensionality()[-1, 0, 0], 2 / 5, atol=0.02)
    angles = np.sort(np.arctan2(*model.W))
    np.testing.assert_allclose(np.diff(angles), 2 * np.pi / 5, atol=0.1)


@pytest.mark.parametrize("name", TMS_PRESETS)
def test_every_preset_gives_a_world_matrix(name):
    model = tms_preset(name, seed=3, n_steps=3, density=0.25, n_snapshots=3)
    n, m = model.spec.n_features, model.spec.d_hidden
    assert model.W.shape == (m, n)
    assert model.importance[0] == 1
    np.testing.assert_array_equal(model.firing_probs, np.full(n, 0.25))
    found = model.directions()
    np.testing.assert_array_equal(found.rows, model.W.T[found.kept])
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1, rtol=1e-5)
    assert model.trained.steps.tolist() == [0, 1, 2, 3]
    assert TMS_PRESETS[name].source


def test_presets_refuse_what_they_do_not_know():
    with pytest.raises(ToysaeError, match="did you mean 'tms-5-2'"):
        tms_preset("tms-52")
    with pytest.raises(ToysaeError, match=r"density 2 must be in"):
        tms_preset("tms-5-2", density=2.0)
    with pytest.raises(ToysaeError, match=r"importance decay 0 must be in"):
        importance_decay(3, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(("density", "low", "high"), [(0.35, 0.48, 0.52), (0.2, 0.36, 0.415)])
def test_four_hundred_features_cluster_at_the_polytopes(density, low, high):
    """Antipodal pairs (1/2); pentagons and square antiprisms (2/5, 3/8)."""
    spec = TMSSpec(400, 30)
    hypers = tms_hypers(spec, density, lr=3e-3, lr_decay=0.3)
    trained = train_tms(spec, hypers, 1, 3000, 512, 1, 4096)
    share = trained.dimensionality()[-1, 0, 0]
    norms = np.linalg.norm(trained.W[-1, 0, 0], axis=0)
    held = share[norms > 0.5]
    assert ((held > low) & (held < high)).mean() > 0.9
    assert (norms[norms < 0.5] < 0.35).all()  # represented or not, with nothing between
