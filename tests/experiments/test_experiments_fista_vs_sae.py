"""The encoder ladder on tiny sizes, and the interpolation to an equal L0."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.fista_vs_sae.experiment import at_equal_l0, ladder, study
from experiments.fista_vs_sae.figures import SCORES, TRUTH
from toysae import run
from toysae.errors import ToysaeError


@pytest.mark.slow
def test_the_study_on_tiny_sizes_splits_every_objective(tmp_path):
    o = replace(
        study.options, d_in=4, ratios=(1.5,), l0=1.0, rungs=("tied", "fista"), l1_coeff=(0.1, 0.3),
        world_seeds=2, n_steps=20, n_eval=512, n_gap=256, n_iterations=1000,
    )  # fmt: skip
    results = run(replace(study, options=o), tmp_path, quiet=True)
    table, trained = ladder(results), results.table
    assert list(trained["rung"].unique()) == list(o.rungs) and len(trained) == 2 * 2 * 2
    places = ["ratio", "rung", "world_seed", "l1_coeff"]
    assert len(table) == 3 * 2 * 2 and not table.duplicated(places).any()
    assert not table["diverged"].any()
    assert (trained["unconverged"] < 1e-3).all()
    assert (trained["amortisation"] > -1e-3).all()
    # FISTA's own codes are the best ones of its dictionary; 20 steps of a tied encoder are not.
    gap = trained.set_index("rung")["amortisation"]
    assert gap["fista"].max() < 2e-3 and gap["tied"].min() > 2e-3
    # The truth's objective is the same for every rung on the same world at the same L1, and so are
    # its codes.
    by_truth = trained.groupby(["world_seed", "l1_coeff"])
    for name in ("truth", "truth_mse", "truth_ev", "truth_l0"):
        assert (by_truth[name].max() - by_truth[name].min() < 1e-6).all()
    # A lower L1 gives the truth's codes the lower loss and the higher L0.
    truth = table[table["rung"] == TRUTH].set_index(["l1_coeff", "world_seed"])
    assert (truth.loc[0.1, "mse"] < truth.loc[0.3, "mse"]).all()
    assert (truth.loc[0.1, "l0"] >= truth.loc[0.3, "l0"]).all()
    assert truth[["mmcs", "mcs_above_0.9", "mcc"]].isna().all(axis=None)
    drawn = {name: frame for name, _, frame in study.draw(o, results)}
    assert list(drawn) == ["frontier", "equal_l0", "gaps"]
    stacked = drawn["gaps"].set_index(["gap", "rung", "l1_coeff"])
    part = trained[(trained["rung"] == "tied") & (trained["l1_coeff"] == 0.3)]
    wanted = 100 * (part["dictionary"] / part["truth"]).mean()
    assert stacked.loc[("dictionary", "tied", 0.3), "mean"] == pytest.approx(wanted, rel=1e-4)
    (equal,) = study.answer(o, results).values()
    assert list(equal["rung"]) == [*o.rungs, TRUTH]


def test_equal_l0_is_linear_in_its_logarithm_and_never_extrapolated():
    scores = {name: [0.0, 1.0] for name in SCORES}
    whole = {"ratio": 1.0, "world_seed": 0, "diverged": False, "true_l0": 2.0}
    reaches = pd.DataFrame({"rung": "a", "l0": [1.0, 8.0], **whole, **scores})
    short = pd.DataFrame({"rung": "b", "l0": [3.0, 8.0], **whole, **scores})
    equal = at_equal_l0(pd.concat([reaches, short])).set_index("rung")
    np.testing.assert_allclose(equal.loc["a", "mmcs"], np.log(2) / np.log(8))
    assert np.isnan(equal.loc["b", "mmcs"])


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("world_seeds", 0, "world_seeds 0 must be at least 1"),
        ("n_steps", 0, "n_steps 0 must be at least 1"),
        ("n_eval", 0, "n_eval 0 must be at least 1"),
        ("l1_coeff", (), "l1_coeff is empty"),
        ("rungs", ("untide",), "untied"),
    ],
)
def test_impossible_options_are_refused_before_any_training(tmp_path, option, value, says):
    asked = replace(study, options=replace(study.options, **{option: value}))
    with pytest.raises(ToysaeError, match=says):
        run(asked, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_rung_that_diverged_everywhere_is_nan_at_equal_l0():
    scores = dict.fromkeys(SCORES, 1.0)
    rows = [{"ratio": 1.0, "rung": rung, "world_seed": 0, "true_l0": 2.0, "l0": l0,
             "diverged": rung == "tied", **scores | {"l0": l0}}
            for rung in ("tied", "untied") for l0 in (1.0, 3.0)]  # fmt: skip
    equal = at_equal_l0(pd.DataFrame(rows)).set_index("rung")
    assert np.isnan(equal.loc["tied", "mse"]) and equal.loc["untied", "mse"] == 1
