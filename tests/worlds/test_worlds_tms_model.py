"""The toy models' loss and gradient against float64 NumPy; their data against its law."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from toysae.errors import ToysaeError
from toysae.worlds.tms import FEATURE_KINDS, TMSSpec, tms_hypers
from toysae.worlds.tms.model import draw_uniforms, features_at, hidden, init_tms_params, loss

N, M = 6, 3


def reference(kind, W, W_out, b, x, importance):
    """The loss in float64, sample by sample."""
    total = 0.0
    for one in x:
        h = W @ one
        if kind in ("relu-hidden", "absolute-value"):
            h = np.maximum(h, 0)
        y = W_out.T @ h + b
        if kind != "linear":
            y = np.maximum(y, 0)
        target = np.abs(one) if kind == "absolute-value" else one
        total += (importance * (target - y) ** 2).sum()
    return total / len(x)


@pytest.mark.parametrize("kind", FEATURE_KINDS)
def test_loss_and_gradient(kind):
    spec = TMSSpec(N, M, kind)
    params = init_tms_params(spec, jax.random.key(1))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda v: v + 0.2 * rng.normal(size=v.shape), params)
    params = jax.tree.map(lambda v: v.astype(jnp.float32), params)
    x = features_at(spec, draw_uniforms(spec, jax.random.key(2), 50), jnp.float32(0.6))
    importance = 0.8 ** np.arange(N)
    parts = [np.asarray(v, np.float64) for v in jax.tree.leaves(params)]
    shapes = [v.shape for v in parts]
    two_sided = kind == "absolute-value"
    assert len(parts) == (3 if two_sided else 2)

    def at(flat):
        cut = np.split(flat, np.cumsum([np.prod(s) for s in shapes])[:-1])
        values = [c.reshape(s) for c, s in zip(cut, shapes, strict=True)]
        W, W_out, b = values if two_sided else (values[0], values[0], values[1])
        return reference(kind, W, W_out, b, np.asarray(x, np.float64), importance)

    flat = np.concatenate([v.ravel() for v in parts])
    value, gradient = jax.value_and_grad(partial(loss, spec))(params, x, jnp.float32(importance))
    assert value == pytest.approx(at(flat), rel=1e-5)
    slopes = [(at(flat + push) - at(flat - push)) / 2e-6 for push in 1e-6 * np.eye(len(flat))]
    got = np.concatenate([np.asarray(v).ravel() for v in jax.tree.leaves(gradient)])
    np.testing.assert_allclose(got, slopes, atol=2e-5)


def test_the_hidden_layer_is_what_a_world_has_to_write():
    spec = TMSSpec(N, M)
    params = init_tms_params(spec, jax.random.key(0))
    f = np.eye(N, dtype=np.float32)
    np.testing.assert_allclose(hidden(spec, params, jnp.asarray(f)), params.W.T, atol=1e-6)
    rectified = hidden(TMSSpec(N, M, "relu-hidden"), params, jnp.asarray(f))
    np.testing.assert_allclose(rectified, np.maximum(params.W.T, 0), atol=1e-6)


# Data


def data(spec, density, n=60_000):
    x = features_at(spec, draw_uniforms(spec, jax.random.key(3), n), jnp.float32(density))
    return np.asarray(x, np.float64)


def assert_count(observed, n, p):
    """A two-sided binomial test that a right sampler fails once in 10,000 seeds."""
    assert stats.binomtest(int(observed), n, p).pvalue > 1e-4


@pytest.mark.parametrize("density", [0.05, 0.4, 1.0])
def test_independent_features(density):
    x = data(TMSSpec(4, 2), density)
    on = x > 0
    for i in range(4):
        assert_count(on[:, i].sum(), len(x), density)
        assert stats.kstest(x[on[:, i], i], "uniform").pvalue > 1e-4
    assert_count((on[:, 0] & on[:, 3]).sum(), len(x), density**2)


def test_correlated_features_are_on_together():
    x = data(TMSSpec(4, 2, pairs="correlated"), 0.3)
    on = x > 0
    np.testing.assert_array_equal(on[:, ::2], on[:, 1::2])
    assert_count(on[:, 0].sum(), len(x), 0.3)
    assert_count((on[:, 1] & on[:, 2]).sum(), len(x), 0.09)
    both = x[on[:, 0]]
    assert stats.kstest(both[:, 1], "uniform").pvalue > 1e-4
    assert stats.pearsonr(both[:, 0], both[:, 1]).pvalue > 1e-4


@pytest.mark.parametrize("density", [0.2, 0.5])
def test_anticorrelated_features_are_never_on_together(density):
    x = data(TMSSpec(4, 2, pairs="anticorrelated"), density)
    on = x > 0
    assert not (on[:, ::2] & on[:, 1::2]).any()
    for i in range(4):
        assert_count(on[:, i].sum(), len(x), density)
        assert stats.kstest(x[on[:, i], i], "uniform").pvalue > 1e-4
    assert_count((on[:, 0] & on[:, 3]).sum(), len(x), density**2)


def test_the_absolute_value_model_sees_both_signs():
    x = data(TMSSpec(4, 2, "absolute-value"), 0.3)
    on = x != 0
    assert_count(on[:, 0].sum(), len(x), 0.3)
    assert stats.kstest(x[on[:, 0], 0], stats.uniform(-1, 2).cdf).pvalue > 1e-4


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "relu-outptu"}, "did you mean 'relu-output'"),
        ({"pairs": "antcorrelated"}, "unknown pairing of features 'antcorrelated'"),
        ({"d_hidden": 0}, "d_hidden 0 must be a positive integer"),
        ({"n_features": -2}, "n_features -2 must be a positive integer"),
        ({"n_features": 5, "pairs": "correlated"}, "n_features 5 must be even"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ToysaeError, match=message):
        TMSSpec(**{"n_features": 4, "d_hidden": 2, **fields})


@pytest.mark.parametrize(
    ("numbers", "pairs", "message"),
    [
        ({"density": 0.0}, "none", r"density 0 must be in \(0, 1\]"),
        ({"density": [0.1, 1.5]}, "none", r"density 1.5 must be in \(0, 1\]"),
        ({"density": np.nan}, "none", "density nan must be in"),
        ({"density": 0.6}, "anticorrelated", r"density 0.6 must be in \(0, 0.5\] for anticorr"),
        ({"density": 0.1, "importance": -1.0}, "none", "importance -1 must be >= 0"),
        ({"density": 0.1, "importance": [1.0, 2.0, 3.0]}, "none", r"\(3,\) does not fit 4 feat"),
        ({"density": [0.1, 0.2], "lr": [1e-3] * 3}, "none", r"density of shape \(2,\) does not"),
        ({"density": 0.1, "lr": 0.0}, "none", "lr 0 must be more than 0"),
        ({"density": 0.1, "lr_decay": 1.5}, "none", r"lr_decay 1.5 must be in \[0, 1\]"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, pairs, message):
    with pytest.raises(ToysaeError, match=message):
        tms_hypers(TMSSpec(4, 2, pairs=pairs), **numbers)
