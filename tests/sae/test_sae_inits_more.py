"""Inits by classical methods, their rank and noise, and decoders that training may not move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import FastICA

from toysae import ToysaeError
from toysae.recovery import mcc
from toysae.sae import InitData, SAESpec, init_params, make_spec, resolve
from toysae.sae.classical import (
    fast_ica,
    k_means,
    principal_axes,
    sample_order,
    semi_nmf,
    spectral_directions,
)
from toysae.sae.encoders import FISTA, Gated, Tied, Untied
from toysae.sae.frozen import Frozen, SoftFrozen
from toysae.sae.inits import FromTruth, Kaiming, NoisedBasis, SvdData, SvdWeights
from toysae.sae.inits_data import DataSamples, Ica, KMeans, SemiNmf, Spectral
from toysae.sae.penalties import L1, GatedAux, Sum
from toysae.training.state import member_from, member_step

D, N = 8, 2000
H = {"enc_scale": 1.0, "init_noise": 0.1, "sample_share": 0.8, "truth_noise": 0.0, "l1_coeff": 0.1,
     "l1_warmup": 0.0, "lr": 0.05, "lr_warmup": 0.0, "lr_decay": 0.0, "beta1": 0.9,
     "beta2": 0.999}  # fmt: skip
H = {name: jnp.float32(value) for name, value in H.items()}
KEY = jax.random.key(3)
NEW = [Kaiming(), NoisedBasis(), DataSamples(), KMeans(), Ica(), SemiNmf(), Spectral()]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def sparse_data(directions, n=N, p=0.15, seed=0):
    rng = np.random.default_rng(seed)
    acts = rng.uniform(0.5, 1.5, (n, len(directions))) * (rng.random((n, len(directions))) < p)
    return jnp.asarray(acts @ directions, jnp.float32)


def rotation(d=D, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def init_data(x, truth=None):
    truth = jnp.asarray(rotation() if truth is None else truth, jnp.float32)
    return InitData(x, truth.T, truth)


@pytest.fixture(scope="module")
def data():
    return init_data(sparse_data(rotation()))


def rows_of(part, data, d_sae, **numbers):
    h = {**H, **{name: jnp.float32(v) for name, v in numbers.items()}}
    return np.asarray(part.directions(KEY, d_sae, data, h)[0], np.float64)


@pytest.mark.parametrize(
    ("part", "encoder"),
    [(part, Untied()) for part in NEW] + [(KMeans(), e) for e in (Tied(), Gated(), FISTA())],
    ids=repr,
)
def test_every_init_starts_every_encoder_in_an_ensemble(data, part, encoder):
    penalty = Sum((GatedAux(),)) if isinstance(encoder, Gated) else Sum()
    spec = SAESpec(D, 20, encoder=encoder, penalty=penalty, init=part)
    keys = jax.random.split(KEY, 2)
    params = jax.jit(jax.vmap(lambda key: init_params(spec, key, data, H)))(keys)
    assert params.W_dec.shape == (2, 20, D)
    np.testing.assert_allclose(np.linalg.norm(params.W_dec, axis=-1), 1, atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert np.abs(params.W_dec[0] - params.W_dec[1]).max() > 1e-3  # the key matters


def test_a_number_that_is_missing_is_named(data):
    for h in ({}, {k: v for k, v in H.items() if k != "enc_scale"}):
        with pytest.raises(ToysaeError, match="the numbers lack .*enc_scale"):
            init_params(SAESpec(D, 20), KEY, data, h)


@pytest.mark.parametrize("part", [Kaiming(), DataSamples(), KMeans()], ids=repr)
def test_the_encoder_scale_is_relative_to_the_first_rows(data, part):
    dec, enc = part.directions(KEY, 10, data, {**H, "enc_scale": jnp.float32(0.3)})
    np.testing.assert_allclose(enc, 0.3 * np.asarray(dec), atol=1e-6)


def test_kaiming_entries_have_variance_two_over_d_in(data):
    W = rows_of(Kaiming(), data, 4000)
    assert W.var() == pytest.approx(2 / D, rel=0.02)
    assert np.abs(W).max() <= np.sqrt(6 / D) and np.abs(W).max() > 0.99 * np.sqrt(6 / D)
    assert np.linalg.norm(W, axis=1).mean() == pytest.approx(np.sqrt(2), rel=0.03)


@pytest.mark.rotation(2)
@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("part", [NoisedBasis(), SvdData(), SvdWeights(), Ica()], ids=repr)
def test_the_noise_dial_turns_rows_by_its_arctangent(part, noise):
    d = 32  # noise is nearly orthogonal to the axis
    data = init_data(sparse_data(rotation(d), n=500, p=0.1), rotation(d))
    clean, noisy = rows_of(part, data, 2 * d, init_noise=0), rows_of(part, data, 2 * d,
                                                                     init_noise=noise)  # fmt: skip
    cos = (clean * noisy).sum(1)
    assert cos.mean() == pytest.approx(1 / np.sqrt(1 + noise**2), abs=0.03)
    np.testing.assert_allclose(clean[d:], -clean[:d], atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_the_truths_noise_dial_is_the_same(noise):
    truth = rotation(64)
    W = rows_of(FromTruth(), init_data(sparse_data(truth), truth), 64, truth_noise=noise)
    assert (W * truth).sum(1).mean() == pytest.approx(1 / np.sqrt(1 + noise**2), abs=0.02)


def test_noised_basis_is_the_signed_basis(data):
    W = rows_of(NoisedBasis(), data, 20, init_noise=0)
    np.testing.assert_array_equal(W[:16], np.concatenate([np.eye(D), -np.eye(D)]))
    np.testing.assert_array_equal(W[16:], np.eye(D)[:4])


@pytest.mark.parametrize("part", [SvdData(), SvdWeights(), Ica()], ids=repr)
def test_no_axis_beyond_the_rank_is_used(part):
    inside = rotation()[:3]  # three features in eight dimensions
    x = sparse_data(inside)
    W = rows_of(part, init_data(x, inside), 12, init_noise=0)
    np.testing.assert_allclose(np.linalg.norm(W @ inside.T, axis=1), 1, atol=1e-4)
    assert np.linalg.matrix_rank(W, tol=1e-3) == 3
    np.testing.assert_allclose(W[3:6], -W[:3], atol=1e-5)
    np.testing.assert_allclose(W[6:12], W[:6], atol=1e-5)


# Data samples


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_data_samples_mix_a_sample_and_noise(share):
    d = 64
    data = init_data(sparse_data(rotation(d), n=300), rotation(d))
    W = rows_of(DataSamples(), data, 200, sample_share=share)
    centred = unit(np.asarray(data.x, np.float64) - np.asarray(data.x, np.float64).mean(0))
    best = (W @ centred.T).max(1)
    if share == 1:
        np.testing.assert_allclose(best, 1, atol=1e-5)
        assert len(set((W @ centred.T).argmax(1))) == 200  # without replacement
    else:
        expected = share / np.hypot(share, 1 - share)
        assert best.mean() == pytest.approx(max(expected, 0.45), abs=0.1)


def test_zero_samples_come_last_and_samples_repeat_beyond_the_batch():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(10, 3)), jnp.float32)
    x = x.at[jnp.array([1, 4, 7])].set(0)
    order = np.asarray(sample_order(KEY, x, 23))
    assert sorted(order[:10]) == list(range(10)) and set(order[7:10]) == {1, 4, 7}
    np.testing.assert_array_equal(order[10:20], order[:10])


# The methods


def test_k_means_never_loses_cosine_and_equals_lloyd_in_numpy():
    x = sparse_data(rotation(), 400)
    found = [np.asarray(k_means(KEY, x, 12, t), np.float64) for t in range(6)]
    points = np.asarray(x, np.float64)
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30)
    value = [(points @ c.T).max(1).sum() for c in found]
    assert np.all(np.diff(value) >= -1e-4) and value[-1] > value[0] + 1
    nearest = (points @ found[2].T).argmax(1)
    sums = np.stack([points[nearest == j].sum(0) for j in range(12)])
    np.testing.assert_allclose(found[3], unit(sums), atol=1e-5)


def test_k_means_finds_separate_directions():
    truth = rotation()
    x = jnp.asarray(truth[np.arange(400) % D] * np.linspace(1, 3, 400)[:, None], jnp.float32)
    value = mcc(truth @ np.asarray(k_means(KEY, x, 24, 20)).T)
    assert value == pytest.approx(1, abs=1e-5)


def test_fast_ica_equals_sklearns_and_finds_independent_features():
    rng = np.random.default_rng(2)
    mixing = rng.normal(size=(5, 5)) @ np.diag([1, 2, 3, 1, 0.5])
    x = rng.exponential(size=(4000, 5)) @ mixing
    axes = principal_axes(jnp.asarray(x, jnp.float32))
    ours = fast_ica(KEY, jnp.asarray(x, jnp.float32), axes, 200)
    theirs = unit(FastICA(5, fun="logcosh", whiten="unit-variance", tol=1e-8, max_iter=1000,
                          random_state=0).fit(x).mixing_.T)  # fmt: skip
    assert int(axes.rank) == 5
    assert mcc(np.abs(np.asarray(ours) @ theirs.T)) > 0.9999
    # Turned towards their skew, an exponential source points its own way.
    assert mcc(np.asarray(ours) @ unit(mixing).T) > 0.98


def numpy_semi_nmf_error(x, D):
    """The residual of the best non-negative codes, by projected gradient in float64."""
    Z, L = np.zeros((len(x), len(D))), np.linalg.norm(D @ D.T, 2)
    for _ in range(500):
        Z = np.maximum(Z + (x - Z @ D) @ D.T / L, 0)
    return ((x - Z @ D) ** 2).sum() / (x**2).sum()


def test_semi_nmf_lowers_the_residual_and_finds_a_planted_dictionary():
    truth = rotation()
    truth[::2] *= -1  # mixed signs: plain NMF could not
    x = sparse_data(truth, 1000, p=0.2)
    x64 = np.asarray(x, np.float64)
    errors = [numpy_semi_nmf_error(x64, np.asarray(semi_nmf(KEY, x, D, t), np.float64))
              for t in (0, 5, 100)]  # fmt: skip
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02
    # Some starts end in a local minimum. From 1,000 samples the median itself is .90.
    more = sparse_data(truth, 4000, p=0.2)
    keys = [jax.random.key(seed) for seed in range(8)]
    found = [mcc(truth @ np.asarray(semi_nmf(key, more, D, 100)).T) for key in keys]
    by_chance = [mcc(truth @ unit(np.asarray(jax.random.normal(key, (D, D)))).T) for key in keys]
    assert np.median(found) > 0.9 and max(found) > 0.97 and max(by_chance) < 0.75


def test_spectral_directions_are_eigenvectors_and_find_features():
    truth = rotation(16)
    x = sparse_data(truth, 4000, p=0.08)
    W = np.asarray(spectral_directions(KEY, x, 16, 16), np.float64)
    np.testing.assert_allclose(np.linalg.norm(W, axis=1), 1, atol=1e-5)
    value = mcc(truth @ W.T)
    assert value > 0.95
    # One pair, by eigh in float64 over every pair there is.
    few = x[:40]
    alone = np.asarray(spectral_directions(KEY, few, 1, 1, n_iterations=300), np.float64)[0]
    centred = np.asarray(few, np.float64)
    centred = centred - centred.mean(0)
    gram = centred @ centred.T
    tops = []
    for u in range(40):
        for v in range(40):
            values, vectors = np.linalg.eigh(centred.T @ ((gram[u] * gram[v])[:, None] * centred))
            tops.append(abs(vectors[:, np.abs(values).argmax()] @ alone))
    assert max(tops) > 1 - 1e-4


@pytest.mark.slow
def test_informed_inits_start_nearer_the_truth_than_chance():
    truth = rotation(16)
    data = init_data(sparse_data(truth, 4000, p=0.06), truth)
    random = mcc(truth @ rows_of(FromTruth(), data, 16, truth_noise=1e6).T)
    for part in (DataSamples(), KMeans(), Ica(), SemiNmf(), Spectral()):
        assert mcc(truth @ rows_of(part, data, 16).T) > random + 0.15, part


# Frozen decoders


def steps(spec, data, n=25):
    member = member_from(spec, init_params(spec, KEY, data, H), H)
    first = resolve(spec, member.params)
    step = jax.jit(lambda m, i: member_step(spec, m, H, jax.random.fold_in(KEY, i), data.x[:256],
                                            jnp.float32(0.5))[0])  # fmt: skip
    path = [first]
    for i in range(n):
        member = step(member, i)
        path.append(resolve(spec, member.params))
    return path


def test_a_frozen_decoder_stays_bit_for_bit_while_the_encoder_learns(data):
    path = steps(SAESpec(D, 12, decoder=Frozen(), penalty=Sum((L1(),))), data)
    np.testing.assert_array_equal(path[0].W_dec, path[-1].W_dec)
    assert np.abs(path[0].enc["W_enc"] - path[-1].enc["W_enc"]).max() > 0.1
    assert np.abs(path[0].b_dec - path[-1].b_dec).max() > 0.01


@pytest.mark.parametrize("min_cos", [0.8, 0.99])
def test_a_soft_frozen_decoder_moves_onto_its_cone_and_no_further(data, min_cos):
    path = steps(SAESpec(D, 12, decoder=SoftFrozen(min_cos=min_cos), penalty=Sum((L1(),))), data)
    first = np.asarray(path[0].W_dec, np.float64)
    cos = np.stack([(np.asarray(w.W_dec, np.float64) * first).sum(1) for w in path])
    assert path[-1].W_dec.shape == (12, D)
    np.testing.assert_allclose([np.linalg.norm(w.W_dec, axis=1) for w in path], 1, atol=1e-5)
    assert cos.min() > min_cos - 1e-5
    assert cos[-1].min() < min_cos + 1e-4  # lr 0.05: some row has reached the edge


def test_soft_frozen_clips_in_the_plane_of_row_and_start():
    anchor, row = np.array([[1.0, 0, 0]]), np.array([[0.0, 3, 4]])
    W = np.asarray(SoftFrozen(min_cos=0.6).retract(jnp.asarray(np.concatenate([row, anchor]))))
    np.testing.assert_allclose(W, [[0.6, 0.48, 0.64], [1, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("min_cos", [-1.5, 1.01])
def test_a_cosine_out_of_range_is_refused(min_cos):
    with pytest.raises(ToysaeError, match=f"SoftFrozen.*min_cos {min_cos:g} must be in"):
        make_spec("untied", D, 12, decoder=SoftFrozen(min_cos=min_cos))
