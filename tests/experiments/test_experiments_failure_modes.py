"""failure_modes: its detectors on an SAE made by hand, its figures, and what it refuses."""

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from toysae.errors import ToysaeError
from toysae.plotting import failure_modes as draw
from toysae.sae import SAE, make_spec
from toysae.sae.part import Weights

FILE = Path(__file__).parents[2] / "experiments" / "failure_modes.py"


@pytest.fixture(scope="module")
def module():
    return runpy.run_path(str(FILE))


def test_detectors_see_the_absorbed_pair_and_leave_out_the_dead(module):
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
    table = module["detectors"](sae, scored, x)
    assert len(table) == 3  # of three living latents
    assert table["absorbed"].tolist() == [True, False, False]
    for detector in module["DETECTORS"]:
        assert table[detector][0] > table[detector][1:].max() + 0.03, detector
    assert table["weights"][0] == pytest.approx(1 / np.sqrt(2), abs=1e-5)


def test_figures_on_tables_made_by_hand(module):
    rng = np.random.default_rng(0)
    rows = pd.MultiIndex.from_product(
        [["trees", "independent"], ["untied", "tied"], range(3)],
        names=["world", "recipe", "world_seed"],
    ).to_frame(index=False)
    table = rows.assign(**{score: rng.random(len(rows)) for score in module["SCORES"]})
    fig, frame = draw.modes_by_recipe(table, module["SCORES"], "title", "note")
    assert len(fig.axes) == 12 and len(frame) == 12 * 4
    pairs = pd.concat([rows] * 20, ignore_index=True)
    pairs["absorbed"] = rng.random(len(pairs)) < 0.3
    for detector in module["DETECTORS"]:
        pairs[detector] = rng.random(len(pairs))
    pairs["both"] = pairs["absorbed"] + 0.1 * pairs["both"]
    fig, frame = draw.detector_curves(
        pairs,
        module["DETECTORS"],
        {"a": ("trees",), "b": ("trees", "independent")},
        "title",
        "note",
    )
    best = frame[frame["detector"] == "both"]
    assert (best["auroc"] == 1).all() and (best["mean"] == 1).all() and (best["n"] == 3).all()
    latents = pd.DataFrame({"recipe": ["untied"] * 3 + ["tied"], "gain": [0.5, 1.0, np.nan, 1.0],
                            "ablation_residual": [0.5, 0, 0, 0],
                            "ablation_interference": [0.1, 0.2, 0.3, 0.4]})  # fmt: skip
    fig, frame = draw.ablation_scatter(latents, "title", "note")
    assert len(frame) == 3
    square = {"feature ×\nlatent": np.eye(3), "encoder ×\ndecoder": -np.eye(3)}
    fig, frame = draw.cosine_matrices({"untied\ntrees": square}, "title", "note")
    assert len(frame) == 18 and frame["cos"].sum() == 0


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("worlds", ("forest",), "unknown world 'forest'"), ("recipes", ("mlp",), "'mlp' has no"),
     ("recipes", ("untide",), "untied"), ("n_eval", 0, "n_eval 0")],
)  # fmt: skip
def test_impossible_options_are_refused_before_any_training(module, tmp_path, option, value, says):
    with pytest.raises(ToysaeError, match=says):
        module["run"](replace(module["Options"](), **{option: value}), tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_knobs_are_the_experiments_and_the_rest_the_recipes_own(module):
    o = module["Options"]()
    assert module["numbers"]("untied", o)["l1_coeff"] == o.l1
    assert module["numbers"]("jumprelu", o)["l0_coeff"] > 0
    batchtopk = module["numbers"]("batchtopk", o)
    assert batchtopk["k"] == 1.25 * module["TRUE_L0"] and batchtopk["aux_coeff"] == 1.0
