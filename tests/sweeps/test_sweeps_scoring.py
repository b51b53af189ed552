"""The columns of a table: against hand-worked cosines and NumPy counts of the same samples."""

import jax
import numpy as np

from toysae import make_world, train
from toysae.keys import named_key, seed_key
from toysae.sweeps.score import score_sae
from toysae.sweeps.scoring import truth_columns
from toysae.worlds import sample


def evaluation_counts(world, seed, n_batches, batch_size):
    """Active features of every evaluation sample, drawn batch by batch."""
    key = named_key(seed_key(seed, "data"), "evaluation")
    batches = [
        sample(world, jax.random.fold_in(key, i), batch_size).feature_acts for i in range(n_batches)
    ]
    return (np.concatenate(batches) != 0).sum(1)


def test_true_l0_is_of_all_evaluation_samples():
    world = make_world("sphere", 0, d_in=6, n_features=10, l0=1.5)
    result = train(world, "tied", l1_coeff=0.1, sae_seeds=(0, 1), n_steps=2, batch_size=64,
                   n_eval=33 * 64, data_seed=3, curve_points=2, quiet=True)  # fmt: skip
    counts = evaluation_counts(world, 3, 33, 64)
    np.testing.assert_allclose(result.table["true_l0"], [counts.mean()] * 2, rtol=1e-6)
    row = score_sae(result.sae(0), world, 20 * 1024, seed=5).table.iloc[0]
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
