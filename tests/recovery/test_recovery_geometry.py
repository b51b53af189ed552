"""Geometry, mixing, ablation and ROC against float64 NumPy, scikit-learn and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from toysae import make_world, train
from toysae.errors import ToysaeError
from toysae.recovery.ablation import ablation, add_ablations, empty_ablations
from toysae.recovery.geometry import (
    basis_alignment,
    encoder_rows,
    frame_error,
    gains,
    pairwise_cosines,
)
from toysae.recovery.mixing import features_per_latent, hedging, shared
from toysae.recovery.roc import roc
from toysae.sae import SAE, make_spec
from toysae.sae.component import Weights
from toysae.sae.decoders import Free
from toysae.sae.penalties import Sum


def unit(rows):
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length == 0, 1, length)


def untied(W_dec, W_enc, b_enc=None, recipe="untied"):
    n, d = W_dec.shape
    spec = make_spec(recipe, d, n, decoder=Free("none"), penalty=Sum())
    bias = jnp.zeros(n) if b_enc is None else jnp.asarray(b_enc, jnp.float32)
    enc = {"W_enc": jnp.asarray(W_enc, jnp.float32), "b_enc": bias}
    weights = Weights(jnp.asarray(W_dec, jnp.float32), None, enc)
    return SAE(weights, {"progress": jnp.float32(1)}, {}, spec.at_inference())


@pytest.mark.parametrize(("n", "d"), [(5, 8), (8, 8), (1300, 8), (1, 3)])
def test_pairwise_cosines_and_frame_error_equal_numpy(n, d):
    rows = np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)
    if n > 2:
        rows[1], rows[2] = 0, -3 * rows[0]  # a dead row; an opposite
    got = jax.device_get(pairwise_cosines(jnp.asarray(rows)))
    size = np.abs(unit(np.float64(rows)) @ unit(np.float64(rows)).T)
    np.fill_diagonal(size, 0)
    if n == 1:
        assert all(np.isnan(v).all() for v in got.values())
    else:
        np.testing.assert_allclose(got["mean_abs_cos"], size.sum() / (n * (n - 1)), rtol=1e-5)
        np.testing.assert_allclose(got["max_abs_cos"], size.max(), rtol=1e-5)
    D, even = unit(np.float64(rows)), n / d * np.eye(d)
    wanted = np.linalg.norm(D.T @ D - even) / np.linalg.norm(even)
    np.testing.assert_allclose(frame_error(jnp.asarray(rows)), wanted, rtol=1e-4)
    np.testing.assert_allclose(basis_alignment(jnp.asarray(rows)), np.abs(D).max(1), rtol=1e-5)


def test_only_the_living_count():
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((7, 4)), jnp.float32)
    alive = np.array([1, 0, 1, 1, 0, 0, 1], bool)
    some = pairwise_cosines(rows, jnp.asarray(alive))
    for name, value in pairwise_cosines(rows[np.flatnonzero(alive)]).items():
        np.testing.assert_allclose(some[name], value, rtol=1e-5)
    np.testing.assert_allclose(
        frame_error(rows, jnp.asarray(alive)), frame_error(rows[np.flatnonzero(alive)]), rtol=1e-5
    )
    none = jnp.zeros(7, bool)
    assert np.isnan(frame_error(rows, none))
    assert all(np.isnan(v) for v in pairwise_cosines(rows, none.at[0].set(True)).values())


def test_frame_error_of_frames():
    np.testing.assert_allclose(frame_error(jnp.eye(4)), 0, atol=1e-6)
    np.testing.assert_allclose(
        frame_error(jnp.concatenate([jnp.eye(4), -jnp.eye(4)])), 0, atol=1e-6
    )
    np.testing.assert_allclose(frame_error(jnp.eye(4)[:1]), np.sqrt(4 / 1 - 1), rtol=1e-6)


def test_gains_of_an_untied_encoder_are_products_of_rows():
    rng = np.random.default_rng(0)
    W_dec, W_enc = rng.standard_normal((6, 4)), rng.standard_normal((4, 6))
    np.testing.assert_allclose(gains(untied(W_dec, W_enc)), (W_enc.T * W_dec).sum(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("tied-gain", np.e),
        ("mlp", np.nan),
        pytest.param("tied", 1.0, marks=pytest.mark.slow),
        pytest.param("fista", np.nan, marks=pytest.mark.slow),
    ],
)
def test_gains_read_what_each_encoder_reads(recipe, wanted):
    spec = make_spec(recipe, 4, 6)
    world = make_world("sphere", 0, d_in=4, n_features=6, l0=1.0)
    sae = train(world, spec, n_steps=1, l1_coeff=0.1, n_eval=8, curve_points=1, quiet=True).sae(0)
    if recipe == "tied-gain":
        sae.weights.enc["log_gain"] = jnp.ones(6)
    np.testing.assert_allclose(gains(sae), np.full(6, wanted), rtol=1e-5)
    assert (encoder_rows(sae) is None) == np.isnan(wanted)
    assert sae(jnp.zeros((1, 4))).z.shape == (1, 6)


def test_hedging_needs_both_encoder_and_decoder():
    f = np.eye(5)
    W_dec = unit(np.array([f[0] + 0.5 * f[1], f[2] + 0.5 * f[3], f[4], f[2] - 0.25 * f[0]]))
    enc = np.array([f[0] + 0.25 * f[1], f[2] - 0.5 * f[3], f[4] + f[0], f[2] - 0.25 * f[0]])
    best = jnp.array([0, 2, 4, 2], jnp.int32)
    value, feature = hedging(*(jnp.asarray(a, jnp.float32) for a in (f, W_dec, enc)), best)
    lone, less = 0.25 / np.hypot(1, 0.25), 0.25 / np.hypot(1, 0.25)
    np.testing.assert_allclose(value, [lone, 0, 0, less], atol=1e-6)
    assert feature[0] == 1 and feature[3] == 0


def test_a_perfect_dictionary_of_oblique_features_hedges_nothing():
    f = unit(np.random.default_rng(0).standard_normal((12, 5))).astype(np.float32)
    dual = unit(np.linalg.pinv(f).T).astype(np.float32)
    value, _ = hedging(*(jnp.asarray(a) for a in (f, f, dual)), jnp.arange(12, dtype=jnp.int32))
    np.testing.assert_allclose(value, 0, atol=1e-5)


def test_hedging_equals_numpy():
    rng = np.random.default_rng(1)
    f, dec, enc = (unit(rng.standard_normal((n, 4))) for n in (7, 9, 9))
    best = rng.integers(0, 7, 9)
    value, feature = hedging(*(jnp.asarray(a, jnp.float32) for a in (f, dec, enc)),
                             jnp.asarray(best, jnp.int32))  # fmt: skip
    for j, g in enumerate(best):
        reads_and_writes = np.minimum(f @ dec[j], f @ enc[j])
        g = reads_and_writes.argmax() if reads_and_writes.max() > 0 else g
        both = np.zeros(7)
        for h in set(range(7)) - {g}:
            e = [row @ f[h] - (row @ f[g]) * (f[g] @ f[h]) for row in (dec[j], enc[j])]
            both[h] = min(map(abs, e)) if e[0] * e[1] > 0 else 0
        np.testing.assert_allclose(value[j], both.max(), atol=1e-5)
        assert both.max() < 1e-4 or feature[j] == both.argmax()


@pytest.mark.parametrize("share", [0.3, 0.9, 1.1, 3.0])
def test_pure_absorption_is_not_hedging(share):
    """The child's latent writes the parent too, more of it than of the child in the end, and does
    not read it; the parent's latent reads the parent where the child is off."""
    f = jnp.eye(4)[:2]
    dec = jnp.stack([f[0], f[1] + share * f[0]])
    enc = jnp.stack([f[0] - share * f[1], f[1]])
    best = jnp.int32([0, 0 if share > 1 else 1])  # of the decoder rows
    value, _ = hedging(f, dec, enc, best)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    mixed = jnp.stack([f[0] + 0.5 * f[1], f[1]])
    value, feature = hedging(f, mixed, mixed, jnp.int32([0, 1]))
    assert value[0] > 0.4 and feature[0] == 1


