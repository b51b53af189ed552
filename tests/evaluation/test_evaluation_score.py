"""One SAE's scores: against NumPy on the very sample, and what cannot be measured."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from toysae import ToysaeError, make_world, train
from toysae.evaluation.score import score_sae
from toysae.keys import named_key, seed_key
from toysae.recovery.baselines import Dictionary
from toysae.sae import decoder_rows
from toysae.worlds import assemble, sample

N = 4096


@pytest.fixture(scope="module")
def world():
    return make_world("sphere", 0, d_in=6, n_features=10, l0=1.5)


@pytest.fixture(scope="module")
def sae(world):
    return train(world, "untied", d_sae=8, l1_coeff=0.2, n_steps=200, batch_size=128,
                 lr=1e-2, curve_points=2, quiet=True).sae(0)  # fmt: skip


def evaluation_sample(world, seed):
    key = named_key(seed_key(seed, "data"), "evaluation")
    batches = [sample(world, jax.random.fold_in(key, i), 1024) for i in range(N // 1024)]
    return (np.concatenate([getattr(b, name) for b in batches]) for name in ("x", "feature_acts"))


def test_records_and_row_are_of_the_evaluation_sample(world, sae):
    scored = score_sae(sae, world, N, seed=4)
    x, acts = evaluation_sample(world, 4)
    z, row = np.asarray(sae.encode(jnp.asarray(x))), scored.table.iloc[0]
    features, latents = scored.records.features, scored.records.latents
    cos = np.asarray(world.directions) @ np.asarray(sae.W_dec).T
    best = cos.argmax(1)
    np.testing.assert_array_equal(features["best_latent"], best)
    expected = [f1_score(acts[:, g] != 0, z[:, j] != 0) for g, j in enumerate(best)]
    np.testing.assert_allclose(features["f1"], expected, atol=2e-3)  # a z within rounding of 0
    expected = [roc_auc_score(acts[:, g] != 0, z[:, j]) for g, j in enumerate(best)]
    assert (np.abs(features["auroc"] - expected) <= features["auroc_error"] + 1e-4).all()
    np.testing.assert_allclose(features["freq"], (acts != 0).mean(0), atol=1e-7)
    np.testing.assert_allclose(latents["freq"], (z != 0).mean(0), atol=1e-3)
    W_enc = np.asarray(sae.weights.enc["W_enc"])
    enc_dec = (W_enc.T * sae.W_dec).sum(1) / np.linalg.norm(W_enc, axis=0)
    np.testing.assert_allclose(latents["enc_dec_cos"], enc_dec, atol=1e-5)
    # The row is what its records add up to.
    assert row["mmcs"] == pytest.approx(features["mcs"].mean())
    assert row["f1"] == pytest.approx(features["f1"].mean())
    assert row["saelens_f1"] == pytest.approx(latents["f1"].fillna(0).mean())
    assert row["dead_latents"] == row["saelens_dead_latents"] == latents["dead"].sum()
    assert row["saelens_explained_variance"] == pytest.approx(row["ev"], abs=1e-6)
    assert row["true_l0"] == pytest.approx(features["freq"].sum(), rel=1e-6)


def test_the_truth_detects_itself():
    world = make_world("orthogonal", 0, d_in=6, n_features=6, l0=1.5)
    truth = Dictionary(world.directions, None, "truth").sae(0.01)
    row = score_sae(truth, world, N).table.iloc[0]
    for name in ("precision", "recall", "auroc", "slope", "r2", "saelens_f1"):
        assert row[name] == pytest.approx(1, abs=0.02), name
    assert np.isnan(row["enc_dec_cos_alive"])  # FISTA has no encoder direction


def test_json_has_the_row_and_one_list_a_column(world, sae):
    scored = score_sae(sae, world, 1024)
    read = json.loads(scored.to_json())
    assert read["n_eval"] == 1024 and read["mmcs"] == scored.table["mmcs"][0]
    for name in ("features", "latents", "pairs"):
        frame = scored.pairs if name == "pairs" else getattr(scored.records, name)
        assert list(read[name]) == list(frame)
        for column, values in read[name].items():
            expected = frame[column].to_numpy(float)
            assert (np.isnan(expected) == [v is None for v in values]).all(), column
            np.testing.assert_allclose(np.array(values, float), expected, rtol=1e-6)
    assert read["features"]["partner"].count(-1) == 2  # ten features, eight latents
    assert read["features"]["partner_cos"].count(None) == 2


def test_a_meta_sae_has_no_detection(world, sae):
    scored = score_sae(sae, decoder_rows(sae, world.directions), 1024)
    row = scored.table.iloc[0]
    assert len(scored.records.features) == 10 and row["mmcs"] > 0
    for name in ("f1", "auroc", "f1_latents_alive", "saelens_f1", "unseen_features"):
        assert np.isnan(row[name]), name
    assert row["saelens_mcc"] > 0 and row["true_l0"] == 1


def test_the_tail_of_a_small_sample_is_warned_of(sae):
    directions = np.random.default_rng(0).standard_normal((2000, 6))
    firing = np.full(2000, 1e-3)
    firing[[3, 1999]] = 0
    with pytest.warns(UserWarning, match=r"1,024 samples for 2,000 features.* of them never fired"):
        scored = score_sae(sae, assemble(directions, firing), 1000)
    never = np.flatnonzero(scored.records.features["freq"] == 0)
    assert {3, 1999} <= set(never) and scored.table["unseen_features"][0] == len(never) < 1500


def test_parameters_with_nan_are_refused(world, sae):
    weights = sae.weights
    broken = weights.replace(enc={**weights.enc, "b_enc": weights.enc["b_enc"].at[0].set(jnp.nan)})
    with pytest.raises(ToysaeError, match="b_enc.* has NaN: the SAE diverged"):
        score_sae(sae.replace(weights=broken), world, 1024)
    broken = weights.replace(W_dec=weights.W_dec.at[0, 0].set(jnp.inf))
    with pytest.raises(ToysaeError, match="W_dec is not finite"):
        score_sae(sae.replace(weights=broken), world, 1024)
