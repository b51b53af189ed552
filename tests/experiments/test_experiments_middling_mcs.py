"""middling_mcs: what it refuses, how it judges, and its figures on a table made by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.middling_mcs.experiment import (
    CAUSES,
    Options,
    causes_of,
    conditions,
    levels,
    study,
    verdicts,
)
from experiments.middling_mcs.figures import BINS, middling_histograms, polarisation_map
from experiments.middling_mcs.measure import score
from toysae import run
from toysae.errors import ToysaeError
from toysae.recovery import mcs, polarisation, random_floor


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


def test_verdicts_are_over_the_middling_levels_alone(table):
    found = verdicts(table).set_index("cause")
    # At each world the mean of two levels, .80 + .01 seed; the third level is not middling.
    assert found.loc["ratio", "mean"] == pytest.approx(0.81) and found.loc["ratio", "levels"] == 2
    assert found.loc["ratio", "n"] == 3
    kinds = {"ratio": "some fully", "low-l1": "all partly", "l0": "a mixture"}
    assert found["verdict"].to_dict() == kinds


def test_the_answer_names_every_cause(table):
    said = causes_of(verdicts(table), table).set_index("verdict")["causes"]
    assert said["some fully"] == "n_features / d_in (tied, P 0.81 ± 0.02)"
    assert said["all partly"].startswith("L1 too low (tied")
    assert said["a mixture"].startswith("true L0")
    never = "L1 too high (tied); rare features (Zipf exponent) (tied)"
    assert said["never in the middle"].startswith(never)


def test_a_diverged_world_has_no_say(table):
    hurt = table.assign(diverged=table["world_seed"] == 2)
    assert (verdicts(hurt)["n"] == 2).all()


def test_figures_show_means_and_the_level_nearest_to_the_middle(table):
    counts = pd.concat([
        pd.DataFrame({"recipe": "tied", "cause": cause, "level": level, "low": BINS[:-1],
                      "count": np.arange(40) + level})
        for cause, level in table[["cause", "level"]].drop_duplicates().itertuples(index=False)
    ])  # fmt: skip
    causes = {cause: cause for cause in table["cause"].unique()}
    fig, frame = polarisation_map(table, causes, "title", "note")
    assert len(fig.axes) == 1 and len(frame) == 6
    row = frame[(frame["cause"] == "ratio") & (frame["level"] == 4)].iloc[0]
    assert (row["polarisation"], row["position"]) == pytest.approx((0.71, 0.3))
    fig, shown = middling_histograms(table, counts, causes, "title", "note")
    assert len(fig.axes) == 4
    assert shown.groupby("cause")["level"].first()["ratio"] == 2


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("world_seeds", 0, "world_seeds 0"), ("ratios", (), "ratios is empty"),
     ("n_steps", 0, "n_steps 0")],
)  # fmt: skip
def test_impossible_options_are_refused_before_any_training(tmp_path, option, value, says):
    asked = replace(study, options=replace(study.options, **{option: value}))
    with pytest.raises(ToysaeError, match=says):
        run(asked, tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_cause_varies_one_thing():
    o = Options()
    found = conditions(o)
    assert {c.cause for c in found} == set(CAUSES)
    good = next(c for c in found if c.cause == "undertraining")
    for cause, _, fields, size, l1 in found:
        moved = (fields != good.fields) + (size != 1.0) + (l1 != o.l1_coeff)
        assert moved <= 1, cause


def test_a_wide_interval_is_no_verdict(table):
    spread = table["polarisation"] + np.where(table["world_seed"] == 0, -0.5, 0.2)
    found = verdicts(table.assign(polarisation=spread))
    assert (found["verdict"] == "too uncertain to say").all()
    assert "too uncertain to say" in causes_of(found, table)["verdict"].to_list()


def test_scores_are_those_of_each_point_of_the_curve():
    found = np.array([[[0.2, 0.95], [0.6, 0.95], [0.7, 0.5]]])  # a row, 3 features, 2 points
    scores = score(found, 0.1)
    assert all(value.shape == (1, 2) for value in scores.values())
    np.testing.assert_allclose(scores["mmcs"], [[0.5, 0.8]])
    np.testing.assert_allclose(scores["position"], [[0.4 / 0.9, 0.7 / 0.9]])
    np.testing.assert_allclose(scores["mcs_above_0.9"], [[0, 2 / 3]])
    spread = found.var(1) / ((scores["mmcs"] - 0.1) * (1 - scores["mmcs"]))
    np.testing.assert_allclose(scores["polarisation"], spread, rtol=1e-5)


@pytest.mark.slow
def test_the_study_on_tiny_sizes_has_every_level_of_every_cause_once(tmp_path):
    o = replace(
        study.options, d_in=4, l0=1.0, recipes=("tied", "untied"), world_seeds=2, n_steps=20,
        batch_size=32, ratios=(2, 3), high_l1=(0.2, 0.8), low_l1=(0.003,), exponents=(2.0,),
        sizes=(0.5, 1.0), l0s=(1.0, 2.0), points=4,
    )  # fmt: skip
    asked = replace(study, options=o, keep_weights=True)
    results = run(asked, tmp_path, quiet=True)
    # The good case with its three L1, and one each of ratio, exponent, size and L0.
    saes = results.table
    assert len(saes) == 2 * 2 * (3 + 4)
    places = ["recipe", "training", "l1_coeff", "world_seed"]
    assert not saes.duplicated(places).any() and not saes["diverged"].any()
    table, counts = levels(o, results)
    assert not table.duplicated(["recipe", "cause", "level", "world_seed"]).any()
    steps = results.arrays("tied-good")["curve_steps"]
    wanted = {"undertraining": list(steps), "ratio": [2, 3], "high-l1": [0.2, 0.8],
              "low-l1": [0.003], "rare": [2], "few-latents": [0.5, 1], "l0": [1, 2]}  # fmt: skip
    for recipe in o.recipes:
        part = table[table["recipe"] == recipe]
        has = {cause: sorted(rows["level"].unique()) for cause, rows in part.groupby("cause")}
        assert has == wanted and len(part) == 2 * sum(map(len, wanted.values()))
    # The good case is one SAE, whatever it is the best level of.
    ends = table[((table["cause"] == "undertraining") & (table["level"] == 20))
                 | ((table["cause"] == "ratio") & (table["level"] == 2))
                 | ((table["cause"] == "l0") & (table["level"] == 1))]  # fmt: skip
    assert (ends.groupby(["recipe", "world_seed"])["mmcs"].nunique() == 1).all()
    # Each row is what its SAE and its world say, whichever cause it is a level of.
    row = saes.index[(saes["training"] == "few-latents-0.5") & (saes["world_seed"] == 1)][0]
    found = mcs(results.world(int(row)).target, results.sae(int(row)).W_dec)
    here = table[(table["cause"] == "few-latents") & (table["level"] == 0.5)
                 & (table["world_seed"] == 1) & (table["recipe"] == "tied")].iloc[0]  # fmt: skip
    assert here["floor"] == random_floor(4, 4)
    assert here["mmcs"] == pytest.approx(float(found.mean()), rel=1e-5)
    assert here["polarisation"] == pytest.approx(float(polarisation(found, here["floor"])), 1e-4)
    features = counts.groupby(["recipe", "cause", "level"])["count"].sum().loc["tied"]
    assert features["ratio"].to_dict() == {2: 2 * 8, 3: 2 * 12}
    assert [name for name, _, _ in study.draw(o, results)] == ["polarisation", "histograms"]
    assert list(study.answer(o, results)) == ["verdicts", "answer"]
