"""Oracle curves of a results directory: from its own settings, made once."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from toysae import Experiment, Results, ToysaeError, make_world, run
from toysae.evaluation.ceilings import ceilings
from toysae.sweeps import curves as module
from toysae.sweeps.curves import ORACLES, oracle_curves


@pytest.mark.parametrize("methods", [ORACLES[:2], pytest.param(ORACLES, marks=pytest.mark.slow)])
def test_they_are_of_the_worlds_that_were_run_and_kept(tmp_path, monkeypatch, methods):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dials = {"noise": 0.05}
    experiment = Experiment(
        question="?", d_in=6, ratios=(1, 1.5), l0=1.5, dials=dials, recipes=("tied",),
        inits=("random", "orthogonal"),
        l1_coeff=(0.1,), world_seeds=2, ceiling=False, n_steps=3, n_eval=1024, curve_points=1,
    )  # fmt: skip
    results = run(experiment, tmp_path / "out", quiet=True)
    table = oracle_curves(Results.load(results.path), methods)
    assert set(table["method"]) == set(methods) and set(table["n_features"]) == {6, 9}
    world = make_world("sphere", 0, d_in=6, n_features=9, l0=1.5, **dials)
    expected = ceilings(world, n_samples=1024, methods=methods, n_steps=3)
    found = table[table["n_features"] == 9]
    for column in ("value", "l0", "ev", "f1"):
        np.testing.assert_allclose(found[column], expected[column], err_msg=column)
    monkeypatch.setattr(module, "ceilings", None)  # kept: not made again
    pd.testing.assert_frame_equal(oracle_curves(results, methods), table)
    some = oracle_curves(results, ORACLES[:1])
    assert len(some) == (table["method"] == ORACLES[0]).sum() > 0


def test_curves_of_other_worlds_are_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "ceilings", lambda world, **_: pd.DataFrame({"method": ["truth-fista"]})
    )
    e = Experiment(
        "?", d_in=6, ratios=(1,), l0=1.5, recipes=("tied",), world_seeds=1, ceiling=False,
        n_steps=3, n_eval=64, curve_points=1,
    )  # fmt: skip
    sizes = []
    for ratios in ((1,), (1.5,), (1,)):
        results = run(replace(e, ratios=ratios), tmp_path / "out", quiet=True)
        sizes += oracle_curves(results, ["truth-fista"])["n_features"].tolist()
    assert sizes == [6, 9, 6]


def test_a_directory_without_results_has_none(tmp_path):
    with pytest.raises(ToysaeError, match="holds no results"):
        oracle_curves(Results(tmp_path))
