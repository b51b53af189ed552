"""label_free_signals: its pairs of SAEs, its tasks, its figures, and what it refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments.label_free_signals.experiment import (
    SIGNALS,
    TASKS,
    cells,
    compared,
    correlations,
    signals,
    study,
)
from experiments.label_free_signals.figures import correlation_bars, signals_against_truth
from experiments.label_free_signals.measure import of_weights
from toysae import run
from toysae.errors import ToysaeError
from toysae.sae import SAE, make_spec
from toysae.sae.component import Weights
from toysae.worlds import make_world, stack


def test_an_sae_is_compared_with_the_other_seed_of_its_size_and_of_the_next():
    o = replace(study.options, sizes=(1.0, 2.0), l1_coeff=(0.1,), world_seeds=1)
    rng = np.random.default_rng(0)
    small, large = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 6, 4))
    large[0, :3] = small[0]  # seed 0's latents are all in the larger one
    small[1] = small[0, ::-1]  # and seed 1's are the same, in another order
    rows = pd.DataFrame({
        "world": "uniform", "size": [1.0, 1.0, 2.0, 2.0], "l1_coeff": 0.1, "world_seed": 0,
        "sae_seed": [0, 1, 0, 1], "mse": [2.0, 2.0, 1.0, 1.0],
    })  # fmt: skip
    found = [(np.float32(W), np.ones(len(W), bool)) for W in (*small, *large)]
    table = compared(o, rows, found).set_index(["size", "sae_seed"])
    assert table.loc[(1.0, 1), "mmcs_larger"] == pytest.approx(1, abs=1e-5)
    assert table.loc[(1.0, 0), "mmcs_larger"] < 0.99
    assert table.loc[(1.0, 0), "stability"] == pytest.approx(1, abs=1e-5)
    assert table.loc[(1.0, 0), "mmcs_seeds"] == pytest.approx(1, abs=1e-5)
    assert table.loc[(1.0, 0), "plateau"] == -0.5  # the next size halves the loss
    assert table.loc[2.0, ["mmcs_larger", "plateau"]].isna().all(axis=None)
    # What could not be trained is compared with nothing.
    alone = compared(o, rows[:1], found[:1])
    assert alone[["mmcs_seeds", "stability", "mmcs_larger", "plateau"]].isna().all(axis=None)


def test_weights_are_scored_on_what_lives():
    world = make_world("orthogonal", 0, d_in=4, n_features=4, l0=1.0)
    f = np.asarray(world.directions)
    W_dec = np.stack([f[0], f[1], (f[0] + f[1]) / np.sqrt(2), f[0]])
    W_enc = np.stack([f[0], f[2], f[0], f[3]])
    enc = {"W_enc": jnp.asarray(W_enc.T), "b_enc": jnp.zeros(4)}
    sae = SAE(Weights(jnp.asarray(W_dec), jnp.zeros(4), enc), {}, {}, make_spec("untied", 4, 4))
    saes = jax.tree.map(lambda leaf: leaf[None, None], sae)
    alive = jnp.array([True, True, True, False])[None, None]
    scores = {k: float(v[0, 0]) for k, v in of_weights(saes, stack([world]), alive).items()}
    half = np.sqrt(0.5)
    assert scores["mmcs"] == pytest.approx(0.5, abs=1e-6) and scores["mcs_above_0.9"] == 0.5
    assert scores["enc_dec_cos"] == pytest.approx((1 + 0 + half) / 3, abs=1e-6)
    assert scores["mean_abs_cos"] == pytest.approx((0 + half + half) / 3, abs=1e-6)


def made():
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [["uniform", "zipf"], range(3), range(2), (0.5, 1.0, 2.0), (0.1, 0.2, 0.4)],
        names=["world", "world_seed", "sae_seed", "size", "l1_coeff"],
    )
    table = index.to_frame(index=False)
    table["mmcs"], table["diverged"] = rng.random(len(table)), False
    for signal in SIGNALS:
        table[signal] = rng.random(len(table))
    table["stability"] = table["mmcs"]
    table["mmcs_larger"] = np.where(table["size"] < 2, -table["mmcs"], np.nan)
    return table


def test_signals_are_judged_without_the_largest_size_and_what_failed():
    table = made()
    table.loc[table["size"] == 2.0, "stability"] *= -100
    table.loc[0, ["diverged", "stability"]] = True, -9.0
    table.loc[1, ["alive", "stability"]] = 0.0, -9.0
    found = correlations(table).set_index(["signal", "task"])
    assert set(found["world"]) == {"uniform", "zipf"}
    for task in TASKS:
        assert np.allclose(found.loc[("stability", task), "mean"], 1)
        assert np.allclose(found.loc[("stability", task), "regret"], 0)
        assert np.allclose(found.loc[("mmcs_larger", task), "mean"], -1)


def test_figures_have_a_row_a_signal():
    table = made()
    fig, frame = correlation_bars(correlations(table), SIGNALS, TASKS, "title", "note")
    assert len(fig.axes) == 2 * len(TASKS) and len(frame) == 3 * 2 * 9
    fig, frame = signals_against_truth(table, SIGNALS, "title", "note")
    assert len(fig.axes) == 2 * 9 and len(frame) == len(table)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The study, and its results, with a world that is not the plain one."""
    options = replace(
        study.options, d_in=4, worlds=("uniform", "ratio 4"), sizes=(0.5, 1.0),
        l1_coeff=(0.03, 0.3), l0=1.0, world_seeds=2, n_steps=20, batch_size=32, n_eval=1024,
    )  # fmt: skip
    asked = replace(study, options=options)
    return asked, run(asked, tmp_path_factory.mktemp("tiny"), quiet=True)


