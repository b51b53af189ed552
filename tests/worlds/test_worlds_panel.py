"""Panels against float64 NumPy and SciPy, closed forms, and worlds whose answer is known."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from toysae.errors import ToysaeError
from toysae.keys import named_key, seed_key
from toysae.worlds import make_world, sample
from toysae.worlds.assemble import assemble
from toysae.worlds.dictionaries import welch_bound
from toysae.worlds.groups import joint
from toysae.worlds.independent import independent
from toysae.worlds.magnitudes import Constant
from toysae.worlds.panel import (
    add,
    compare_panels,
    empty_panel,
    features,
    finished_panel,
    noise_edge,
    of_world,
    panel_of,
    phi_matrix,
    rank_exponent,
    world_panel,
)
from toysae.worlds.panel.activations import NORM_EDGES, QUANTILES
from toysae.worlds.panel.features import _cosines

BATCHES = (1, 700, 1, 298)


def skewed(rng, n=1000, d=6):
    """Correlated, skewed and heavy-tailed, with exact zeros."""
    x = rng.gamma(1.5, size=(n, d)) @ rng.normal(size=(d, d)) + rng.standard_t(5, size=(n, d))
    x[rng.random((n, d)) < 0.2] = 0
    return x.astype(np.float32)


def far(rng, n=1000, d=6):
    """Mean 1e4, sd about 1, as float32 holds it."""
    return (1e4 + skewed(rng, n, d)).astype(np.float32)


def constant_column(rng, n=1000, d=6):
    x = skewed(rng, n, d)
    x[:, 2], x[:, 4] = 12345.678, 0
    return x


def outlier_first(rng, n=1000, d=6):
    """The first token's norm is two orders larger."""
    x = skewed(rng, n, d)
    x[0] *= 300
    return x


def streamed(x, sizes=BATCHES):
    assert sum(sizes) == len(x)
    return panel_of(np.split(x, np.cumsum(sizes)[:-1]))


INPUTS = [skewed, far, constant_column, outlier_first]


@pytest.mark.parametrize("sizes", [(1000,), BATCHES], ids=["whole", "streamed"])
@pytest.mark.parametrize("make", INPUTS, ids=lambda f: f.__name__)
def test_every_statistic_equals_float64_numpy(make, sizes):
    x = make(np.random.default_rng(1))
    found, x = streamed(x, sizes), x.astype(np.float64)
    varies = np.ptp(x, axis=0) > 0
    close = {"rtol": 2e-4, "atol": 2e-5}
    assert (found.n_samples, found.d_in) == x.shape
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.sd, np.where(varies, x.std(0), 0), **close)
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        skew = np.where(varies, stats.skew(x), np.nan)
        kurtosis = np.where(varies, stats.kurtosis(x), np.nan)
    np.testing.assert_allclose(found.skew, skew, **close)
    np.testing.assert_allclose(found.kurtosis, kurtosis, rtol=1e-3, atol=1e-4)
    rms = np.sqrt((x**2).mean(1, keepdims=True))
    np.testing.assert_array_equal(found.zero, (np.abs(x) <= 1e-6 * rms).mean(0))
    np.testing.assert_array_equal(found.positive, (x > 0).mean(0))
    covariance = np.cov(x.T, ddof=0)
    values = np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)
    np.testing.assert_allclose(found.eigenvalues, values, rtol=2e-4, atol=2e-5 * values[0])
    ratio = np.trace(covariance) ** 2 / (covariance**2).sum()
    assert found.participation_ratio == pytest.approx(ratio, rel=2e-4)
    assert found.dims_90 == np.searchsorted(np.cumsum(values) / values.sum(), 0.9) + 1
    moved = np.linalg.norm(x.mean(0)) / np.sqrt(np.trace(covariance))
    assert found.mean_over_sd == pytest.approx(moved, rel=2e-4)


@pytest.mark.parametrize("make", INPUTS, ids=lambda f: f.__name__)
def test_norms_equal_float64_numpy(make):
    x = make(np.random.default_rng(2))
    x[5] = 0
    found = streamed(x)
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    assert found.norm_mean == pytest.approx(norms.mean(), rel=1e-6)
    assert found.norm_sd == pytest.approx(norms.std(), rel=1e-4)
    counts, edges = np.histogram(norms, found.norm_edges)
    assert np.abs(counts - found.norm_counts).sum() <= 4  # a norm beside an edge may fall over it
    assert found.norm_counts.sum() == 999  # the zero row lies below every bin
    assert set(edges) <= set(NORM_EDGES)
    for q in QUANTILES:
        assert found.norm_quantiles[q] == pytest.approx(np.quantile(norms, q), rel=0.035)