def test_features_per_latent_counts_parts():
    f = unit(np.random.default_rng(0).standard_normal((20, 64))).astype(np.float32)
    rows = np.stack([3 * f[0], f[0] + f[1], f[:4].sum(0), f[0] + 0.5 * f[1], 0 * f[0]])
    got = np.asarray(features_per_latent(jnp.asarray(f), jnp.asarray(rows, jnp.float32)))
    np.testing.assert_allclose(got[:4], [1, 2, 4, 1.25**2 / (1 + 0.5**4)], rtol=1e-3)
    assert np.isnan(got[4])
    away = features_per_latent(jnp.eye(3)[:1], -jnp.eye(3)[:1])
    assert np.isnan(np.asarray(away)).all()


def test_splitting_and_merging_by_hand():
    features = pd.DataFrame(
        {"mcs": [0.9, 0.6, 0.6, 0.3], "best_latent": [0, 2, 2, 2],
         "recall": [1.0, 0.9, 0.8, 1.0], "freq": [0.1] * 4}
    )  # fmt: skip
    latents = pd.DataFrame(
        {"best_feature": [0, 0, 1, 0, 3], "cos": [0.9, 0.8, 0.6, 0.9, -0.9],
         "dead": [False, False, False, True, False]}
    )  # fmt: skip
    got = shared(features, latents)
    assert got["n_latents"].tolist() == [2, 0, 0, 0]
    assert got["merged"].tolist() == [0, 1, 1, 0]
    assert shared(features.assign(freq=np.nan, recall=np.nan), latents)["merged"].isna().all()


