"""Label-free signals against NumPy, SciPy and cases worked by hand."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from toysae.errors import ToysaeError
from toysae.recovery.label_free import found_in, matched_cosine, rank_correlations


def rows(n, d, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, d)), jnp.float32)


def test_found_in_is_the_mean_best_cosine_of_the_living():
    a, b = rows(5, 4, 0), rows(7, 4, 1)
    cos = np.float64(a) @ np.float64(b).T
    cos /= np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(found_in(a, b), cos.max(1).mean(), rtol=1e-5)
    alive, other = np.array([1, 0, 1, 1, 0], bool), np.array([1, 1, 0, 0, 1, 1, 0], bool)
    np.testing.assert_allclose(
        found_in(a, b, jnp.asarray(alive), jnp.asarray(other)),
        cos[alive][:, other].max(1).mean(),
        rtol=1e-5,
    )
    assert np.isnan(found_in(a, b, jnp.zeros(5, bool)))
    assert np.isnan(found_in(a, b, None, jnp.zeros(7, bool)))


def test_matched_cosine_counts_every_latent_of_the_larger_one():
    a = rows(4, 6, 0)
    assert matched_cosine(a, a[::-1] * 3) == pytest.approx(1, abs=1e-5)
    twice = jnp.concatenate([a, a[:2]])
    assert matched_cosine(a, twice) == pytest.approx(4 / 6, abs=1e-5)
    assert matched_cosine(a, twice, None, [1, 1, 1, 1, 0, 0]) == pytest.approx(1, abs=1e-5)
    assert np.isnan(matched_cosine(a, a, np.zeros(4, bool)))
    assert matched_cosine(jnp.eye(2)[:1], -jnp.eye(2)[:1]) == pytest.approx(-1)


def grid(seed=0):
    rng = np.random.default_rng(seed)
    table = pd.MultiIndex.from_product(
        [["a", "b"], range(4), [0.5, 1.0], range(6)], names=["world", "world_seed", "size", "l1"]
    ).to_frame(index=False)
    table["mmcs"] = rng.random(len(table))
    table["good"] = table["mmcs"] + 0.3 * rng.standard_normal(len(table))
    table["none"] = 1.0
    table["some"] = np.where(table["world_seed"] == 3, np.nan, -table["mmcs"])
    return table


def test_rank_correlations_equal_scipy_world_by_world():
    table = grid()
    got = rank_correlations(table, ["good", "none", "some"], ["mmcs"], ["world"])
    got = got.set_index(["world", "signal"])
    for world, part in table.groupby("world"):
        rho = [
            stats.spearmanr(w["good"], w["mmcs"]).statistic for _, w in part.groupby("world_seed")
        ]
        regret = [
            w["mmcs"].max() - w["mmcs"][w["good"].idxmax()] for _, w in part.groupby("world_seed")
        ]
        row = got.loc[(world, "good")]
        np.testing.assert_allclose([row["mean"], row["regret"]], [np.mean(rho), np.mean(regret)])
        half = stats.t.ppf(0.975, 3) * np.std(rho, ddof=1) / 2
        np.testing.assert_allclose(row["half_width"], half)
        assert got.loc[(world, "none"), "n"] == 0 and np.isnan(got.loc[(world, "none"), "mean"])
        assert got.loc[(world, "some"), "n"] == 3
        assert got.loc[(world, "some"), "mean"] == pytest.approx(-1)


def test_within_holds_a_setting_fixed():
    table = grid()
    # Right within each size, wrong across sizes.
    table["signal"] = table["mmcs"] - 10 * (table["size"] == 1.0)
    table["mmcs"] += 5 * (table["size"] == 1.0)
    fixed = rank_correlations(table, ["signal"], ["mmcs"], ["world"], ["size"])
    np.testing.assert_allclose(fixed["mean"], 1)
    np.testing.assert_allclose(fixed["regret"], 0, atol=1e-12)
    free = rank_correlations(table, ["signal"], ["mmcs"], ["world"])
    assert (free["mean"] < 0).all() and (free["regret"] > 4).all()
    assert len(rank_correlations(table, ["signal"], ["mmcs"], [])) == 1


def test_a_missing_column_is_named():
    with pytest.raises(ToysaeError, match="no column.*nothing"):
        rank_correlations(grid(), ["nothing"], ["mmcs"], ["world"])
    with pytest.raises(ToysaeError, match="at least one signal"):
        rank_correlations(grid(), [], ["mmcs"], ["world"])
