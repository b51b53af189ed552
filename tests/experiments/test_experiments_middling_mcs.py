"""middling_mcs: what it refuses, how it judges, and its figures on a table made by hand."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from toysae.errors import ToysaeError
from toysae.plotting import middling as draw

FILE = Path(__file__).parents[2] / "experiments" / "middling_mcs.py"


@pytest.fixture(scope="module")
def module():
    return runpy.run_path(str(FILE))


def rows(cause, level, position, polarisation, recipe="tied"):
    return [
        {"recipe": recipe, "cause": cause, "level": level, "world_seed": seed, "diverged": False,
         "floor": 0.3, "mmcs": 0.3 + 0.7 * position, "position": position,
         "polarisation": polarisation + 0.01 * seed, "mcs_above_0.9": 0.5}
        for seed in range(3)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame(
        rows("ratio", 2, 0.5, 0.9) + rows("ratio", 4, 0.3, 0.7) + rows("ratio", 8, 0.1, 0.0)
        + rows("low-l1", 0.01, 0.4, 0.1) + rows("l0", 3, 0.5, 0.5) + rows("rare", 1, 0.95, 0.9)
    )  # fmt: skip


def test_verdicts_are_over_the_middling_levels_alone(module, table):
    found = module["verdicts"](table).set_index("cause")
    # At each world the mean of two levels, .80 + .01 seed; the third level is not middling.
    assert found.loc["ratio", "mean"] == pytest.approx(0.81) and found.loc["ratio", "levels"] == 2
    assert found.loc["ratio", "n"] == 3
    kinds = {"ratio": "some fully", "low-l1": "all partly", "l0": "a mixture"}
    assert found["verdict"].to_dict() == kinds


def test_the_answer_names_every_cause(module, table):
    text = module["answer"](module["verdicts"](table), table)
    assert "some fully: n_features / d_in (tied, P 0.81 ± 0.02)" in text
    assert "All partly: L1 too low (tied" in text and "A mixture: true L0" in text
    assert "Never in the middle: L1 too high (tied), rare features (Zipf exponent) (tied)" in text


def test_a_diverged_world_has_no_say(module, table):
    hurt = table.assign(diverged=table["world_seed"] == 2)
    assert (module["verdicts"](hurt)["n"] == 2).all()


def test_figures_show_means_and_the_level_nearest_to_the_middle(module, table):
    counts = pd.concat([
        pd.DataFrame({"recipe": "tied", "cause": cause, "level": level, "low": draw.BINS[:-1],
                      "count": np.arange(40) + level})
        for cause, level in table[["cause", "level"]].drop_duplicates().itertuples(index=False)
    ])  # fmt: skip
    causes = {cause: cause for cause in table["cause"].unique()}
    fig, frame = draw.polarisation_map(table, causes, "title", "note")
    assert len(fig.axes) == 1 and len(frame) == 6
    row = frame[(frame["cause"] == "ratio") & (frame["level"] == 4)].iloc[0]
    assert (row["polarisation"], row["position"]) == pytest.approx((0.71, 0.3))
    fig, shown = draw.middling_histograms(table, counts, causes, "title", "note")
    assert len(fig.axes) == 4
    assert shown.groupby("cause")["level"].first()["ratio"] == 2


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("world_seeds", 0, "world_seeds 0"), ("ratios", (), "ratios is empty"),
     ("n_steps", 0, "n_steps 0")],
)  # fmt: skip
def test_impossible_options_are_refused_before_any_training(module, tmp_path, option, value, says):
    with pytest.raises(ToysaeError, match=says):
        module["run"](replace(module["Options"](), **{option: value}), tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_cause_varies_one_thing(module):
    o = module["Options"]()
    conditions = module["conditions"](o)
    assert {c[0] for c in conditions} == set(module["CAUSES"])
    good = next(c for c in conditions if c[0] == "undertraining")
    for cause, _, fields, size, l1 in conditions:
        moved = (fields != good[2]) + (size != 1.0) + (l1 != (o.l1,))
        assert moved <= 1, cause


def test_a_wide_interval_is_no_verdict(module, table):
    spread = table["polarisation"] + np.where(table["world_seed"] == 0, -0.5, 0.2)
    found = module["verdicts"](table.assign(polarisation=spread))
    assert (found["verdict"] == "too uncertain to say").all()
    assert "too uncertain to say: " in module["answer"](found, table)
