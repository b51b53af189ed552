from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.recovery import add_batch, empty_totals, summarise

add, scores_of = jax.jit(add_batch), jax.jit(summarise)


def _data(n=500, d_in=6, d_sae=9, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d_in)) + 3
    x[::50] = 0
    x_hat = 0.8 * x + 0.1 * rng.standard_normal((n, d_in))
    z = rng.random((n, d_sae)) * (rng.random((n, d_sae)) < 0.3)
    z[:, 2] = 0
    z[:, 4] = 0
    z[3, 4] = -1e-6  # fires once, below zero
    return x, x_hat, z


def _oracle(x, x_hat, z):
    mse = ((x - x_hat) ** 2).sum(1).mean()
    variance = (x**2).sum(1).mean() - (x.mean(0) ** 2).sum()
    some = (x != 0).any(1)
    norms = np.linalg.norm(x_hat[some], axis=1) / np.linalg.norm(x[some], axis=1)
    firing_freq = (z != 0).mean(0)
    return {
        "l0": (z != 0).sum(1).mean(),
        "ev": 1 - mse / variance,
        "fvu": mse / variance,
        "mse": mse,
        "shrinkage": norms.mean(),
        "reconstruction_bias": (x_hat**2).sum() / (x * x_hat).sum(),
        "dead_latents": (firing_freq == 0).sum(),
        "dead_fraction": (firing_freq == 0).mean(),
        "firing_freq": firing_freq,
    }


def _stream(x, x_hat, z, cuts):
    totals = empty_totals(x.shape[1], z.shape[1])
    edges = [0, *cuts, len(x)]
    for i, j in pairwise(edges):
        totals = add(totals, *(jnp.float32(a[i:j]) for a in (x, x_hat, z)))
    return scores_of(totals)


@pytest.mark.parametrize("cuts", [[], [1], [100, 101, 400]])
def test_any_batching_equals_the_float64_oracle(cuts):
    data = _data()
    got, expected = _stream(*data, cuts), _oracle(*data)
    assert got.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=2e-6, err_msg=name)
    assert got["dead_latents"] == 1 and got["dead_latents"].dtype == jnp.int32


def test_a_million_samples_with_a_large_mean_stay_accurate():
    # One fixed batch 4000 times over: the scores are the batch's own, known in float64.
    x, x_hat, z = _data(n=256)
    x[::50] = 1.0
    x, x_hat = (np.float32(a + 300) for a in (x, x_hat))
    expected = _oracle(np.float64(x), np.float64(x_hat), z)
    batch = tuple(map(jnp.float32, (x, x_hat, z)))

    @jax.jit
    def run(totals):
        return jax.lax.fori_loop(0, 4000, lambda _, t: add_batch(t, *batch), totals)

    totals = run(empty_totals(6, 9))
    got = summarise(totals)
    assert totals.n_samples == 1_024_000
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=2e-5, err_msg=name)


def test_drifting_batches_stay_accurate():
    rng = np.random.default_rng(0)
    x = np.float32(rng.standard_normal((4096, 4)) * 0.3 + np.linspace(0, 5, 4096)[:, None])
    expected = _oracle(np.float64(x), np.float64(x * 0.5), np.float64(x))

    def step(totals, batch):
        return add_batch(totals, batch, batch * 0.5, batch), None

    totals, _ = jax.lax.scan(step, empty_totals(4, 4), jnp.asarray(x).reshape(1024, 4, 4))
    np.testing.assert_allclose(summarise(totals)["ev"], expected["ev"], rtol=1e-5)


def test_vmap_over_members_equals_one_by_one():
    x, x_hat, z = map(jnp.float32, _data())
    x_hats = jnp.stack([x_hat, 0.5 * x_hat])
    empty = jax.vmap(lambda _: empty_totals(6, 9))(jnp.arange(2))
    zs = jnp.stack([z, 0 * z])
    totals = jax.jit(jax.vmap(add_batch, (0, None, 0, 0)))(empty, x, x_hats, zs)
    together = jax.jit(jax.vmap(summarise))(totals)
    for i in range(2):
        single = scores_of(add(empty_totals(6, 9), x, x_hats[i], zs[i]))
        for name in single:
            np.testing.assert_allclose(together[name][i], single[name], rtol=1e-6, err_msg=name)
    assert together["dead_latents"].tolist() == [1, 9]


def test_nothing_added_and_nan_are_not_hidden():
    x, x_hat, z = map(jnp.float32, _data())
    for totals in (
        empty_totals(6, 9),
        add(empty_totals(6, 9), x, x_hat.at[0, 0].set(jnp.nan), z),
    ):
        got = scores_of(totals)
        assert all(np.isnan(v).all() for k, v in got.items() if k != "dead_latents")
    with pytest.raises(ToysaeError, match="no rows"):
        add_batch(empty_totals(6, 9), x[:0], x_hat[:0], z[:0])


def test_perfect_and_mean_reconstruction():
    x, _, z = map(jnp.float32, _data())
    assert scores_of(add(empty_totals(6, 9), x, x, z))["ev"] == 1
    mean = jnp.broadcast_to(x.mean(0), x.shape)
    np.testing.assert_allclose(scores_of(add(empty_totals(6, 9), x, mean, z))["ev"], 0, atol=1e-6)


def test_reconstruction_bias_is_the_best_rescaling():
    rng = np.random.default_rng(0)
    x = np.float32(rng.standard_normal((300, 5)) + 1)
    x_hat = np.float32(0.6 * x + 0.1 * rng.standard_normal((300, 5)))
    totals = empty_totals(5, 3)
    for part in (slice(0, 7), slice(7, 300)):
        z = jnp.ones((len(x[part]), 3))
        totals = add_batch(totals, *(jnp.asarray(a[part]) for a in (x, x_hat)), z)
    a, b = np.float64(x), np.float64(x_hat)
    factor = np.linalg.lstsq(b.ravel()[:, None], a.ravel(), rcond=None)[0][0]
    np.testing.assert_allclose(summarise(totals)["reconstruction_bias"], 1 / factor, rtol=1e-5)
    assert np.isnan(summarise(empty_totals(5, 3))["reconstruction_bias"])