def test_streaming_in_unequal_batches_changes_nothing():
    x = far(np.random.default_rng(3))
    whole, parts = streamed(x, (1000,)), streamed(x)
    for name in ("mean", "sd", "skew", "kurtosis", "eigenvalues"):
        a, b = getattr(whole, name), getattr(parts, name)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for name in ("zero", "positive", "norm_counts"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_more_rows_than_one_chunk_and_bfloat16():
    x = np.random.default_rng(4).normal(3, 1, (4100, 3))
    half = jnp.asarray(x, jnp.bfloat16)
    found, x = panel_of([half]), np.asarray(half.astype(jnp.float32), np.float64)
    assert found.n_samples == 4100
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.skew, stats.skew(x), atol=1e-5)


def test_a_gaussian_has_no_skew_no_kurtosis_and_the_participation_ratio_of_its_covariance():
    sd = np.array([3.0, 2.0, 1.0, 1.0])
    x = np.random.default_rng(5).normal(size=(200_000, 4)) * sd
    found = panel_of(np.array_split(x.astype(np.float32), 3))
    n = len(x)
    assert np.abs(found.skew).max() < 5 * np.sqrt(6 / n)
    assert np.abs(found.kurtosis).max() < 5 * np.sqrt(24 / n)
    assert found.participation_ratio == pytest.approx(15**2 / (81 + 16 + 2), rel=0.01)
    assert found.dims_90 == 3  # 9 + 4 + 1 of 15
    np.testing.assert_allclose(found.positive, 0.5, atol=5 * 0.5 / np.sqrt(n))


