"""failure_modes: its detectors on an SAE made by hand, its figures, and what it refuses."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments.failure_modes.experiment import (
    DETECTORS,
    SCORES,
    TRUE_L0,
    cells,
    numbers,
    records,
    study,
)
from experiments.failure_modes.figures import (
    ablation_scatter,
    cosine_matrices,
    detector_curves,
    modes_by_recipe,
)
from experiments.failure_modes.measure import PAIRS, FailureModes, detectors
from toysae import run
from toysae.errors import ToysaeError
from toysae.recovery.probe import recovery_probe
from toysae.sae import SAE, make_spec
from toysae.sae.component import Weights
from toysae.training import train_ensemble


@pytest.fixture
def options():
    return replace(
        study.options, worlds=("trees", "independent"), recipes=("untied", "tied"), world_seeds=2,
        n_steps=20, batch_size=32, n_eval=1024,
    )  # fmt: skip


def test_detectors_see_the_absorbed_pair_and_leave_out_the_dead():
    f = np.eye(6, dtype=np.float32)
    W_dec = np.stack([f[0], (f[1] + f[0]) / np.sqrt(2), f[2], f[3]])
    W_enc = np.stack([f[0] - f[1], np.sqrt(2) * f[1], f[2], f[3]])
    enc = {"W_enc": jnp.asarray(W_enc.T), "b_enc": jnp.zeros(4)}
    spec = make_spec("untied", 6, 4).at_inference()
    sae = SAE(
        Weights(jnp.asarray(W_dec), jnp.zeros(6), enc), {"progress": jnp.float32(1)}, {}, spec
    )
    records = SimpleNamespace(latents=pd.DataFrame({"dead": [False, False, True, False]}))
    family = pd.DataFrame(
        {"parent_latent": [0], "child_latent": [1], "share": [1.0], "rate": [0.0]}
    )
    scored = SimpleNamespace(records=records, pairs=family)
    rng = np.random.default_rng(0)
    a = 1 + 0.2 * rng.standard_normal((4000, 2))
    a *= rng.random((4000, 1)) < [[0.5, 0.2]]
    a[:, 0] = np.where(a[:, 1] > 0, 1 + 0.2 * rng.standard_normal(4000), a[:, 0])  # child, parent
    x = jnp.asarray(a @ f[:2], jnp.float32)
    table = detectors(sae, scored, x)
    assert len(table) == 3  # of three living latents
    assert table["absorbed"].tolist() == [True, False, False]
    for detector in DETECTORS:
        assert table[detector][0] > table[detector][1:].max() + 0.03, detector
    assert table["weights"][0] == pytest.approx(1 / np.sqrt(2), abs=1e-5)


def test_figures_on_tables_made_by_hand():
    rng = np.random.default_rng(0)
    rows = pd.MultiIndex.from_product(
        [["trees", "independent"], ["untied", "tied"], range(3)],
        names=["world", "recipe", "world_seed"],
    ).to_frame(index=False)
    table = rows.assign(**{score: rng.random(len(rows)) for score in SCORES})
    fig, frame = modes_by_recipe(table, SCORES, "title", "note")
    assert len(fig.axes) == 12 and len(frame) == 12 * 4
    pairs = pd.concat([rows] * 20, ignore_index=True)
    pairs["absorbed"] = rng.random(len(pairs)) < 0.3
    for detector in DETECTORS:
        pairs[detector] = rng.random(len(pairs))
    pairs["both"] = pairs["absorbed"] + 0.1 * pairs["both"]
    fig, frame = detector_curves(
        pairs,
        DETECTORS,
        {"a": ("trees",), "b": ("trees", "independent")},
        "title",
        "note",
    )
    best = frame[frame["detector"] == "both"]
    assert (best["auroc"] == 1).all() and (best["mean"] == 1).all() and (best["n"] == 3).all()
    latents = pd.DataFrame({"recipe": ["untied"] * 3 + ["tied"], "gain": [0.5, 1.0, np.nan, 1.0],
                            "ablation_residual": [0.5, 0, 0, 0],
                            "ablation_interference": [0.1, 0.2, 0.3, 0.4]})  # fmt: skip
    fig, frame = ablation_scatter(latents, "title", "note")
    assert len(frame) == 3
    square = {"feature ×\nlatent": np.eye(3), "encoder ×\ndecoder": -np.eye(3)}
    fig, frame = cosine_matrices({"untied\ntrees": square}, "title", "note")
    assert len(frame) == 18 and frame["cos"].sum() == 0


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("worlds", ("forest",), "unknown world 'forest'"), ("recipes", ("mlp",), "'mlp' has no"),
     ("recipes", ("untide",), "untied"), ("n_eval", 0, "n_eval 0")],
)  # fmt: skip
def test_impossible_options_are_refused_before_any_training(tmp_path, option, value, says):
    asked = replace(study, options=replace(study.options, **{option: value}))
    with pytest.raises(ToysaeError, match=says):
        run(asked, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_knobs_are_the_experiments_and_the_rest_the_recipes_own():
    o = study.options
    assert numbers("untied", o)["l1_coeff"] == o.l1_coeff
    assert numbers("jumprelu", o)["l0_coeff"] > 0
    batchtopk = numbers("batchtopk", o)
    assert batchtopk["k"] == 1.25 * TRUE_L0 and batchtopk["aux_coeff"] == 1.0


@pytest.mark.slow
def test_the_study_on_tiny_sizes_has_every_sae_once(options, tmp_path):
    asked = replace(study, options=options)
    results = run(asked, tmp_path, quiet=True)
    table = results.table
    settings = table[["world", "recipe", "world_seed"]]
    assert len(settings) == len(settings.drop_duplicates()) == 2 * 2 * 2
    assert list(settings.nunique()) == [2, 2, 2]
    assert set(SCORES) <= set(table) and table["mmcs"].between(0, 1).all()
    assert (table.groupby(["world", "world_seed"])["true_l0"].nunique() == 1).all()
    of_latents, pairs = records(results, "latent_"), records(results, "pair_")
    alive = table["d_sae"] - table["dead_latents"]
    assert len(of_latents) == alive.sum() and len(pairs) == (alive * (alive - 1) / 2).sum()
    tied = of_latents[of_latents["recipe"] == "tied"]
    np.testing.assert_allclose(tied["gain"], 1, atol=1e-5)  # e = d, of unit length
    assert not pairs.loc[pairs["world"] == "independent", "absorbed"].any()
    assert len(study.answer(options, results)["modes"]) == 4
    drawn = {name: frame for name, _, frame in study.draw(options, results)}
    assert next(iter(drawn)) == "modes" and list(drawn)[-2:] == ["ablation", "matrices"]
    # Each SAE's matched latents stand on the diagonal: their mean cosine is its mcc.
    cos = drawn["matrices"]
    diagonal = cos[(cos["row"] == cos["column"]) & (cos["matrix"] == "feature × latent")]
    mcc = table[table["world_seed"] == 0].set_index(["recipe", "world"])["mcc"]
    for sae, part in diagonal.groupby("sae"):
        assert part["cos"].mean() == pytest.approx(mcc[tuple(sae.split(", "))], abs=1e-5)


@pytest.mark.slow
def test_a_measure_leaves_out_what_diverged_and_sees_each_sae_alone(options):
    cell = cells(options)[0]
    trained = train_ensemble(cell.ensemble, 5, recovery_probe, 1)
    measure = FailureModes(1024)

    def measured(worlds, diverged):
        ensemble = replace(
            cell.ensemble, worlds=jax.tree.map(lambda leaf: leaf[worlds], cell.ensemble.worlds),
            world_seeds=cell.ensemble.world_seeds[worlds],
        )  # fmt: skip
        saes = jax.tree.map(lambda leaf: leaf[worlds], trained.saes)
        of_worlds = replace(trained, saes=saes, diverged=np.array(diverged)[:, None])
        return measure(ensemble, of_worlds, 5)

    table, arrays = measured(np.array([0, 1]), [True, False])
    assert table["diverged"].tolist() == [True, False]
    assert table["mmcs"].isna().tolist() == [True, False]
    assert np.isnan(arrays["pair_both"][0]).all() and np.isfinite(arrays["pair_both"][1]).any()
    alone, arrays_alone = measured(np.array([1]), [False])
    second = table[1:].assign(row=0).reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, second, check_dtype=False)
    none, arrays_none = measured(np.array([1]), [True])
    assert len(none) == 1 and none["diverged"].all()
    assert arrays_none.keys() == arrays_alone.keys() == arrays.keys()
    for name in set(arrays) - {"curve_steps"}:
        np.testing.assert_array_equal(arrays_alone[name], arrays[name][1:])
        assert arrays_none[name].shape == arrays_alone[name].shape
    assert measure.row_bytes(cell.ensemble) > 4 * len(PAIRS) * arrays["pair_both"].shape[1]
