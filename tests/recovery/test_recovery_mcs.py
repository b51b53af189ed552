import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.recovery import (
    cosines,
    enc_dec_cosines,
    fraction_above,
    mcs,
    mcs_latents,
    mmcs,
    mmcs_abs,
    mmcs_latents,
    polarisation,
)
from toysae.recovery.mcs import EDGES, histogram


def _random(n_features=7, d_sae=5, d_in=6, seed=0):
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((n_features, d_in)), 0.1 * rng.standard_normal((d_sae, d_in))


def _oracle(directions, W_dec):
    cos = np.empty((len(directions), len(W_dec)))
    for g, f in enumerate(directions):
        for j, d in enumerate(W_dec):
            cos[g, j] = f @ d / np.sqrt((f @ f) * (d @ d))
    return cos


def test_every_score_equals_the_float64_oracle():
    f, w = _random()
    cos = _oracle(f, w)
    f32, w32 = jnp.float32(f), jnp.float32(w)
    close = dict(rtol=0, atol=2e-6)
    np.testing.assert_allclose(cosines(f32, w32), cos, **close)
    np.testing.assert_allclose(mcs(f32, w32), cos.max(1), **close)
    np.testing.assert_allclose(mcs_latents(f32, w32), cos.max(0), **close)
    np.testing.assert_allclose(mmcs(f32, w32), cos.max(1).mean(), **close)
    np.testing.assert_allclose(mmcs_latents(f32, w32), cos.max(0).mean(), **close)
    np.testing.assert_allclose(mmcs_abs(f32, w32), np.abs(cos).max(1).mean(), **close)


def test_antipodal_features_half_found_are_half_recovered_only_when_signed():
    eye = jnp.eye(2)
    directions = jnp.concatenate([eye, -eye])
    W_dec = jnp.concatenate([eye, eye])  # each positive one found twice, no negative one
    np.testing.assert_allclose(mmcs(directions, W_dec), 0.5)
    np.testing.assert_allclose(mmcs_abs(directions, W_dec), 1.0)


def test_zero_rows_are_zero_and_nan_rows_stay_nan():
    directions = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    W_dec = jnp.array([[2.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(cosines(directions, W_dec), [[1, 0], [0, 0]])
    W_dec = W_dec.at[1, 0].set(jnp.nan)
    assert np.isnan(mmcs(directions, W_dec)) and np.isnan(mmcs_abs(directions, W_dec))
    np.testing.assert_array_equal(np.isnan(mcs_latents(directions, W_dec)), [False, True])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_row_length_does_not_matter(scale):
    f, w = map(jnp.float32, _random())
    np.testing.assert_allclose(cosines(f, w * scale), cosines(f, w), atol=1e-6)


def test_vmap_over_members_equals_one_by_one():
    f, _ = _random()
    members = jnp.float32(np.stack([_random(seed=s)[1] for s in range(3)]))
    together = jax.jit(jax.vmap(mcs, in_axes=(None, 0)))(jnp.float32(f), members)
    single = np.stack([mcs(jnp.float32(f), w) for w in members])
    np.testing.assert_allclose(together, single, atol=1e-6)


def test_fraction_above_is_strict_and_shows_nan():
    scores = jnp.array([[0.5, 0.9, 0.95, 1.0], [0.5, jnp.nan, 1.0, 1.0]])
    np.testing.assert_array_equal(fraction_above(scores, 0.9), [0.5, np.nan])


def test_enc_dec_cosines_are_of_matching_columns_and_rows():
    W_enc = jnp.array([[2.0, 0.0, -3.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    W_dec = jnp.array([[5.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    got = enc_dec_cosines(W_enc, W_dec)
    np.testing.assert_allclose(got, [1, 0.5**0.5, -1, 0], atol=1e-6)
    assert np.isnan(enc_dec_cosines(W_enc, W_dec.at[0, 0].set(jnp.nan))[0])


def test_polarisation_of_the_two_kinds_of_a_middling_mean():
    some_fully = jnp.array([1.0] * 6 + [0.2] * 4)
    all_partly = jnp.full(10, float(some_fully.mean()))
    between = jnp.linspace(0.2, 1, 10)
    got = np.asarray(polarisation(jnp.stack([some_fully, all_partly]), 0.2))
    np.testing.assert_allclose(got, [1, 0], atol=1e-5)
    m, v = np.mean(between), np.var(between)
    np.testing.assert_allclose(polarisation(between, 0.2), v / ((m - 0.2) * (1 - m)), rtol=1e-5)
    assert np.isnan(polarisation(jnp.full(4, 0.1), 0.2)) and np.isnan(
        polarisation(jnp.ones(4), 0.2)
    )


def test_the_histogram_is_numpys_and_leaves_out_nan():
    scores = np.float32([-0.3, 0.0, 0.4999, 0.5001, 0.9001, 0.9001, 0.99, 1.0, 1.0])
    counts = np.asarray(histogram(jnp.append(scores, jnp.nan)))
    expected, _ = np.histogram(scores.clip(0, 1), EDGES)
    np.testing.assert_array_equal(counts, expected)
    assert counts[[0, 36, 39]].tolist() == [2, 2, 3] and counts.sum() == len(scores)
