"""The arm held at the truth, and verdicts on a world whose minima are known."""

from dataclasses import replace

import numpy as np
import pytest

from toysae import Experiment, ToysaeError
from toysae.evaluation import summarise_minima, summarise_runs
from toysae.recovery import bad_minima, verdicts
from toysae.sae import RECIPES, make_spec
from toysae.sae.decoders import Orthonormal, TightFrame
from toysae.sae.frozen import Frozen, SoftFrozen
from toysae.sae.resampling import Never
from toysae.sweeps import run
from toysae.sweeps.cells import cells

E = Experiment(
    question="Who is to blame?", worlds=("absorption",), recipes=("tied", "untied"),
    at_truth=True, l1_coeff=(0.1,), world_seeds=4, sae_seeds=3, n_steps=1500, batch_size=128,
    lr=1e-2, lr_decay=0.3, n_eval=8192, curve_points=1, save_params=False,
)  # fmt: skip
SMALL = replace(E, worlds=("sphere",), d_in=8, ratios=(1, 2), l0=1.5)


def test_every_recipe_is_held_that_does_not_hold_its_own_decoder():
    plan = cells(replace(SMALL, recipes=tuple(RECIPES)))
    held = {c.columns["recipe"]: c for c in plan if c.columns["init"] == "at-truth"}
    own = {recipe: make_spec(recipe, 8, 16).decoder for recipe in RECIPES}
    holding = Orthonormal | TightFrame | Frozen | SoftFrozen
    assert set(RECIPES) - set(held) == {
        recipe for recipe, decoder in own.items() if isinstance(decoder, holding)
    }
    for recipe, cell in held.items():
        decoder = cell.spec.decoder
        assert isinstance(decoder, Frozen) and cell.spec.resample == Never()
        assert (decoder.bias, decoder.bias_start) == (own[recipe].bias, own[recipe].bias_start)
        n_features = cell.data.worlds.n_features
        assert cell.spec == replace(
            make_spec(recipe, 8, n_features, "truth"), decoder=decoder, resample=Never()
        )
        assert cell.name.endswith(f"{recipe}-at-truth-s{n_features}")


def test_only_as_many_latents_as_features_can_be_held():
    plan = cells(replace(SMALL, sizes=(0.5, 1.0, 2.0)))
    assert {
        c.spec.d_sae / c.data.worlds.n_features for c in plan if c.columns["init"] == "at-truth"
    } == {1.0}
    for nothing in ({"sizes": (2.0,)}, {"recipes": ("held-orthogonal",)}):
        with pytest.raises(ToysaeError, match="at_truth: no decoder can be held .*size 1"):
            cells(replace(SMALL, **nothing))
    assert not any(c.columns["init"] == "at-truth" for c in cells(replace(SMALL, at_truth=False)))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return run(E, tmp_path_factory.mktemp("runs") / "absorption", quiet=True).table


@pytest.mark.slow
def test_losses_are_those_of_the_closed_form(table):
    """Orthogonal features, magnitude 1: a latent of a part of length m costs λ m - λ²/4. Four
    latents at the truth pay for each feature that is on; the absorbed solution has one latent for
    parent and child together, of length √2."""
    firing, absorbed, l1 = 0.25 + 3 * 0.05, 0.2 + 2 * 0.05, 0.1
    truth_loss = firing * (l1 - l1**2 / 4)
    held = table[table["init"] == "at-truth"]
    np.testing.assert_allclose(held["mmcs"], 1, atol=1e-5)
    np.testing.assert_allclose(held["eval_loss"], truth_loss, rtol=0.04)
    left = table[(table["recipe"] == "untied") & (table["init"] == "truth")]
    absorbed_loss = absorbed * (l1 - l1**2 / 4) + 0.05 * (l1 * np.sqrt(2) - l1**2 / 4)
    np.testing.assert_allclose(left["eval_loss"], absorbed_loss, rtol=0.04)
    np.testing.assert_allclose(left["mcs_above_0.9"], 0.75)  # the child is at cosine √½


@pytest.mark.slow
def test_the_loss_of_fista_at_the_truth_is_that_of_its_objective(tmp_path):
    """Without its lambda |z|_1 the loss would fall by nine tenths, and the verdict would flip."""
    asked = replace(
        E, worlds=("sphere",), d_in=16, ratios=(2,), l0=3.0, recipes=("fista",), inits=("truth",),
        l1_coeff=(0.2,), world_seeds=1, sae_seeds=1, n_steps=3000,
    )  # fmt: skip
    losses = run(asked, tmp_path / "out", quiet=True).table.set_index("init")["eval_loss"]
    assert losses["at-truth"] == pytest.approx(0.2667, abs=0.02)
    assert losses["at-truth"] - 0.01 < losses["truth"] < losses["at-truth"]


@pytest.mark.slow
def test_a_tied_sae_misses_by_its_optimiser_an_untied_one_by_its_objective(table):
    judged = verdicts(table)
    tied, untied = (judged[judged["recipe"] == recipe] for recipe in E.recipes)
    assert set(tied["verdict"]) == {"recovered", "optimiser"} and (tied["left_truth"] == 0).all()
    assert (tied.loc[tied["verdict"] == "optimiser", "loss_gap"] > 0.05).all()
    assert (untied["left_truth"] == 1).all() and not (untied["verdict"] == "recovered").any()
    absorbed = untied[untied["verdict"] == "objective"]
    assert len(absorbed) >= 6 and (absorbed["mcs_above_0.9"] == 0.75).all()
    np.testing.assert_allclose(absorbed["loss_gap"], -0.07, atol=0.01)
    assert (untied.drop(absorbed.index)["loss_gap"] > 0.05).all()  # a dead latent, say
    shares = bad_minima(judged, ["recipe"]).set_index(["recipe", "verdict"])["share"]
    assert round(shares["untied", "objective"], 12) >= 0.5 > shares["tied", "objective"] == 0
    lines = summarise_minima(table).set_index("SAE")
    assert list(lines.index) == ["tied, recipe", "untied, recipe"]
    assert lines.loc["untied, recipe", "recovered"].startswith("0.00 [0.00, 0.6")
    assert lines["truth left"].tolist() == ["0.00", "1.00"]
    arms = summarise_runs(table)["SAE"].tolist()
    assert "tied, held at the truth" in arms and len(arms) == 6
