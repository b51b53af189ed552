import numpy as np
import pandas as pd
import pytest
from scipy import stats

from toysae.errors import ToysaeError
from toysae.recovery import Interval, over_seeds, share_interval, student_t


@pytest.mark.parametrize("confidence", [0.68, 0.95])
def test_student_t_equals_scipy(confidence):
    values = np.random.default_rng(0).normal(3, 2, 6)
    got = student_t([*values, np.nan], confidence)
    low, high = stats.t.interval(confidence, 5, loc=values.mean(), scale=stats.sem(values))
    assert got.n == 6
    np.testing.assert_allclose([got.mean - got.half_width, got.mean + got.half_width], [low, high])


def test_coverage_at_three_seeds_is_what_it_says():
    draws = np.random.default_rng(1).standard_normal((2000, 3))
    covered = [abs(i.mean) <= i.half_width for i in map(student_t, draws)]
    assert abs(np.mean(covered) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


def test_one_value_and_none():
    one, none = student_t([2.0, np.nan]), student_t([])
    assert (one.mean, one.n) == (2.0, 1) and np.isnan(one.half_width)
    assert none.n == 0 and np.isnan(none.mean)
    assert str(Interval(0.8123, 0.0341, 5)) == "0.812 ± 0.034 (5)"
    assert str(one) == "2 (1)"
    with pytest.raises(ToysaeError, match="confidence"):
        student_t([1.0, 2.0], confidence=95.0)


def _table():
    rows = [
        ("a", 0, 0, 1.0, False),
        ("a", 0, 1, 3.0, False),  # world 0: mean 2
        ("a", 0, 2, 99.0, True),
        ("a", 1, 0, 4.0, False),
        ("a", 2, 0, 6.0, False),
        ("b", 0, 0, 7.0, True),
        (None, 0, 0, 8.0, False),
    ]
    return pd.DataFrame(rows, columns=["recipe", "world_seed", "sae_seed", "score", "diverged"])


def test_over_seeds_averages_worlds_and_drops_diverged():
    got = over_seeds(_table(), ["recipe"], "score")
    assert list(got.columns) == ["recipe", "mean", "half_width", "n"]
    assert list(got["recipe"][:2]) == ["a", "b"] and pd.isna(got["recipe"][2])
    expected = student_t([2.0, 4.0, 6.0])
    assert got["n"].tolist() == [3, 0, 1]
    np.testing.assert_allclose(got["mean"], [4.0, np.nan, 8.0])
    np.testing.assert_allclose(got["half_width"], [expected.half_width, np.nan, np.nan])


def test_over_seeds_without_groups_or_divergence():
    got = over_seeds(_table().drop(columns="diverged").query("recipe == 'a'"), [], "score")
    np.testing.assert_allclose(got["mean"], [(103 / 3 + 4 + 6) / 3])


def test_over_seeds_refuses_missing_columns_and_seeds_as_groups():
    with pytest.raises(ToysaeError, match="nope"):
        over_seeds(_table(), ["nope"], "score")
    with pytest.raises(ToysaeError, match="world_seed"):
        over_seeds(_table(), ["world_seed"], "score")


@pytest.mark.parametrize("n_each", [16, 32])
@pytest.mark.parametrize("p", [0.5, 0.9, 0.97, 0.99])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.1])
def test_intervals_of_shares_cover_what_they_say_and_stay_in_range(p, n_each, spread):
    """Five worlds whose shares differ as a beta law does, with that intraclass correlation."""
    rng = np.random.default_rng(0)
    odds = (1 - spread) / max(spread, 1e-9)
    truth = rng.beta(p * odds, (1 - p) * odds, (600, 5)) if spread else np.full((600, 5), p)
    shares = rng.binomial(n_each, truth) / n_each
    ends = np.array([share_interval(row, n_each).ends for row in shares])
    assert ends.min() >= 0 and ends.max() <= 1
    covered = ((ends[:, 0] <= p) & (p <= ends[:, 1])).mean()
    assert covered > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 600)
    if p > 0.95 and spread:  # where Student's t fails
        found = [student_t(row) for row in shares]
        inside = [abs(one.mean - p) <= one.half_width for one in found]
        assert np.mean(inside) < covered - 0.05


def test_an_interval_of_shares_by_hand():
    """Wilson's, with t 2.776 at 4 degrees of freedom: all of 5 x 20 things."""
    found = share_interval(np.ones(5), 20)
    t = 2.7764451
    assert found.ends == pytest.approx((100 / (100 + t**2), 1.0), abs=1e-6)
    assert f"{found:.2f}" == "1.00 [0.93, 1.00] (5)"
    assert np.isnan(share_interval([0.5], 20).half_width) and share_interval([], 20).n == 0
    for wrong in ({"values": [1.2], "n_each": 3}, {"values": [0.5], "n_each": 0}):
        with pytest.raises(ToysaeError):
            share_interval(**wrong)
