"""Ceilings and floors: closed forms on worlds that have one, and the cache."""

from importlib import import_module

import jax
import numpy as np
import pandas as pd
import pytest

from toysae import ToysaeError, make_world
from toysae.evaluation.ceilings import PROBES, at_l0, ceilings
from toysae.evaluation.oracles import METHODS
from toysae.recovery import random_floor
from toysae.worlds import sample

module = import_module("toysae.evaluation.ceilings")  # the package has a function of that name

SMALL = {"n_samples": 8192, "n_steps": 40, "cache": False}


@pytest.fixture
def orthogonal():
    return make_world("orthogonal", 0, d_in=6, n_features=5, l0=1.5)


def row(world, method, **given):
    return ceilings(world, methods=(method,), **{**SMALL, **given}).iloc[0]


def test_on_orthogonal_features_the_truth_scores_1(orthogonal):
    table = ceilings(
        orthogonal,
        methods=("truth-fista", "truth-omp", "truth-threshold"),
        l1_coeff=(1e-6,),
        **SMALL,
    )
    most = table[table["method"] == "truth-omp"]["value"].max()
    exact = table[(table["method"] != "truth-omp") | (table["value"] == most)]
    assert len(exact) == 3 and most == 5  # all features at once were seen
    for score in ("mmcs", "mcs_above_0.9", "mcc", "ev"):
        np.testing.assert_allclose(exact[score].to_numpy(float), 1, atol=1e-4, err_msg=score)
    for score in ("f1", "precision", "recall", "auroc", "r2"):
        np.testing.assert_allclose(exact[score].to_numpy(float), 1, atol=2e-3, err_msg=score)
    np.testing.assert_allclose(exact["l0"], exact["true_l0"], rtol=1e-3)


def test_l1_shrinks_orthogonal_codes_by_half_of_it(orthogonal):
    # Codes are (a - l1 / 2)_+ with a ~ U[0, 1): recall 1 - l1 / 2, and EV from its moments.
    found, c, p = row(orthogonal, "truth-fista", l1_coeff=(0.4,)), 0.2, 1.5 / 5
    assert found["recall"] == pytest.approx(1 - c, abs=0.05)
    error = p * (c**3 / 3 + (1 - c) * c**2)
    assert found["ev"] == pytest.approx(1 - error / (p / 3 - p**2 / 4), abs=0.02)


def test_antipodal_pairs_are_told_apart_by_sign():
    world = make_world(
        "antipodal", 0, d_in=4, n_features=8, l0=2.0, firing="exclusive", group_size=2
    )
    for method in ("truth-fista", "truth-threshold"):
        found = row(world, method, l1_coeff=(0.01,))  # at 0 a pair could fire together for nothing
        assert found["f1"] == pytest.approx(1, abs=0.02), method
        assert found["ev"] == pytest.approx(1, abs=1e-3), method


def test_the_most_frequent_directions_alone():
    world = make_world("orthogonal", 0, d_in=12, n_features=10, l0=2.0, probs="zipf")
    found = row(world, "top-M-by-frequency", d_sae=3, l1_coeff=(1e-6,))
    assert found["mmcs"] == pytest.approx(0.3, abs=1e-5) and found["mcs_above_0.9"] == 0.3
    assert found["d_sae"] == 3
    acts = np.asarray(sample(world, jax.random.key(0), 65_536).feature_acts, np.float64)
    rest = np.argsort((acts != 0).sum(0))[:-3]
    expected = 1 - (acts[:, rest] ** 2).mean(0).sum() / acts.var(0).sum()
    assert found["ev"] == pytest.approx(expected, abs=0.05)


def test_the_random_floor_is_the_closed_form(orthogonal):
    table = ceilings(orthogonal, d_sae=7, methods=("random",), l1_coeff=(0.1, 0.2), **SMALL)
    assert (table["mmcs"] == random_floor(6, 7)).all() and (table["kind"] == "floor").all()
    assert table["l0"].is_monotonic_decreasing


@pytest.mark.slow
def test_a_trained_encoder_on_orthogonal_truth_beats_random_directions(orthogonal):
    table = ceilings(
        orthogonal, methods=("truth-encoder", "truth-trained", "frozen-random"),
        l1_coeff=(0.02, 0.1), n_samples=8192, n_steps=2000, cache=False,
    )  # fmt: skip
    best = table.groupby("method")["ev"].max()
    assert best["truth-encoder"] > 0.98 > best["frozen-random"]
    by_method = table.groupby("method")["mmcs"]
    np.testing.assert_allclose(by_method.get_group("truth-encoder"), 1, atol=1e-5)  # held
    assert by_method.get_group("truth-trained").min() > 0.95


