"""The pair worlds realise what they are asked for; scores have closed forms on known SAEs."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tied_vs_untied.experiment import SETTING, arms, best, pairs, study
from experiments.tied_vs_untied.figures import merged, orthogonalised
from experiments.tied_vs_untied.measure import score
from toysae import run
from toysae.errors import ToysaeError
from toysae.recovery import mmcs
from toysae.sae import SAE, make_spec
from toysae.sae.component import Weights
from toysae.sae.decoders import UnitNorm
from toysae.worlds.world import sample, stack

N = 65_536


@pytest.fixture(scope="module")
def options():
    return replace(
        study.options, rho=(0.0, 0.6), co_occurrence=(0.0, 1.0), spread=(0.0,), d_in=4,
        world_seeds=2, l1_coeff=(0.1, 0.3), arms=("tied", "untied"), n_steps=20, n_eval=512,
    )  # fmt: skip


def pair_world(o, seed, spread, co_occurrence, rho):
    o = replace(o, spread=(spread,), co_occurrence=(co_occurrence,), rho=(rho,))
    return jax.tree.map(lambda leaf: leaf[seed], pairs(replace(o, world_seeds=seed + 1)).worlds)


@pytest.mark.parametrize("rho", [0.0, 0.4, 0.8])
def test_pairs_have_their_cosine_and_are_orthogonal_to_each_other(options, rho):
    world = pair_world(replace(options, d_in=16), 3, 0.3, 0.4, rho)
    wanted = np.kron(np.eye(8), [[1, rho], [rho, 1]])
    np.testing.assert_allclose(world.directions @ world.directions.T, wanted, atol=1e-6)


@pytest.mark.parametrize("co", [0.0, 0.1, 0.4, 1.0])
def test_firing_and_co_occurrence_are_realised(options, co):
    o = replace(options, d_in=16, p=0.1)
    acts = np.asarray(sample(pair_world(o, 0, 0.0, co, 0.5), jax.random.key(0), N)
                      .feature_acts)  # fmt: skip
    on = acts != 0
    both = (on[:, ::2] & on[:, 1::2]).mean(0)
    sd = np.sqrt(o.p / N)
    np.testing.assert_allclose(on.mean(0), o.p, atol=5 * sd)
    np.testing.assert_allclose(both, co * o.p, atol=5 * sd)
    if co in (0.0, 1.0):  # exactly never, exactly always
        assert (on[:, ::2] & on[:, 1::2]).sum() == co * on[:, ::2].sum()
    assert set(np.unique(acts)) == {0.0, 1.0}  # no spread


def test_spread_is_the_sd_of_magnitudes(options):
    world = pair_world(replace(options, d_in=16), 0, 0.3, 0.4, 0.5)
    acts = np.asarray(sample(world, jax.random.key(0), N).feature_acts)
    values = acts[acts != 0]
    np.testing.assert_allclose([values.mean(), values.std()], [1, 0.3], atol=0.01)


@pytest.mark.parametrize(("encoder", "f1", "l0_ratio"), [("dual", 1.0, 1.0), ("tied", 2 / 3, 2.0)])
def test_scores_of_the_true_dictionary(options, encoder, f1, l0_ratio):
    # Of an exclusive pair, the dual vector of a is silent on b; a itself fires on both.
    world = pair_world(replace(options, d_in=8), 0, 0.0, 0.0, 0.6)
    W_dec = world.directions
    W_enc = jnp.linalg.pinv(W_dec) if encoder == "dual" else W_dec.T
    enc = {"W_enc": W_enc, "b_enc": jnp.full(8, -1e-3)}  # the dual's zeros are rounded
    sae = SAE(
        Weights(W_dec, None, enc), {}, {}, make_spec("untied", 8, 8, decoder=UnitNorm("none"))
    )
    saes = jax.tree.map(lambda leaf: leaf[None, None], sae)
    scores = score(saes, stack([world]), jnp.array([5], jnp.int32), N)
    scores = {name: float(value[0, 0]) for name, value in scores.items()}
    assert scores["mmcs"] == pytest.approx(1, abs=1e-6) and scores["mcs_above_0.95"] == 1
    assert scores["f1"] == pytest.approx(f1, abs=0.01)
    assert scores["l0"] / scores["true_l0"] == pytest.approx(l0_ratio, abs=1e-5)
    if encoder == "dual":
        assert scores["ev"] > 0.9999


def test_arms_differ_in_the_encoder_alone():
    made = arms(study.options)
    assert list(made)[:3] == ["tied", "tied-gain", "untied"] and "similarity" in list(made)[3]
    assert len({spec.decoder for spec, _ in made.values()}) == 1
    assert len({spec.init for spec, _ in made.values()}) == 1
    specs = [spec for spec, _ in made.values()]
    assert specs[3].encoder == specs[2].encoder and specs[3].penalty != specs[2].penalty
    assert len({spec.penalty for spec in specs[:3]}) == 1


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
def test_reference_lines_are_the_mmcs_of_such_dictionaries(rho):
    a, b = np.eye(3)[0], np.array([rho, np.sqrt(1 - rho**2), 0])
    truth = jnp.array([a, b])
    rest = jnp.array([a, b - rho * a])
    np.testing.assert_allclose(mmcs(truth, rest), orthogonalised(np.array([rho]))[0], rtol=1e-6)
    np.testing.assert_allclose(
        mmcs(truth, jnp.array([a + b])), merged(np.array([rho]))[0], rtol=1e-6
    )


@pytest.mark.slow
def test_the_study_on_tiny_sizes_scores_every_arm_on_the_same_worlds(options, tmp_path):
    asked = replace(study, options=options)
    results = run(asked, tmp_path, quiet=True)
    table = results.table.rename(columns={"magnitude_spread": "spread"})
    names = list(arms(options))
    assert len(table) == len(names) * 2 * 2 * 2 * 2  # rho, co-occurrence, seeds, L1
    assert list(table["arm"].unique()) == names
    assert not table["diverged"].any()
    assert table["mmcs"].between(0, 1).all() and table["f1"].between(0, 1).all()
    keys = [*SETTING, "world_seed"]
    assert (table.groupby(keys)["true_l0"].nunique() == 1).all()  # the same samples
    assert (table.groupby([*keys, "l1_coeff"])["mmcs"].nunique() > 1).all()  # but other SAEs
    chosen = best(results)
    assert len(chosen) == len(table) / 2 and not chosen["selected_on_self"].any()
    drawn = {name: frame for name, _, frame in study.draw(options, results)}
    assert list(drawn) == ["curves_spread_0", "differences"]
    maps = drawn["differences"]
    cell = maps[(maps["score"] == "f1") & (maps["other"] == "tied") & (maps["rho"] == 0.6)
                & (maps["co_occurrence"] == 0)].iloc[0]  # fmt: skip
    here = chosen[(chosen["rho"] == 0.6) & (chosen["co_occurrence"] == 0)].set_index("arm")
    difference = here.loc["untied", "f1"].to_numpy() - here.loc["tied", "f1"].to_numpy()
    assert cell["mean"] == pytest.approx(difference.mean(), rel=1e-4) and cell["n"] == 2
    # Each row's world is the one that it says.
    row = table.index[(table["rho"] == 0.6) & (table["world_seed"] == 1)][0]
    rows = results.world(int(row)).directions
    np.testing.assert_allclose(rows[0] @ rows[1], 0.6, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("world_seeds", 0, "world_seeds 0 must be at least 1"),
        ("n_steps", 0, "n_steps 0 must be at least 1"),
        ("n_eval", 0, "n_eval 0 must be at least 1"),
        ("l1_coeff", (), "l1_coeff is empty"),
        ("d_in", 7, "7"),
    ],
)
def test_impossible_options_are_refused_before_any_training(tmp_path, option, value, says):
    asked = replace(study, options=replace(study.options, **{option: value}))
    with pytest.raises(ToysaeError, match=says):
        run(asked, tmp_path)
    assert not list(tmp_path.iterdir())
