"""Paired differences, what n seeds can resolve, and variance components, against scipy, simulation
and a case worked by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from toysae.errors import ToysaeError
from toysae.recovery import paired, resolvable, seed_spread, student_t


def runs(scores, **columns):
    """One row for each (arm, world_seed, sae_seed, score[, diverged])."""
    names = ["recipe", "world_seed", "sae_seed", "score", "diverged"]
    rows = [(*row, False) if len(row) == 4 else row for row in scores]
    return pd.DataFrame(rows, columns=names).assign(**columns)


def drawn(n=6, sae_seeds=2):
    """Worlds that differ by far more than the arms do."""
    rng = np.random.default_rng(0)
    worlds = rng.normal(0, 5, n)
    means = {"a": worlds + rng.normal(1, 0.5, n), "b": worlds + rng.normal(0, 0.5, n)}
    offsets = np.linspace(-1, 1, sae_seeds)
    rows = [
        (arm, w, s, means[arm][w] + offsets[s])
        for arm in means for w in range(n) for s in range(sae_seeds)
    ]  # fmt: skip
    return runs(rows), means["a"], means["b"]


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_differences_equal_scipys_paired_test(confidence):
    table, a, b = drawn()
    shuffled = table.sample(frac=1, random_state=1)
    row = paired(shuffled, [], "recipe", "a", "b", "score", confidence).iloc[0]
    test = stats.ttest_rel(a, b)
    low, high = test.confidence_interval(confidence)
    np.testing.assert_allclose(row["mean"] - row["half_width"], low)
    np.testing.assert_allclose(row["mean"] + row["half_width"], high)
    np.testing.assert_allclose(row["p_value"], test.pvalue)
    assert row["n"] == 6
    sd = np.std(a - b, ddof=1)
    assert row["resolvable"] == resolvable(sd, 6, confidence=confidence)
    # Unpaired, the worlds would drown it.
    assert stats.ttest_ind(a, b).pvalue > 0.05 > test.pvalue


def test_the_order_of_the_arms_is_the_sign():
    table, *_ = drawn()
    forth = paired(table, [], "recipe", "a", "b", "score").iloc[0]
    back = paired(table, [], "recipe", "b", "a", "score").iloc[0]
    assert forth["mean"] == -back["mean"] > 0 and forth["half_width"] == back["half_width"]


def test_a_world_with_one_arm_lost_drops_out_and_members_are_averaged():
    table = runs([
        ("a", 0, 0, 1.0), ("a", 0, 1, 3.0), ("b", 0, 0, 1.5),  # 0.5
        ("a", 1, 0, 4.0), ("a", 1, 1, 9.0, True), ("b", 1, 0, 3.0),  # 1
        ("a", 2, 0, 5.0), ("b", 2, 0, 0.0, True),  # b diverged
        ("a", 3, 0, 5.0),  # b missing
        ("a", 4, 0, np.nan), ("b", 4, 0, 1.0),
        ("c", 0, 0, 100.0),  # another arm plays no part
    ])  # fmt: skip
    row = paired(table, [], "recipe", "a", "b", "score").iloc[0]
    expected = student_t([0.5, 1.0])
    assert row["n"] == 2
    np.testing.assert_allclose(
        row[["mean", "half_width"]].astype(float), [0.75, expected.half_width]
    )


def test_groups_are_sorted_and_those_without_a_pair_stay():
    table = pd.concat([
        runs([("a", 0, 0, 1.0), ("b", 0, 0, 0.0), ("a", 1, 0, 2.0), ("b", 1, 0, 0.0)], ratio=2.0),
        runs([("a", 0, 0, 1.0, True), ("b", 0, 0, 0.0)], ratio=4.0),
        runs([("a", 0, 0, 7.0), ("b", 0, 0, 0.0)], ratio=1.0),
    ])  # fmt: skip
    got = paired(table, ["ratio"], "recipe", "a", "b", "score")
    columns = ["ratio", "mean", "half_width", "n", "p_value", "resolvable"]
    assert list(got.columns) == columns
    assert got["ratio"].tolist() == [1, 2, 4] and got["n"].tolist() == [1, 2, 0]
    np.testing.assert_allclose(got["mean"], [7, 1.5, np.nan])
    for column in ("half_width", "p_value", "resolvable"):
        assert np.isfinite(got[column]).tolist() == [False, True, False], column


def test_equal_differences_have_no_spread():
    rows = [(arm, w, 0, w + (arm == "a") / 8) for arm in "ab" for w in range(3)]
    row = paired(runs(rows), [], "recipe", "a", "b", "score").iloc[0]
    assert row[["mean", "half_width", "n", "p_value", "resolvable"]].tolist() == [1 / 8, 0, 3, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([[], "recipe", "a", "bb", "score"], "unknown recipe 'bb': did you mean 'b'.*known: a, b"),
        ([[], "recipe", "a", "a", "score"], "compared with itself"),
        ([["recipe"], "recipe", "a", "b", "score"], "by has .*recipe"),
        ([["world_seed"], "recipe", "a", "b", "score"], "world_seed"),
        ([[], "nope", "a", "b", "score"], "no column .*nope"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, says):
    with pytest.raises(ToysaeError, match=says):
        paired(drawn()[0], *arguments)


@pytest.mark.parametrize(
    ("n", "power", "confidence"), [(3, 0.8, 0.95), (5, 0.5, 0.9), (10, 0.8, 0.95)]
)
def test_the_power_is_what_simulation_finds(n, power, confidence):
    difference = resolvable(2.0, n, power, confidence)
    draws = np.random.default_rng(n).normal(difference, 2.0, (20_000, n))
    found = (stats.ttest_1samp(draws, 0, axis=1).pvalue < 1 - confidence).mean()
    assert abs(found - power) < 4 * np.sqrt(power * (1 - power) / 20_000)


def test_resolvable_of_many_seeds_is_the_normal_formula():
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert resolvable(1.0, 10_000) == pytest.approx(z / 100, rel=1e-3)
    assert resolvable(3.0, 4) == pytest.approx(3 * resolvable(1.0, 4))


@pytest.mark.parametrize("n", [2, 5, 40])
def test_the_power_is_that_of_the_squared_statistic(n):
    """t squared is noncentral F, which another routine computes."""
    shift = resolvable(1.0, n, 0.7, 0.99) * np.sqrt(n)
    critical = stats.t.ppf(0.995, n - 1) ** 2
    np.testing.assert_allclose(stats.ncf.sf(critical, 1, n - 1, shift**2), 0.7, rtol=1e-8)


def test_resolvable_without_seeds_is_nan_and_nonsense_is_refused():
    assert np.isnan(resolvable(1.0, 1)) and np.isnan(resolvable(np.nan, 5))
    assert resolvable(0.0, 5) == 0
    for bad in ({"power": 80.0}, {"power": 0.04}, {"confidence": 95.0}):
        with pytest.raises(ToysaeError, match=next(iter(bad))):
            resolvable(1.0, 5, **bad)
    with pytest.raises(ToysaeError, match="sd"):
        resolvable(-1.0, 5)


def test_components_of_a_case_worked_by_hand():
    # World means 2, 6, 7 of 2, 3, 1 SAEs; grand mean 29 / 6.
    table = runs([("a", 0, 0, 1.0), ("a", 0, 1, 3.0), ("a", 1, 0, 5.0), ("a", 1, 1, 6.0),
                  ("a", 1, 2, 7.0), ("a", 2, 0, 7.0), ("a", 2, 1, 99.0, True)])  # fmt: skip
    row = seed_spread(table, [], "score").iloc[0]
    within = (2 + 2 + 0) / (6 - 3)
    between = (2 * (2 - 29 / 6) ** 2 + 3 * (6 - 29 / 6) ** 2 + (7 - 29 / 6) ** 2) / 2
    per_world = (6 - (4 + 9 + 1) / 6) / 2
    np.testing.assert_allclose(row["sd_saes"] ** 2, within)
    np.testing.assert_allclose(row["sd_worlds"] ** 2, (between - within) / per_world)
    assert (row["clipped"], row["n_worlds"], row["n_saes"]) == (False, 3, 6)


def test_components_are_those_that_were_drawn():
    rng = np.random.default_rng(0)
    worlds, each = 400, 5
    scores = rng.normal(0, 2, (worlds, 1)) + rng.normal(0, 0.7, (worlds, each))
    rows = [("a", w, s, scores[w, s]) for w in range(worlds) for s in range(each)]
    row = seed_spread(runs(rows), [], "score").iloc[0]
    # Four standard errors: of a variance they are its sqrt(2 / degrees of freedom).
    assert row["sd_worlds"] == pytest.approx(2, rel=4 * np.sqrt(1 / (2 * worlds)) * 1.02)
    assert row["sd_saes"] == pytest.approx(0.7, rel=4 * np.sqrt(1 / (2 * worlds * (each - 1))))


def test_what_spread_cannot_be_told_apart():
    cases = {
        "one SAE a world": [("a", w, 0, float(w)) for w in range(4)],
        "one world": [("a", 0, s, float(s)) for s in range(3)],
        "all diverged": [("a", 0, 0, 1.0, True), ("a", 1, 0, 2.0, True)],
        "worlds alike": [("a", w, s, float(s)) for w in range(3) for s in range(2)],
    }
    got = {
        name: seed_spread(runs(rows), ["recipe"], "score").iloc[0] for name, rows in cases.items()
    }
    assert np.isnan(got["one SAE a world"][["sd_worlds", "sd_saes"]].astype(float)).all()
    assert np.isnan(got["one world"]["sd_worlds"]) and got["one world"]["sd_saes"] == 1
    lost = got["all diverged"]
    assert (lost["n_worlds"], lost["n_saes"]) == (0, 0) and np.isnan(lost["sd_saes"])
    alike = got["worlds alike"]
    assert alike["sd_worlds"] == 0 and alike["clipped"]  # 0 - 1/2: negative
    assert alike["sd_saes"] == pytest.approx(np.sqrt(0.5))
    with pytest.raises(ToysaeError, match="sae_seed"):
        seed_spread(runs(cases["one world"]), ["sae_seed"], "score")


def test_a_setting_that_varies_within_an_arm_is_not_averaged_unseen():
    rows = [
        {"recipe": recipe, "sparsity": l1, "world_seed": seed,
         "mmcs": 0.5 + 0.1 * (recipe == "a") * l1}
        for recipe in "ab" for l1 in (0.1, 0.2) for seed in range(5)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    with pytest.raises(
        ToysaeError, match="sparsity varies within an arm .* choose among them first"
    ):
        paired(table, [], "recipe", "a", "b", "mmcs")
    assert len(paired(table, ["sparsity"], "recipe", "a", "b", "mmcs")) == 2
    assert len(paired(table[table["sparsity"] == 0.1], [], "recipe", "a", "b", "mmcs")) == 1


def test_arms_of_one_world_have_no_interval_and_it_is_said():
    rows = [{"recipe": r, "world_seed": 0, "mmcs": 0.5} for r in ("tied", "untied")]
    with pytest.warns(UserWarning, match="one world seed at most.*several worlds"):
        found = paired(pd.DataFrame(rows), [], "recipe", "tied", "untied", "mmcs")
    assert found["n"].tolist() == [1] and np.isnan(found["half_width"]).all()
