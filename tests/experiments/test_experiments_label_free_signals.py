"""label_free_signals: its pairs of SAEs, its tasks, its figures, and what it refuses."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from toysae.errors import ToysaeError
from toysae.plotting import label_free as draw

FILE = Path(__file__).parents[2] / "experiments" / "label_free_signals.py"


@pytest.fixture(scope="module")
def module():
    return runpy.run_path(str(FILE))


def test_an_sae_is_compared_with_the_other_seed_of_its_size_and_of_the_next(module):
    o = replace(module["Options"](), sizes=(1.0, 2.0), l1=(0.1,), world_seeds=1)
    rng = np.random.default_rng(0)
    small, large = rng.standard_normal((1, 1, 2, 3, 4)), rng.standard_normal((1, 1, 2, 6, 4))
    large[0, 0, 0, :3] = small[0, 0, 0]  # seed 0's latents are all in the larger one
    small[0, 0, 1] = small[0, 0, 0, ::-1]  # and seed 1's are the same, in another order
    sizes = []
    for W_dec, mse in ((small, 2.0), (large, 1.0)):
        alive = np.ones(W_dec.shape[:4], bool)
        columns = {"mse": np.full((1, 1, 2), mse), "mmcs": np.full((1, 1, 2), 0.5)}
        sizes.append(module["Sized"](np.float32(W_dec), alive, columns))
    table = module["_joined"](o, sizes).set_index(["size", "sae_seed"])
    assert table.loc[(1.0, 1), "mmcs_larger"] == pytest.approx(1, abs=1e-5)
    assert table.loc[(1.0, 0), "mmcs_larger"] < 0.99
    assert table.loc[(1.0, 0), "stability"] == pytest.approx(1, abs=1e-5)
    assert table.loc[(1.0, 0), "mmcs_seeds"] == pytest.approx(1, abs=1e-5)
    assert table.loc[(1.0, 0), "plateau"] == -0.5  # the next size halves the loss
    assert table.loc[2.0, ["mmcs_larger", "plateau"]].isna().all(axis=None)


def made(module):
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [["uniform", "zipf"], range(3), range(2), (0.5, 1.0, 2.0), (0.1, 0.2, 0.4)],
        names=["world", "world_seed", "sae_seed", "size", "l1"],
    )
    table = index.to_frame(index=False)
    table["mmcs"], table["diverged"] = rng.random(len(table)), False
    for signal in module["SIGNALS"]:
        table[signal] = rng.random(len(table))
    table["stability"] = table["mmcs"]
    table["mmcs_larger"] = np.where(table["size"] < 2, -table["mmcs"], np.nan)
    return table


def test_signals_are_judged_without_the_largest_size_and_what_failed(module):
    table = made(module)
    table.loc[table["size"] == 2.0, "stability"] *= -100
    table.loc[0, ["diverged", "stability"]] = True, -9.0
    table.loc[1, ["alive", "stability"]] = 0.0, -9.0
    found = module["correlations"](table).set_index(["signal", "task"])
    assert set(found["world"]) == {"uniform", "zipf"}
    for task in module["TASKS"]:
        assert np.allclose(found.loc[("stability", task), "mean"], 1)
        assert np.allclose(found.loc[("stability", task), "regret"], 0)
        assert np.allclose(found.loc[("mmcs_larger", task), "mean"], -1)


def test_figures_have_a_row_a_signal(module):
    table = made(module)
    fig, frame = draw.correlation_bars(
        module["correlations"](table), module["SIGNALS"], module["TASKS"], "title", "note"
    )
    assert len(fig.axes) == 2 * len(module["TASKS"]) and len(frame) == 3 * 2 * 9
    fig, frame = draw.signals_against_truth(table, module["SIGNALS"], "title", "note")
    assert len(fig.axes) == 2 * 9 and len(frame) == len(table)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("worlds", ("unifrom",), "unknown world 'unifrom'"), ("sae_seeds", 1, "sae_seeds 1"),
     ("sizes", (1.0,), "at least two"), ("sizes", (2.0, 1.0), "must rise"), ("l1", (), "l1 is")],
)  # fmt: skip
def test_impossible_options_are_refused_before_any_training(module, tmp_path, option, value, says):
    with pytest.raises(ToysaeError, match=says):
        module["run"](replace(module["Options"](), **{option: value}), tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())
