"""Verdicts against hand-worked tables; the world where they are known is in tests/sweeps."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from toysae.errors import ToysaeError
from toysae.recovery import bad_minima, clopper_pearson, verdicts

CELL = {"world": "w", "d_in": 4, "n_features": 4, "ratio": 1.0, "d_sae": 4, "sparsity": 0.1}


def runs(*rows):
    """(init, world_seed, score, eval_loss, further columns)"""
    columns = ("init", "world_seed", "mcs_above_0.9", "eval_loss")
    return pd.DataFrame(
        [
            {**CELL, "recipe": "r", "sae_seed": 0, "diverged": False}
            | dict(zip(columns, row, strict=False))
            | (row[4] if len(row) > 4 else {})
            for row in rows
        ]
    )


def test_each_verdict():
    table = runs(
        ("random", 0, 0.95, 9.0),  # found, whatever its loss
        ("random", 0, 0.5, 2.03, {"sae_seed": 1}),
        ("random", 0, 0.5, 2.01, {"sae_seed": 2}),  # within the margin
        ("svd", 0, 0.5, 1.0),
        ("truth", 0, 1.0, 2.5),
        ("at-truth", 0, 1.0, 2.0),
    )
    got = verdicts(table)
    assert got.index.tolist() == [0, 1, 2, 3] and set(table) < set(got)
    assert got["verdict"].tolist() == ["recovered", "optimiser", "objective", "objective"]
    np.testing.assert_allclose(got["truth_loss"], 2.0)
    np.testing.assert_allclose(got["loss_gap"], [3.5, 0.015, 0.005, -0.5])
    np.testing.assert_allclose(got["left_truth"], 0.0)
    stricter = verdicts(table, margin=0.001, recovered=0.96)
    assert stricter["verdict"].tolist() == ["optimiser"] * 3 + ["objective"]


def test_a_truth_arm_that_left_is_not_the_truths_loss():
    """It found something lower: then a higher loss than its own still is the objective's fault."""
    table = runs(
        ("random", 0, 0.5, 1.5),
        ("truth", 0, 0.6, 1.0),
        ("truth", 0, 1.0, 2.2, {"sae_seed": 1}),
        ("at-truth", 0, 1.0, 2.0),
    )
    row = verdicts(table).iloc[0]
    assert (row["verdict"], row["truth_loss"], row["left_truth"]) == ("objective", 2.0, 0.5)
    alone = verdicts(table.iloc[:2]).iloc[0]  # nothing else to hold it against
    assert (alone["verdict"], alone["truth_loss"], alone["left_truth"]) == ("optimiser", 1.0, 1.0)
    held = verdicts(table.iloc[[0, 3]]).iloc[0]
    assert held["verdict"] == "objective" and np.isnan(held["left_truth"])


def test_only_the_same_cell_is_compared_and_what_is_unknown_has_no_verdict():
    other = [{"recipe": "s"}, {"sparsity": 0.2}, {"world": "v"}, {"d_sae": 8}, {"n_features": 8}]
    table = runs(
        ("random", 0, 0.5, 2.0),
        ("random", 1, 0.5, 2.0),  # its truth diverged
        ("random", 2, np.nan, np.nan, {"diverged": True}),
        *(("random", 0, 0.5, 2.0, away) for away in other),
        ("at-truth", 0, 1.0, 1.0),
        ("at-truth", 1, 1.0, 1.0, {"diverged": True}),
        ("at-truth", 2, 1.0, 1.0),
    )
    got = verdicts(table)["verdict"]
    assert got[0] == "optimiser" and got[1:].isna().all() and len(got) == 8


def test_shares_over_worlds_with_members_averaged_first():
    table = runs(
        ("random", 0, 1.0, 1.0), ("random", 0, 0.5, 2.0, {"sae_seed": 1}),
        ("random", 1, 0.5, 2.0), ("random", 2, 0.5, 0.5),
        *(("at-truth", w, 1.0, 1.0) for w in range(3)),
    )  # fmt: skip
    got = bad_minima(verdicts(table), ["recipe"]).set_index("verdict")
    assert got.index.tolist() == ["recovered", "optimiser", "objective"]
    np.testing.assert_allclose(got["share"], [0.5 / 3, 1.5 / 3, 1 / 3])
    assert (got["n"] == 3).all() and (got["recipe"] == "r").all()
    low, high = stats.binomtest(1, 3).proportion_ci(0.95, "exact")
    np.testing.assert_allclose(got.loc["objective", ["low", "high"]].astype(float), [low, high])
    none = bad_minima(verdicts(table).assign(verdict=None), [])
    assert (none["n"] == 0).all() and none[["share", "low", "high"]].isna().all().all()


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_clopper_pearson_equals_scipy(confidence):
    for n in (1, 4, 30):
        for k in {0, 1, n // 2, n}:
            exact = stats.binomtest(k, n).proportion_ci(confidence, "exact")
            np.testing.assert_allclose(clopper_pearson(k, n, confidence), exact, atol=1e-12)
    assert np.isnan(clopper_pearson(0, 0)).all()


def test_what_cannot_be_judged_is_refused():
    table = runs(("random", 0, 0.5, 2.0))
    with pytest.raises(ToysaeError, match="no row has init 'truth' or 'at-truth': run with"):
        verdicts(table)
    with pytest.raises(ToysaeError, match="eval_loss"):
        verdicts(table.drop(columns="eval_loss"))
    with pytest.raises(ToysaeError, match="margin"):
        verdicts(runs(("truth", 0, 1.0, 1.0)), margin=-1)
    with pytest.raises(ToysaeError, match="world_seed"):
        bad_minima(table.assign(verdict="recovered"), ["world_seed"])
    with pytest.raises(ToysaeError, match=r"successes = 5 must be in \[0, 4\]"):
        clopper_pearson(5, 4)
