"""The notebook's entry: grids, seeds, and scores that a fresh sample confirms."""

import jax
import numpy as np
import pytest

from toysae import ToysaeError, make_spec, make_world, train
from toysae.sae import RECIPES
from toysae.training.members import make_ensemble, member_grid
from toysae.worlds import sample, stack

QUIET = {"n_steps": 300, "batch_size": 64, "n_eval": 8192, "curve_points": 4, "quiet": True}


@pytest.fixture(scope="module")
def world():
    return make_world("sphere", 0, d_in=8, n_features=12, l0=1.5)


@pytest.fixture(scope="module")
def result(world):
    return train(world, "untied", l1_coeff=[0.05, 0.15, 0.4], lr=5e-3, sae_seeds=(3, 8), **QUIET)


def numpy_scores(world, sae, n=20_000):
    x = np.asarray(sample(world, jax.random.key(12345), n).x)
    f = sae(jax.numpy.asarray(x))
    error = ((x - np.asarray(f.x_hat)) ** 2).sum(1).astype(np.float64).mean()
    z = np.asarray(f.z)
    return {"l0": (z != 0).sum(1).mean(), "ev": 1 - error / x.astype(np.float64).var(0).sum(),
            "dead_latents": ((z != 0).sum(0) == 0).sum()}  # fmt: skip


def test_a_grid_has_a_row_for_each_number_and_seed(result):
    table = result.table
    assert len(table) == 6 == len(result.arrays["mcs"])
    np.testing.assert_allclose(table["l1_coeff"], np.repeat([0.05, 0.15, 0.4], 2), rtol=1e-6)
    assert table["sae_seed"].tolist() == [3, 8] * 3
    assert (table["d_sae"] == 12).all() and not table["diverged"].any()


def test_a_fresh_sample_confirms_the_table(world, result):
    for row in range(6):
        fresh = numpy_scores(world, result.sae(row))
        line = result.table.iloc[row]
        assert fresh["l0"] == pytest.approx(line["l0"], rel=0.05)
        assert fresh["ev"] == pytest.approx(line["ev"], abs=0.02)
        W = np.asarray(result.sae(row).W_dec, np.float64)
        cos = np.asarray(world.directions, np.float64) @ W.T / np.linalg.norm(W, axis=1)
        assert cos.max(1).mean() == pytest.approx(line["mmcs"], abs=1e-5)
        assert cos.max(0).mean() == pytest.approx(line["mmcs_latents"], abs=1e-5)
        assert np.abs(cos).max(1).mean() == pytest.approx(line["mmcs_abs"], abs=1e-5)
    # A larger coefficient is a sparser SAE.
    l0 = result.table.groupby("l1_coeff")["l0"].mean().to_numpy()
    assert np.all(np.diff(l0) < 0)


def test_batchtopk_is_scored_as_it_is_used(world):
    result = train(world, "batchtopk", k=[1.5, 3], lr=5e-3, **QUIET)
    assert result.table["k"].tolist() == [1.5, 3.0]
    for row in range(2):
        fresh = numpy_scores(world, result.sae(row))
        assert fresh["l0"] == pytest.approx(result.table["l0"][row], rel=0.05)
        assert fresh["ev"] == pytest.approx(result.table["ev"][row], abs=0.02)
        # One sample at a time gives the same codes: no batch is needed any more.
        x = sample(world, jax.random.key(1), 8).x
        sae = result.sae(row)
        np.testing.assert_allclose(sae.encode(x)[5], sae.encode(x[5]), atol=1e-6)


def test_a_spec_may_be_given_instead_of_a_name(world, result):
    again = train(world, make_spec("untied", 8, 12), l1_coeff=[0.05, 0.15, 0.4], lr=5e-3,
                  lr_decay=0.3, sae_seeds=(3, 8), **QUIET)  # fmt: skip
    np.testing.assert_array_equal(again.table["mmcs"], result.table["mmcs"])