def test_one_sample_and_constant_samples():
    one = panel_of([np.array([[3.0, 0.0, 4.0]], np.float32)])
    assert (one.n_samples, one.norm_sd, one.dims_90) == (1, 0.0, 0)
    assert one.norm_mean == one.norm_quantiles[0.5] == pytest.approx(5.0, rel=1e-6)
    assert np.isnan(one.skew).all() and np.isnan(one.participation_ratio)
    np.testing.assert_array_equal(one.zero, [0, 1, 0])
    same = panel_of([np.full((50, 2), 0.1, np.float32), np.full((7, 2), 0.1, np.float32)])
    np.testing.assert_array_equal(same.sd, 0)
    assert np.isnan(same.kurtosis).all() and same.mean_over_sd == np.inf
    zeros = panel_of([np.zeros((10, 2), np.float32)])
    assert zeros.norm_counts.sum() == 0 and (zeros.zero == 1).all()
    mostly = panel_of([np.array([[0.0]] * 6 + [[2.0]] * 4, np.float32)])
    assert mostly.norm_quantiles[0.5] == 0 and mostly.norm_quantiles[0.75] == 2


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_norms_neither_overflow_nor_vanish(scale):
    found = panel_of([np.array([[3.0, 4.0]] * 5, np.float32) * np.float32(scale)])
    assert found.norm_mean == pytest.approx(5 * scale, rel=1e-6)
    assert found.norm_quantiles[0.5] == pytest.approx(5 * scale, rel=1e-6)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: finished_panel(empty_panel(3)), "the panel is empty"),
        (lambda: empty_panel(0), "d_in 0"),
        (lambda: add(empty_panel(3), np.zeros((2, 4), np.float32)), "4 dimensions, the panel 3"),
        (lambda: add(empty_panel(3), np.zeros((2, 3, 3), np.float32)), r"shape \(2, 3, 3\) must"),
        (lambda: add(empty_panel(3), np.zeros(3, np.float32)), r"shape \(3,\) must be"),
        (lambda: panel_of([np.zeros(3, np.float32)]), r"shape \(3,\) must be"),
        (lambda: panel_of([np.zeros((4, 2, 3), np.float32)]), r"shape \(4, 2, 3\) must"),
        (lambda: panel_of([]), "no batches"),
        (lambda: panel_of([np.array([[1.0, np.nan], [0, 0]], np.float32)]), "1 of 2 samples"),
        (lambda: panel_of([np.array([[1.0, np.inf]], np.float32)]), "1 of 1 samples"),
        (lambda: world_panel(make_world("sphere"), 100), "n_samples 100"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(act, message):
    with pytest.raises(ToysaeError, match=message) as error:
        act()
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def plain():
    """An independent world, 24 features in 12 dimensions, with its panel."""
    world = make_world("sphere", 1, d_in=12, n_features=24, l0=3.0, probs="zipf", exponent=0.5)
    return world, world_panel(world, 20_480)


def test_independent_world_shows_its_own_settings(plain):
    _, found = plain
    n = found.stats.n_samples
    weights = np.arange(1, 25) ** -0.5
    p = 3.0 * weights / weights.sum()
    measured = np.empty(24)
    measured[found.order] = found.prob
    assert np.abs((measured - p) / np.sqrt(p * (1 - p) / n)).max() < 5
    assert (np.diff(found.prob) <= 0).all()
    fired = found.prob * n
    # U[0, 1): mean 1/2, sd 1/sqrt(12)
    assert np.abs((found.magnitude_mean - 0.5) * np.sqrt(12 * fired)).max() < 5
    np.testing.assert_allclose(found.magnitude_sd, 12**-0.5, atol=5 * 0.13 / np.sqrt(fired.min()))
    assert (
        found.magnitude_counts.sum()
        == fired.sum()
        == found.l0_counts @ np.arange(len(found.l0_counts))
    )
    share = found.magnitude_counts[:64] / fired.sum()
    assert found.magnitude_edges[64] == 1.0 and found.magnitude_counts[64:].sum() == 0
    assert np.abs(share * 64 - 1).max() < 5 * np.sqrt(64 / fired.sum())
    assert found.l0_counts.sum() == n
    assert found.l0_mean == pytest.approx(p.sum(), abs=5 * np.sqrt(3 / n))
    assert found.l0_variance == pytest.approx((p * (1 - p)).sum(), rel=0.06)
    assert found.rank_exponent == pytest.approx(0.5, abs=0.06)
    assert found.modes == 0
    assert found.phi_rms == pytest.approx(n**-0.5, rel=0.2)


def test_world_panel_equals_numpy_on_the_same_samples(plain):
    world, found = plain
    assert found.coherence_rows == 24
    unit = np.asarray(world.directions, np.float64)
    cos = np.abs(unit @ unit.T)[np.triu_indices(24, 1)]
    np.testing.assert_array_equal(found.coherence_counts, np.histogram(cos, 400, (0, 1))[0])
    assert found.coherence == pytest.approx(cos.max())
    assert found.welch_bound == pytest.approx(welch_bound(24, 12))
    # E[x] and Cov[x] of an independent world, in closed form
    p = np.empty(24)
    p[found.order] = found.prob
    rows = np.asarray(world.rows, np.float64)
    np.testing.assert_allclose(found.stats.mean, (p / 2) @ rows, atol=0.02)
    covariance = (rows.T * (p / 3 - p**2 / 4)) @ rows
    values = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(found.stats.eigenvalues, values, rtol=0.06)


@pytest.mark.parametrize(("n_features", "l0", "n_paired"), [(3, 1.0, 3), (40, 4.0, 8)])
def test_measured_sums_equal_numpy(n_features, l0, n_paired, monkeypatch):
    """On the very same samples, all features paired or the most frequent ones only."""
    for part in (features, of_world):
        monkeypatch.setattr(part, "MAX_PAIRED", 8)
    world = make_world("sphere", 0, d_in=5, n_features=n_features, l0=l0, probs="zipf",
                       exponent=1.0, magnitude="log-normal")  # fmt: skip
    found = world_panel(world, 512, seed=4)
    key = named_key(seed_key(4, "world"), "panel")
    drawn = [sample(world, jax.random.fold_in(key, step), 256) for step in range(2)]
    dense = np.concatenate([np.asarray(batch.feature_acts, np.float64) for batch in drawn])
    on = dense != 0
    np.testing.assert_array_equal(found.prob, np.sort(on.mean(0))[::-1])
    by_rank, fired = dense[:, found.order], on[:, found.order].sum(0)
    with np.errstate(all="ignore"):
        mean = by_rank.sum(0) / fired
        square = (np.where(by_rank != 0, by_rank - mean, 0) ** 2).sum(0) / fired
    np.testing.assert_allclose(found.magnitude_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.magnitude_sd, np.sqrt(square), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.l0_counts, np.bincount(on.sum(1)))
    bins = np.histogram(np.minimum(dense[on], found.magnitude_edges[-1]), found.magnitude_edges)[0]
    assert np.abs(bins - found.magnitude_counts).sum() <= 2  # a value beside an edge
    x = np.concatenate([np.asarray(batch.x, np.float64) for batch in drawn])
    np.testing.assert_allclose(found.stats.mean, x.mean(0), atol=1e-6)
    phi = np.corrcoef(on[:, :n_paired].T)  # Zipf: the first features are the most frequent
    pairs = phi[np.triu_indices(n_paired, 1)]
    np.testing.assert_allclose(found.correlations, np.linalg.eigvalsh(phi)[::-1], atol=1e-12)
    np.testing.assert_array_equal(found.phi_counts, np.histogram(pairs, 400, (-1, 1))[0])
    assert found.phi_rms == pytest.approx(np.sqrt((pairs**2).mean()))


def test_features_that_fire_together_rise_above_the_noise():
    pairs = [{(2 * i, 2 * i + 1): 0.1} for i in range(4)]
    world = assemble(jnp.eye(8), joint(pairs, 8), "constant")
    found = world_panel(world, 4096)
    np.testing.assert_allclose(np.sort(found.correlations)[:4], 0, atol=1e-9)
    assert found.correlations[:4].min() > 1.8 and found.modes == 4
    assert found.phi_counts[-1] == 4  # phi of 1
    assert found.coherence == 0 and found.welch_bound == 0
    assert found.l0_counts[1::2].sum() == 0


def test_a_feature_always_on_and_one_never_on():
    firing = independent(np.array([1.0, 0.2, 0.0]))
    found = world_panel(assemble(jnp.eye(3), firing, Constant(2.0)), 1024)
    assert found.n_paired == 1 and found.prob[0] == 1 and found.prob[2] == 0
    np.testing.assert_array_equal(found.magnitude_mean, [2, 2, np.nan])
    np.testing.assert_array_equal(found.magnitude_sd, [0, 0, np.nan])
    assert compare_panels(found, found)


def test_the_noise_edge_holds_for_independent_features_and_no_lower_one_would():
    rng = np.random.default_rng(6)
    n, f, largest = 4000, 200, []
    edge, width = noise_edge(f, n)
    assert edge == pytest.approx((1 + np.sqrt(f / n)) ** 2)
    for p in (0.3, 0.05, 0.02):
        on = (rng.random((n, f)) < p).astype(np.float64)
        phi = phi_matrix(on.T @ on, n)
        np.testing.assert_allclose(phi, np.corrcoef(on.T), atol=1e-12)
        largest.append(np.linalg.eigvalsh(phi)[-1])
    # Tracy-Widom (real): mean -1.21, sd 1.27 widths from the edge
    assert max(largest) < edge + 4 * width
    assert min(largest) > edge - 5 * width


def test_rank_exponent_of_exact_zipf_and_its_stated_range():
    prob = 0.3 * np.arange(1, 10_001) ** -0.8
    exponent, (first, last) = rank_exponent(prob, 10**9)
    assert exponent == pytest.approx(0.8, abs=1e-9) and (first, last) == (10, 1000)
    _, (_, last) = rank_exponent(prob, 10_000)
    assert last == (np.round(prob * 10_000, 6) >= 29.5).sum()
    assert np.isnan(rank_exponent(prob, 10)[0])
    assert rank_exponent(np.full(100, 0.1), 1000)[0] == pytest.approx(0, abs=1e-12)


def test_coherence_of_many_features_is_that_of_a_stated_sample():
    directions = jax.random.normal(jax.random.key(0), (4200, 4))
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    counts, largest, rows = _cosines(directions, 0)
    assert rows == 4096**2 // 4200
    assert counts.sum() == rows * (rows - 1) // 2 + rows * (4200 - rows)
    assert 0.999 < largest <= 1
    # |cos| of random directions in 4 dimensions: density (4 / pi) sqrt(1 - t^2)
    t = np.linspace(0, 1, 401)
    cdf = (2 / np.pi) * (t * np.sqrt(1 - t**2) + np.arcsin(t))
    np.testing.assert_allclose(np.cumsum(counts) / counts.sum(), cdf[1:], atol=0.01)


def test_panels_side_by_side(plain):
    _, world = plain
    real = streamed(skewed(np.random.default_rng(0)))
    rows = compare_panels(world, real)
    assert all(len(row) == 3 for row in rows)
    table = {what: values for what, *values in rows}
    assert table["samples"] == ["20,480", "1,000"]
    assert table["features"] == ["24 (ratio 2)", "–"]
    assert table["rank-frequency exponent"][1] == "–"
    assert float(table["L0 variance / that of independent firing"][0]) == pytest.approx(1, abs=0.06)
    assert float(table["magnitude when on: mean, sd"][0].split(", ")[1]) == pytest.approx(
        12**-0.5, abs=0.01
    )
    assert "features" not in {what for what, *_ in compare_panels(real, real)}
    assert len(compare_panels(world, world, real)[0]) == 4


def test_batches_may_be_lists_and_numbers_are_no_batches():
    rows = [[1.0, 2.0], [3.0, 5.0]]
    whole = panel_of([np.array(rows * 2, np.float32)])
    np.testing.assert_allclose(panel_of(iter([rows, rows])).sd, whole.sd)
    for wrong in (iter([0]), (i for i in range(3)), iter(["ab"])):
        with pytest.raises(ToysaeError):
            panel_of(wrong)