@pytest.mark.parametrize("name", [*METHODS, PROBES])
def test_every_method_gives_finite_scores(name):
    world = make_world("sphere", 0, d_in=6, n_features=9, l0=1.5, noise=0.01)
    table = ceilings(world, 5, methods=(name,), l1_coeff=(0.1,), **{**SMALL, "n_samples": 1024})
    assert (table["method"] == name).all() and table["f1"].between(0, 1).all()
    if name != PROBES:
        assert np.isfinite(table[["mmcs", "mcc", "l0", "ev", "mse", "auroc"]].to_numpy()).all()
        held = name.startswith("truth-") and name != "truth-trained"
        assert (table["d_sae"] == (9 if held else 5)).all()


@pytest.mark.parametrize("dials", [{"bias": 2.0}, {"noise": 0.001}, {"bias": 2.0, "noise": 0.001}])
def test_what_the_world_adds_is_taken_out_again(dials):
    world = make_world("orthogonal", 0, d_in=6, n_features=5, l0=1.5, **dials)
    for method in ("truth-fista", "truth-threshold"):
        found = row(world, method, l1_coeff=(0.01,))
        assert found["ev"] > 0.99 and found["f1"] > 0.95, method


def test_a_rectified_world_is_scored_against_its_rectified_features():
    world = make_world("sphere", 0, d_in=12, n_features=6, l0=1.0, rectify=True)
    found = row(world, "truth-fista", l1_coeff=(0.01,))
    assert found["mmcs"] == pytest.approx(1, abs=1e-5) and found["ev"] > 0.9


def test_a_world_scored_against_other_directions(orthogonal):
    meta = orthogonal.replace(truth=orthogonal.directions[:4])
    for name in ("truth-threshold", PROBES, "top-M-by-frequency"):
        with pytest.raises(ToysaeError, match=f"{name}.* needs to know when a feature is on"):
            ceilings(meta, 3, methods=(name,), **SMALL)
    found = row(meta, "truth-fista", l1_coeff=(0.1,))
    assert found["mmcs"] == pytest.approx(1) and np.isnan(found["f1"])
    assert "truth-threshold" not in module._chosen(meta, 3, None)


def test_what_is_too_large_is_left_out_with_a_warning(orthogonal, monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 14)
    left_out = "left out truth-fista.*linear-probes.*directions alone of top-M"
    with pytest.warns(UserWarning, match=left_out):
        table = ceilings(orthogonal, 3, **{**SMALL, "n_samples": 1024})
    assert set(table["method"]) == {
        "top-M-by-frequency", "random", "data-samples", "pca", "ica"
    }  # fmt: skip
    bare = table[table["method"] == "top-M-by-frequency"].iloc[0]
    assert bare["mmcs"] == pytest.approx(3 / 5) and np.isnan(bare["ev"]) and bare["number"] == ""
    assert table[table["method"] == "random"]["mmcs"].item() == random_floor(6, 3)


def test_a_kept_result_is_the_same_and_only_of_the_same(orthogonal, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given = {"methods": ("truth-fista",), "l1_coeff": (0.1,), "n_samples": 1024}
    fresh = ceilings(orthogonal, **given, cache=False)
    assert not list(tmp_path.iterdir())
    pd.testing.assert_frame_equal(ceilings(orthogonal, **given), fresh, check_exact=True)
    (file,) = (tmp_path / "toysae" / "ceilings").iterdir()
    with monkeypatch.context() as closed:
        closed.setattr(module, "_computed", None)  # nothing is computed again
        pd.testing.assert_frame_equal(ceilings(orthogonal, **given), fresh, check_exact=True)
    file.write_text(file.read_text()[:-20])
    pd.testing.assert_frame_equal(ceilings(orthogonal, **given), fresh, check_exact=True)
    ceilings(orthogonal, **given, seed=1)
    ceilings(make_world("orthogonal", 1, d_in=6, n_features=5, l0=1.5), **given)
    ceilings(orthogonal.replace(noise_sd=jax.numpy.float32(0.1)), **given)
    assert len(list(file.parent.iterdir())) == 4


def test_the_nearest_l0_is_by_ratio():
    table = pd.DataFrame(
        {
            "method": ["a", "a", "a", "b", "c", "c"],
            "l0": [1.0, 4.0, 0.0, np.nan, 2.0, 30.0],
            "n": range(6),
        }
    )
    assert list(at_l0(table, 2.5)["n"]) == [1, 3, 4]
    assert list(at_l0(table, 1.9)["n"]) == [0, 3, 4]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"methods": ("truth-fitsa",)}, "did you mean 'truth-fista'.* linear-probes"),
        ({"methods": ("top-M-by-frequency",)}, "give d_sae below 5, not 5"),
        ({"methods": ()}, "methods is empty"),
        ({"d_sae": 0}, "d_sae 0"),
        ({"n_samples": 0}, "n_samples 0"),
        ({"l1_coeff": (-1.0,)}, "at least 0"),
        ({"l1_coeff": ()}, "l1_coeff"),
    ],
)
def test_bad_input_is_refused(orthogonal, given, words):
    with pytest.raises(ToysaeError, match=words):
        ceilings(orthogonal, **{**SMALL, **given})
