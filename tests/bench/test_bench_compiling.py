"""What compiling costs: a cold and a warm run of an experiment, as their profiles say."""

import numpy as np
import pytest

from toysae import ToysaeError
from toysae.bench import timers
from toysae.bench.compiling import Compiling, run_profile

TINY = """
from toysae import Experiment
experiment = Experiment("?", d_in=6, ratios=(1,), recipes=("tied",), inits=("random",),
    l1_coeff=(0.1,), world_seeds=1, n_steps=5, n_eval=256, curve_points=2, ceiling=False,
    figures=("mmcs_by_ratio",))
"""


@pytest.mark.slow
def test_a_row_is_of_a_cold_run_and_a_warm_one(monkeypatch):
    monkeypatch.setitem(timers.COMPILE_PRESETS, "compile", Compiling(TINY))
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")  # as where presets are timed
    row = timers.TIMERS["compile"]("compile", 1.0, 1)
    for cache in ("cold", "warm"):
        rounds = {k: np.array(row["rounds"][f"{cache} {k}"]) for k in ("seconds", "tracing")}
        assert len(rounds["seconds"]) == 1 and row[f"{cache} s"] > row[f"{cache} tracing s"] > 0
    assert row["warm compiling s"] < row["cold compiling s"] < row["cold s"]
    assert row["programs"] > 10 and row["preset"] == "compile"


def test_a_run_that_fails_is_told_of_by_its_last_line(tmp_path):
    with pytest.raises(ToysaeError, match=r"toysae run failed: .*d_in"):
        run_profile(tmp_path, TINY.replace("d_in=6", "d_in=-6"))