def test_ablation_has_the_closed_form_of_a_relu_latent():
    rng = np.random.default_rng(0)
    W_dec, W_enc = unit(rng.standard_normal((6, 8))), rng.standard_normal((8, 6)) * 0.7
    W_dec[0] = 0  # a zero row: taking it out changes nothing
    sae = untied(W_dec, W_enc)
    x = jnp.asarray(rng.standard_normal((4000, 8)), jnp.float32)
    seen, key = empty_ablations(6), jax.random.key(0)
    for i, part in enumerate(jnp.split(x, [1, 1500])):
        seen = add_ablations(seen, sae, jax.random.fold_in(key, i), part)
    table = ablation(seen)
    fires = (np.asarray(sae(x).z) != 0).any(1)
    assert table["n"].sum() == fires.sum() and (table["n"] > 400).all()
    wanted = np.maximum(0, 1 - (W_enc.T * W_dec).sum(1))
    np.testing.assert_allclose(table["residual"], wanted, atol=1e-5)
    assert table["interference"][0] == 0


def test_ablation_interference_equals_numpy_and_the_dead_are_nan():
    W_dec = np.array([[1.0, 0.0], [0.6, 0.8], [1.0, 1.0]])
    W_enc = np.array([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    sae = untied(W_dec, W_enc, b_enc=[0, 0, -1])
    x = jnp.asarray([[2.0, 0.0]] * 500)  # z = (2, 1, 0): taking out 0 also halves nothing else's
    table = ablation(add_ablations(empty_ablations(3), sae, jax.random.key(0), x))
    assert (table["n"][:2] > 150).all() and table["n"][2] == 0
    # Out with latent 0: x = 0, z_1 falls by 1 of length 1, against z_0 ||d_0|| = 2.
    # Out with latent 1: x_0 = 1.4, z_0 falls by .6, z_1 reads .7.
    np.testing.assert_allclose(table["interference"][:2], [0.5, 0.6], rtol=1e-5)
    np.testing.assert_allclose(table["residual"][:2], [0, 0.7], atol=1e-5)
    assert table.loc[2, ["residual", "interference"]].isna().all()


@pytest.mark.parametrize("seed", range(3))
def test_roc_equals_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 8, 200) / 8, rng.random(200) < 0.3
    frame, area = roc(scores, labels)
    np.testing.assert_allclose(area, roc_auc_score(labels, scores))
    false, true, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(frame["false_positives"], false)
    np.testing.assert_allclose(frame["true_positives"], true)
    np.testing.assert_allclose(frame["threshold"], thresholds)


def test_roc_of_nothing_is_nan_and_nan_is_left_out():
    assert np.isnan(roc([0.1, 0.2], [True, True])[1])
    assert np.isnan(roc([], [])[1])
    assert roc([0.1, np.nan, 0.3], [False, False, True])[1] == 1
    with pytest.raises(ToysaeError, match="2 scores and 1 labels"):
        roc([0.1, 0.2], [True])