@pytest.mark.parametrize(
    ("recipe", "given", "message"),
    [
        ("untied", {"l1_coeff": 0.1, "l1_coef": 2.0}, r"unknown hyperparameter 'l1_coef'.*did you "
         r"mean 'l1_coeff'.*known:.*beta1.*l1_coeff.*l1_warmup.*lr"),
        ("untied", {"l1_coeff": 0.1, "k": 3}, "unknown hyperparameter 'k'.*known:.*l1_coeff"),
        ("topk", {"k": 3, "l1_coeff": 0.1}, r"unknown hyperparameter 'l1_coeff'.*known:.*k, lr"),
        ("untied", {}, "l1_coeff is required"),
        ("topk", {}, "k is required"),
        ("topk", {"k": 13}, "k 13 is more than d_sae = 12"),
        ("topk", {"k": 0}, "k 0 is outside"), ("batchtopk", {"k": 0}, "k 0 keeps nothing"),
        ("untied", {"l1_coeff": []}, "l1_coeff is an empty grid"),
        ("untied", {"l1_coeff": 0.1, "lr": [-1.0]}, r"lr -1 is outside \[0, inf\]"),
        ("untied", {"l1_coeff": 0.1, "n_steps": 0}, "n_steps 0"),
        ("untied", {"l1_coeff": 0.1, "n_eval": 0}, "n_eval 0"),
        ("untied", {"l1_coeff": 0.1, "batch_size": 0}, "batch_size 0"),
        ("untied", {"l1_coeff": 0.1, "sae_seeds": ()}, "sae_seeds is empty"),
        ("untied", {"l1_coeff": 0.1, "d_sae": 0}, "d_sae 0"),
        ("untied", {"l1_coeff": 0.1, "init": "svdd"}, "unknown init 'svdd'"),
        ("unties", {"l1_coeff": 0.1}, "unknown recipe 'unties'"),
        (make_spec("untied", 9, 12), {"l1_coeff": 0.1}, "d_in 9 is not the world's 8"),
        (make_spec("untied", 8, 12), {"l1_coeff": 0.1, "d_sae": 12}, "belong into the spec"),
        (make_spec("untied", 8, 12), {"settings": "paper"}, "settings 'paper' are a recipe's"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(world, recipe, given, message):
    with pytest.raises(ToysaeError, match=message):
        train(world, recipe, **{**QUIET, **given})


@pytest.mark.parametrize("row", [-1, 6])
def test_no_such_row(result, row):
    with pytest.raises(ToysaeError, match=f"row {row} is out of range: write 0 to 5"):
        result.sae(row)


def test_a_dictionary_too_large_names_gib(world):
    with pytest.raises(ToysaeError, match=r"d_sae 20000000000 .* GiB"):
        train(world, "untied", d_sae=20_000_000_000, l1_coeff=0.1, **QUIET)


def test_member_grid_is_a_product_with_seeds_fastest():
    spec = make_spec("untied", 8, 12)
    hypers, seeds = member_grid(spec, {"lr": [1e-3, 1e-2], "l1_coeff": (0.1, 0.2)}, [5, 6, 7])
    assert len(seeds) == 12 and seeds.tolist() == [5, 6, 7] * 4
    np.testing.assert_allclose(hypers["lr"], [1e-3] * 6 + [1e-2] * 6)
    np.testing.assert_allclose(hypers["l1_coeff"], ([0.1] * 3 + [0.2] * 3) * 2)
    np.testing.assert_array_equal(hypers["beta1"], np.full(12, np.float32(0.9)))
    assert all(v.dtype == np.float32 and v.shape == (12,) for v in hypers.values())


def test_a_world_for_each_seed(world):
    spec, given = make_spec("untied", 8, 12), {"l1_coeff": 0.1}
    listed = make_ensemble([world, world], [0, 1], spec, given, [0], 32)
    stacked = make_ensemble(stack([world, world]), [0, 1], spec, given, [0], 32)
    assert jax.tree.structure(listed) == jax.tree.structure(stacked)
    np.testing.assert_array_equal(listed.worlds.directions, stacked.worlds.directions)
    for worlds in (world, [world], stack([world])):
        with pytest.raises(ToysaeError, match=r"directions \(.*\) are not those of 2 stacked"):
            make_ensemble(worlds, [0, 1], spec, given, [0], 32)


def test_numbers_not_given_come_from_the_row_or_the_paper(world):
    given = {"l0_coeff": 0.01, **QUIET}
    toy = train(world, "jumprelu-2024", **given).table.iloc[0]
    assert toy["bandwidth"] == np.float32(RECIPES["jumprelu-2024"].toy["bandwidth"])
    assert train(world, "jumprelu-2024", bandwidth=0.3, **given).table["bandwidth"][
        0
    ] == np.float32(0.3)
    paper = train(world, "cunningham-2023", settings="paper", **QUIET).table.iloc[0]
    assert paper["lr"] == np.float32(1e-3) and paper["l1_coeff"] == np.float32(8.6e-4 * world.d_in)
    with pytest.raises(ToysaeError, match='settings for "pre-bias.*settings="toy"'):
        train(world, "untied", settings="paper", l1_coeff=0.1, **QUIET)
    with pytest.raises(ToysaeError, match="unknown settings 'papr'.*did you mean 'paper'"):
        train(world, "gated-2024", settings="papr", l1_coeff=0.1, **QUIET)