@pytest.mark.slow
def test_the_study_on_tiny_sizes_has_every_sae_once(tiny):
    asked, results = tiny
    table = signals(asked.options, results)
    settings = table[["world", "size", "l1_coeff", "world_seed", "sae_seed"]]
    assert len(settings) == len(settings.drop_duplicates()) == 2**5
    assert list(settings.nunique()) == [2] * 5
    assert table[["mmcs", "mmcs_seeds", "stability"]].notna().all(axis=None)
    smaller = table["size"] == 0.5
    for compares in ("mmcs_larger", "plateau"):
        assert (table[compares].notna() == smaller).all()
    assert (table.groupby(["world", "world_seed"])["true_l0"].nunique() == 1).all()
    (shown,) = study.answer(asked.options, results).values()
    assert len(shown) == len(TASKS) * len(SIGNALS)
    drawn = {name: frame for name, _, frame in study.draw(asked.options, results)}
    assert list(drawn) == ["worth", "signals"] and len(drawn["signals"]) == smaller.sum()


@pytest.mark.slow
def test_signals_are_of_the_saes_and_worlds_of_their_rows(tiny):
    asked, results = tiny
    table = signals(asked.options, results)
    place = table.set_index(["world", "size", "l1_coeff", "world_seed", "sae_seed"])
    row = table.index[(table["world"] == "ratio 4") & (table["size"] == 0.5)][-1]
    key = table.loc[row, place.index.names]
    sae, world = results.sae(row), results.world(row)
    cos = np.asarray(world.target @ sae.W_dec.T) / np.linalg.norm(sae.W_dec, axis=1)
    assert table["mmcs"][row] == pytest.approx(cos.max(1).mean(), abs=1e-5)
    larger = table["mse"][table.index[place.index == (*key[:1], 1.0, *key[2:])][0]]
    assert table["plateau"][row] == pytest.approx(larger / table["mse"][row] - 1, rel=1e-4)


def test_a_world_trains_with_all_its_sizes_on_the_same_samples():
    made = cells(study.options)
    assert [cell.columns["world"] for cell in made[::4]] == list(study.options.worlds)
    assert all(cell.data is made[i - i % 4].data for i, cell in enumerate(made))
    widths = {cell.name: cell.spec.d_sae for cell in made}
    assert widths["uniform-size-2"] == 64 and widths["ratio-4-size-2"] == 128


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("worlds", ("unifrom",), "unknown world 'unifrom'"), ("sae_seeds", 1, "sae_seeds 1"),
     ("sizes", (1.0,), "at least two"), ("sizes", (2.0, 1.0), "must rise"),
     ("l1_coeff", (), "l1_coeff is"), ("recipe", "tied", "'tied' has no encoder"),
     ("recipe", "topk", "l1_coeff")],
)  # fmt: skip
def test_impossible_options_are_refused_before_any_training(tmp_path, option, value, says):
    asked = replace(study, options=replace(study.options, **{option: value}))
    with pytest.raises(ToysaeError, match=says):
        run(asked, tmp_path)
    assert not list(tmp_path.iterdir())
