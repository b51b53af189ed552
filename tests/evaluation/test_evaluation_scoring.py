"""The columns of a table: against hand-worked cosines and NumPy counts of the same samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from toysae import make_spec, make_world, train
from toysae.evaluation import scoring
from toysae.evaluation.score import score_sae
from toysae.evaluation.scoring import oracle_columns, truth_columns
from toysae.keys import named_key, seed_key
from toysae.sae import SAE
from toysae.sae.component import Weights
from toysae.training.members import make_ensemble
from toysae.worlds import assemble, sample


def evaluation_counts(world, seed, n_batches, batch_size):
    """Active features of every evaluation sample, drawn batch by batch."""
    key = named_key(seed_key(seed, "data"), "evaluation")
    batches = [
        sample(world, jax.random.fold_in(key, i), batch_size).feature_acts for i in range(n_batches)
    ]
    return (np.concatenate(batches) != 0).sum(1)


def test_true_l0_is_of_all_evaluation_samples():
    world = make_world("sphere", 0, d_in=6, n_features=10, l0=1.5)
    weights = Weights(world.directions, None, {"b_enc": jnp.zeros(10)})
    sae = SAE(weights, {"progress": jnp.float32(1)}, {}, make_spec("tied", 6, 10).at_inference())
    row = score_sae(sae, world, 20 * 1024, seed=5).table.iloc[0]
    counts = evaluation_counts(world, 5, 20, 1024)
    np.testing.assert_allclose(row["true_l0"], counts.mean(), rtol=1e-6)
    assert abs(counts.mean() / counts[: 16 * 1024].mean() - 1) > 1e-4  # a part would be told


def test_truth_columns_of_a_case_worked_by_hand():
    one = [[0.96, 0.0], [0.94, 0.85], [-1.0, 0.1]]  # the first latent is the best of two features
    columns = truth_columns(np.array([one, np.full((3, 2), np.nan)]))
    expected = {
        "mmcs": (0.96 + 0.94 + 0.1) / 3, "mmcs_abs": (0.96 + 0.94 + 1.0) / 3,
        "mmcs_latents": (0.96 + 0.85) / 2, "mcs_above_0.8": 2 / 3, "mcs_above_0.9": 2 / 3,
        "mcs_above_0.95": 1 / 3, "distinct_above_0.8": 2, "distinct_above_0.9": 1,
        "distinct_above_0.95": 1, "mcc": (0.96 + 0.85) / 2, "mcc_abs": (1.0 + 0.85) / 2,
    }  # fmt: skip
    assert set(columns) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(columns[name][0], value, err_msg=name)
        assert np.isnan(columns[name][1]), name  # a diverged SAE passes for nothing


def test_the_oracle_knows_the_bias_of_the_world():
    fields = {"d_in": 8, "n_features": 12, "l0": 2.0}
    spec = make_spec("untied", 8, 12)
    tables = [
        oracle_columns(make_ensemble([make_world("sphere", 0, bias=bias, **fields)], [0], spec,
                                  {"l1_coeff": [0.1, 0.3]}, [0], 32))
        for bias in (0.0, 3.0)
    ]  # fmt: skip
    for column in ("truth_fista_ev", "truth_fista_l0"):
        np.testing.assert_allclose(tables[1][column], tables[0][column], rtol=1e-4)
    assert tables[0]["truth_fista_ev"][0] > 0.8


def test_the_oracle_is_computed_once_for_all_that_share_a_world(monkeypatch):
    def columns(seed, recipe, **given):
        world = make_world("sphere", seed, d_in=8, n_features=12, l0=2.0)
        spec = make_spec(recipe, 8, 12)
        return oracle_columns(make_ensemble([world], [seed], spec, given, [0], 32))

    untied = columns(0, "untied", l1_coeff=[0.1, 0.3])
    monkeypatch.setattr(scoring, "fista_oracle", None)
    pd.testing.assert_frame_equal(columns(0, "tied", l1_coeff=[0.3, 0.1]), untied)
    for other in ((1, [0.1, 0.3]), (0, [0.1, 0.2])):
        with pytest.raises(TypeError):
            columns(other[0], "tied", l1_coeff=other[1])


def test_magnitudes_and_neighbours_are_of_the_world():
    world = make_world("sphere", 0, d_in=6, n_features=10, l0=1.5, asymmetry=0.5)
    seeds = {"sae_seeds": (0, 1), "n_steps": 1, "n_eval": 2048, "curve_points": 1, "quiet": True}
    arrays = train(world, "untied", l1_coeff=0.1, data_seed=3, **seeds).arrays
    key = named_key(seed_key(3, "data"), "evaluation")
    batches = [sample(world, jax.random.fold_in(key, i), 256).feature_acts for i in range(8)]
    acts = np.concatenate(batches).astype(np.float64)
    rows = np.asarray(world.rows, np.float64)
    expected = acts.sum(0) / (acts != 0).sum(0) * np.linalg.norm(rows, axis=1)
    cos = np.asarray(world.directions, np.float64) @ np.asarray(world.directions, np.float64).T
    np.fill_diagonal(cos, -1)
    for member in range(2):
        np.testing.assert_allclose(arrays["feature_magnitude"][member], expected, rtol=1e-4)
        np.testing.assert_allclose(arrays["feature_nn_cos"][member], cos.max(1), atol=1e-5)
    assert expected.std() > 0.05 and abs(np.linalg.norm(rows, axis=1) - 1).max() > 0.05


def test_a_feature_that_never_fired_has_no_magnitude():
    world = assemble(np.eye(3), np.array([0.5, 0.0, 0.5]))
    result = train(world, "untied", l1_coeff=0.1, n_steps=1, n_eval=256, curve_points=1, quiet=True)
    magnitude = result.arrays["feature_magnitude"][0]
    assert np.isnan(magnitude[1]) and np.isfinite(magnitude[[0, 2]]).all()
