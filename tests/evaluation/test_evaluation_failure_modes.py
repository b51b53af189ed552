"""Failure modes of trained SAEs in the worlds that are known to bring them about."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import make_world, train
from toysae.evaluation.score import score_sae
from toysae.keys import named_key, seed_key
from toysae.sae import decoder_rows
from toysae.sae.component import Weights
from toysae.worlds import assemble, sample

TRAINING = {"n_steps": 3000, "lr": 1e-2, "lr_decay": 0.3, "curve_points": 2, "quiet": True}


@pytest.fixture(scope="module")
def absorbed():
    world = make_world("absorption", 0, d_in=8, magnitude_sd=0.1)
    return world, train(world, "untied", l1_coeff=0.02, n_eval=1024, **TRAINING).sae(0)


def test_an_untied_sae_absorbs_the_parent_partly(absorbed):
    """Published for magnitudes of sd .1: child 1.27, parent .22 where both are on, so .78."""
    scored = score_sae(absorbed[1], absorbed[0], 16_384)
    row, pair = scored.table.iloc[0], scored.pairs.iloc[0]
    assert (pair["parent"], pair["child"]) == (0, 1) and row["hierarchy_pairs"] == 1
    assert 0.7 < pair["share"] < 0.9 and row["mostly_absorbed_pairs"] == 1
    assert pair["rate"] < 0.5  # it still fires, weakly: the rate alone would not tell
    child = scored.records.latents.loc[int(pair["child_latent"])]
    assert 1.8 < child["features_per_latent"] < 2.1 and child["hedging"] < 0.1
    latent = np.asarray(absorbed[1].W_dec)[int(pair["child_latent"])]
    np.testing.assert_allclose(latent @ np.asarray(absorbed[0].directions[0]), 0.62, atol=0.05)


def test_pairs_and_repair_are_of_the_evaluation_sample(absorbed):
    """A bias shifts the parent's latent until it falls silent where it was only weak."""
    world, sae = absorbed
    parent = score_sae(sae, world, 4096).pairs["parent_latent"].iloc[0]
    enc = {**sae.weights.enc, "b_enc": sae.weights.enc["b_enc"].at[parent].add(-0.25)}
    sae = sae.replace(weights=sae.weights.replace(enc=enc))
    scored = score_sae(sae, world, 4096, seed=2)
    key = named_key(seed_key(2, "data"), "evaluation")
    batches = [sample(world, jax.random.fold_in(key, i), 1024) for i in range(4)]
    on = np.concatenate([b.feature_acts for b in batches]) != 0
    fires = np.concatenate([sae.encode(b.x) for b in batches]) != 0
    row, pair = scored.table.iloc[0], scored.pairs.iloc[0]
    own, child = fires[:, int(pair["parent_latent"])], fires[:, int(pair["child_latent"])]
    both, alone = on[:, 0] & on[:, 1], on[:, 0] & ~on[:, 1]
    rate = (~own & child)[both].mean() - (~own)[alone].mean()
    assert rate > 0.5
    np.testing.assert_allclose(pair["rate"], rate, atol=2e-3)
    np.testing.assert_allclose(row["parent_recall"], own[on[:, 0]].mean(), atol=2e-3)
    repaired = (own | child)[on[:, 0]].mean()
    np.testing.assert_allclose(row["parent_recall_repaired"], repaired, atol=2e-3)
    assert repaired > row["parent_recall"] + 0.1


@pytest.mark.slow
def test_one_latent_hedges_where_the_features_correlate_and_not_where_they_are_independent():
    rows = {}
    for independent in (False, True):
        world = make_world("hedging", 0, d_in=8, independent_child=independent)
        sae = train(world, "untied", d_sae=1, l1_coeff=0.003, n_eval=1024, **TRAINING).sae(0)
        rows[independent] = score_sae(sae, world, 8192).table.iloc[0]
    assert rows[False]["hedging"] > 0.1 and rows[False]["features_per_latent"] > 1.02
    assert rows[True]["hedging"] < 0.03 and rows[True]["features_per_latent"] < 1.02


def test_the_scores_of_a_tied_perfect_sae():
    world = make_world("orthogonal", 0, d_in=6, n_features=6, l0=1.5)
    sae = train(world, "tied", d_sae=8, l1_coeff=0.0, init="random", n_eval=64,
                **TRAINING | {"n_steps": 1}).sae(0)  # fmt: skip
    W_dec = jnp.concatenate([world.directions, world.directions[:1], world.directions[:1]])
    bias = jnp.full(8, -1e-5).at[7].set(-9.0)  # silent on rounding errors; the last always
    sae = sae.replace(weights=Weights(W_dec, sae.weights.b_dec, {"b_enc": bias}))
    if sae.weights.b_dec is not None:
        sae = sae.replace(weights=sae.weights.replace(b_dec=jnp.zeros(6)))
    scored = score_sae(sae, world, 8192)
    row, latents = scored.table.iloc[0], scored.records.latents
    assert row["dead_latents"] == 1 and row["split_features"] == pytest.approx(1 / 6)
    assert row["uniqueness_alive"] == pytest.approx(6 / 7)
    assert row["max_abs_cos"] == pytest.approx(1, abs=1e-5)
    assert row["hedging"] < 1e-5 and row["features_per_latent"] == pytest.approx(1, abs=1e-3)
    assert row["gain"] == pytest.approx(1, abs=1e-5)
    assert row["ablation_residual"] == pytest.approx(0, abs=2e-3)
    assert row["merged_features"] == 0 and row["hierarchy_pairs"] == 0
    assert np.isnan(row["absorption_rate"]) and scored.pairs.empty
    assert np.isnan(latents["ablation_residual"][7]) and latents["ablation_n"][7] == 0
    np.testing.assert_allclose(scored.records.features["scale_error"], 0, atol=1e-3)
    # Feature 0 is written twice: half again of its share of the input is too much.
    assert row["reconstruction_bias"] > 1.1


def test_where_absorption_cannot_be_measured_it_is_nan(absorbed):
    world, sae = absorbed
    scored = score_sae(sae, decoder_rows(sae, world.directions), 1024)
    assert np.isnan(scored.table["hierarchy_pairs"][0]) and scored.pairs.empty
    assert np.isnan(scored.table["merged_features"][0]) and scored.table["hedging"][0] >= 0
    directions = np.random.default_rng(0).standard_normal((5000, 8))
    wide = assemble(directions, np.full(5000, 1e-3))
    with pytest.warns(UserWarning, match="absorption is not measured: 5,000 features"):
        assert np.isnan(score_sae(sae, wide, 8192).table["absorption_rate"][0])
