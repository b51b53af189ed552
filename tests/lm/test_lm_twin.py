"""Cards of made-up layers against closed forms, and twins of worlds whose parameters are known."""

from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

from toysae import ToysaeError
from toysae.cli import main
from toysae.lm.cards.card import (
    layer_card,
    make_twin,
    normalised_world,
    recovered_on,
    some_sequences,
    world_panels,
)
from toysae.lm.cards.figures import seeds_figure, splice_figure
from toysae.lm.cards.massive import Massive, among, mean_of, split_massive
from toysae.lm.cards.twin import Twin, centred_panel, twin_world
from toysae.lm.cards.twin_fit import fit_twin
from toysae.lm.cards.twin_statistics import (
    NORMS,
    directions_of,
    distance,
    is_matched,
    misfit_of,
    predicted,
    statistics,
)
from toysae.worlds.world import batches, sample

D = 32
TRUE = Twin(
    D, 2.0, "sphere", exponent=0.6, l0=6.0, spread=0.4, scale=1.0, noise_sd=0.1, common=0.0,
    bias=np.linspace(-0.2, 0.2, D), root=np.eye(D),
)  # fmt: skip


class Held:
    """Rows in memory as a source: sequences of unequal length."""

    def __init__(self, rows: np.ndarray, counts: np.ndarray):
        self.rows, self.counts = rows, counts
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.d, self.dtype = rows.shape[1], rows.dtype

    def read(self, sequences: np.ndarray) -> np.ndarray:
        parts = [self.rows[self.starts[i] : self.starts[i + 1]] for i in sequences]
        return np.concatenate(parts)


def drawn(twin: Twin, n: int = 131_072, seed: int = 5) -> np.ndarray:
    world = twin_world(twin, seed)
    return np.concatenate([np.asarray(b.x) for b in batches(world, jax.random.key(1), n, 8192)])


@pytest.fixture(scope="module")
def x():
    return drawn(TRUE)


@pytest.fixture(scope="module")
def source(x):
    return Held(x, np.full(len(x) // 64, 64))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"spread": 0.6, "l0": 12.0},
        {"exponent": 0.0, "noise_sd": 0.4},
        {"ratio": 0.5},
        {"common": 0.3},
        {"common": 0.6, "noise_sd": 0.3},
    ],
)
def test_statistics_in_closed_form_are_those_of_samples(changes):
    twin = replace(TRUE, **changes)
    x = drawn(twin)
    stats, covariance = centred_panel([x], x.mean(0))
    np.testing.assert_allclose(covariance, np.cov(x.T, bias=True), atol=1e-4)
    closed = predicted(twin, directions_of(twin, 5))
    for name, value in statistics(stats).items():
        assert closed[name] == pytest.approx(value, rel=0.12, abs=0.02), name


def test_the_twin_of_a_world_has_that_worlds_parameters():
    """The median of three draws of its directions: in 32 dimensions these alone move the fit."""
    found = []
    for seed in range(3):
        x = drawn(TRUE, seed=seed)
        stats, covariance = centred_panel([x], x.mean(0))
        found.append(fit_twin(stats, x.mean(0), covariance, (2.0,), ("sphere",), False, seed + 50))
    l0, spread, exponent, noise = (
        np.median([getattr(twin, name) for twin in found])
        for name in ("l0", "spread", "exponent", "noise_sd")
    )
    assert max(twin.misfit for twin in found) < 0.12
    assert l0 == pytest.approx(TRUE.l0, rel=0.3)
    assert spread == pytest.approx(TRUE.spread, abs=0.08)
    assert exponent == pytest.approx(TRUE.exponent, abs=0.3)
    assert noise == pytest.approx(TRUE.noise_sd, abs=0.1)


def test_a_twin_realises_what_it_was_fitted_to(source, x):
    fitted = make_twin(source, len(x), ratios=(1.0, 2.0), directions=("sphere",), correlate=False)
    assert not fitted.unmatched, fitted.table
    again = drawn(fitted.twin, 65_536, seed=0)  # the mean is the layer's own
    np.testing.assert_allclose(again.mean(0), x.mean(0), atol=0.03)
    np.testing.assert_allclose(again.var(0).sum(), x.var(0).sum(), rtol=0.03)


def test_each_look_at_the_activations_is_told(x):
    source, seen = Held(x[:4096], np.full(64, 64)), []
    make_twin(source, 4096, (1.0,), ("sphere",), correlate=False, on_look=seen.append)
    assert seen and seen[0] == "sphere directions, ratio 1: look 1"
    assert [about.rpartition(" ")[2] for about in seen] == [str(i + 1) for i in range(len(seen))]


def test_each_parameter_moves_the_fit_where_it_should(x):
    """At the truth the misfit is small, and it grows as any parameter leaves it."""
    stats, _ = centred_panel([x], x.mean(0))
    wanted, f = statistics(stats), directions_of(TRUE, 5)

    def misfit(**changes):
        return misfit_of(distance(predicted(replace(TRUE, **changes), f), wanted))

    at_truth = misfit()
    assert at_truth < 0.05
    for changes in ({"l0": 12.0}, {"spread": 0.8}, {"exponent": 1.2}, {"noise_sd": 0.5}):
        assert misfit(**changes) > 3 * at_truth, changes


def test_what_all_features_share_is_found():
    together = replace(TRUE, common=0.6, noise_sd=0.2)
    x = drawn(together, 65_536)
    mean = x.mean(0)
    stats, covariance = centred_panel([x], mean)
    apart = fit_twin(stats, mean, covariance, (2.0,), ("sphere",), False, 5)
    found = fit_twin(stats, mean, covariance, (2.0,), ("sphere",), True, 5)
    assert apart.common == 0 and found.misfit < 0.5 * apart.misfit
    assert found.common == pytest.approx(0.6, abs=0.15)
    assert found.l0 == pytest.approx(TRUE.l0, rel=0.4)


RARE = Massive(0.01, 25.0, 0.25, np.eye(D)[3] * 0.6 + np.eye(D)[9] * -0.8)


def test_massive_activations_come_back_as_a_feature_of_their_own():
    planted = replace(TRUE, massive=RARE)
    assert twin_world(planted).n_features == TRUE.n_features + 1
    x = drawn(planted)
    found, others = split_massive(lambda: iter(np.array_split(x, 7)))
    assert found.prob == pytest.approx(0.01, rel=0.1) and (~others).mean() == found.prob
    assert found.scale == pytest.approx(25, rel=0.05)
    assert found.spread == pytest.approx(0.25, abs=0.05)
    assert found.direction @ RARE.direction > 0.99
    np.testing.assert_allclose(mean_of(among(iter([x]), others)), x[others].mean(0), atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_massive_activations_that_are_all_the_same_have_no_spread(seed):
    """As of an end token that stands at the start of every sequence."""
    x = np.random.default_rng(seed).normal(size=(6400, D)).astype(np.float32)
    x[::128] = 40 * RARE.direction
    found, _ = split_massive(lambda: iter([x]))
    assert found.scale == pytest.approx(40, rel=0.01) and found.spread < 0.01


def test_rows_that_are_only_far_are_not_massive(x):
    assert split_massive(lambda: iter([x]))[0] is None
    rng = np.random.default_rng(0)
    everywhere = x[:20_000].copy()
    everywhere[::100] = 30 * rng.normal(size=(200, D))  # in no direction
    assert split_massive(lambda: iter([everywhere]))[0] is None
    few = x[:20_000].copy()
    few[:20, 3] += 100
    found, others = split_massive(lambda: iter([few]))
    assert found is None and others.all()


def test_the_twin_of_a_world_with_massive_activations_has_them():
    x = drawn(replace(TRUE, massive=RARE), 65_536)
    source = Held(x, np.full(len(x) // 64, 64))
    fitted = make_twin(source, len(x), ratios=(2.0,), directions=("sphere",), correlate=False)
    assert fitted.twin.massive.prob == pytest.approx(0.01, rel=0.1)
    assert fitted.twin.l0 == pytest.approx(TRUE.l0, rel=0.4)
    assert NORMS[0] not in fitted.unmatched, fitted.table
    again = drawn(fitted.twin, 65_536, seed=0)
    np.testing.assert_allclose(again.mean(0), x.mean(0), atol=0.05)
    assert fitted.twin.numbers()["massive_scale"] == pytest.approx(25 / TRUE.scale, rel=0.3)
    assert (normalised_world(fitted.twin).directions[-1] @ RARE.direction) > 0.99


def test_what_counts_as_matched():
    assert is_matched(1.1, 1.0) and not is_matched(1.2, 1.0)
    assert is_matched(0.01, 0.0) and not is_matched(0.05, 0.0)


def test_bad_twins_are_refused(x):
    stats, covariance = centred_panel([x[:1000]], x[:1000].mean(0))
    mean = x[:1000].mean(0)
    with pytest.raises(ToysaeError, match="'spere'.*did you mean 'sphere'"):
        fit_twin(stats, mean, covariance, directions=("spere",))
    with pytest.raises(ToysaeError, match="at least one ratio"):
        fit_twin(stats, mean, covariance, ratios=())
    with pytest.raises(ToysaeError, match="ratio 0.001 leaves no feature"):
        fit_twin(stats, mean, covariance, ratios=(0.001,))


def test_recovery_on_a_twin_is_measured_on_inputs_of_unit_variance():
    world = normalised_world(TRUE, 1)
    x = np.asarray(sample(world, jax.random.key(2), 32_768).x)
    np.testing.assert_allclose(x.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(x.var(), 1, rtol=0.03)
    np.testing.assert_allclose(world.directions, twin_world(TRUE, 1).directions)
    recipes = {"untied": {"l1_coeff": 1.0, "lr": 3e-3}}
    table = recovered_on(TRUE, recipes, size=2.0, n_steps=300, batch_size=128, seeds=2, quiet=True)
    assert len(table) == 2 and (table["mmcs"] > table["floor"] + 0.1).all()
    assert table["true_l0"].to_numpy() == pytest.approx(TRUE.l0, rel=0.1)


def test_a_card_of_a_gaussian_is_that_of_the_closed_form():
    rng = np.random.default_rng(0)
    sd = np.linspace(0.5, 2.0, 8)
    counts = np.tile([3, 7, 5], 800)
    x = (3.0 + sd * rng.normal(size=(int(counts.sum()), 8))).astype(np.float32)
    found = layer_card("layer", Held(x, counts), 1, n_rows=len(x))
    assert found.stats.n_samples == len(x)
    np.testing.assert_allclose(found.stats.sd, sd, rtol=0.03)
    np.testing.assert_allclose(found.stats.kurtosis, 0, atol=0.15)
    share = (sd**2).sum() ** 2 / (sd**4).sum()
    assert found.stats.participation_ratio == pytest.approx(share, rel=0.03)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    norms = np.linalg.norm(x, axis=1)
    for pos, low in ((1, 0), (4, 3), (7, 5)):  # positions kept begin at 1
        rows = starts[counts > pos - 1] + pos - 1
        assert found.norm_by_position[pos] == pytest.approx(norms[rows].mean(), rel=1e-5), low
    assert np.isnan(found.norm_by_position[0])


def test_some_sequences_hold_about_the_rows_asked_for():
    source = Held(np.zeros((600, 2), np.float32), np.tile([2, 4], 100))
    some = some_sequences(source, 100)
    assert 100 <= source.counts[some].sum() <= 104 and len(set(some.tolist())) == len(some)
    assert len(some_sequences(source, 10**6)) == 200


def test_latents_are_described_beside_features(hand):
    """Latents that are the coordinates, of sequences of several lengths."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 40, 200)
    p = np.linspace(0.4, 0.02, 12)
    codes = rng.gamma(4, size=(lengths.sum(), 12)) * (rng.random((lengths.sum(), 12)) < p)
    codes[:, 1] = 2 * codes[:, 0]  # always together
    source = hand.Acts(np.split(codes.astype(np.float32), np.cumsum(lengths)[:-1]))
    sae = hand.made(np.eye(12), "here", mean=0)
    found = layer_card("here", source, 1, 10**6, sae=sae)
    panel, on = found.latents, codes > 0
    order = np.argsort(-on.sum(0), kind="stable")
    np.testing.assert_allclose(panel.prob, on.mean(0)[order])
    means = [codes[on[:, i], i].mean() for i in order]
    np.testing.assert_allclose(panel.magnitude_mean, means, rtol=1e-5)
    sds = [codes[on[:, i], i].std() for i in order]
    np.testing.assert_allclose(panel.magnitude_sd, sds, rtol=1e-4)
    np.testing.assert_array_equal(panel.l0_counts, np.bincount(on.sum(1)))
    phi = np.corrcoef(on.T)
    np.testing.assert_allclose(panel.correlations, np.linalg.eigvalsh(phi)[::-1], atol=1e-6)
    assert panel.magnitude_counts.sum() == on.sum() and panel.modes == 1
    world = world_panels(["sphere"], 512)["sphere"]
    rows = {what: of for what, *of in found.rows(world)}
    assert rows["features"][0] == "12 (ratio 1)"
    assert "–" not in {value for what, of in rows.items() if "eighth" not in what for value in of}
    with pytest.raises(ToysaeError, match="the SAE is of there, not of here"):
        layer_card("here", source, 1, sae=hand.made(np.eye(12), "there"))


def test_figures_hold_what_was_measured():
    table = pd.DataFrame({
        "recipe": "tied", "init": ["a", "a"], "mmcs_seeds": [0.5, 0.5],
        "mmcs_seeds_init": [0.1, 0.1], "floor": [0.1, 0.1],
    })  # fmt: skip
    mcs = np.array([[0.95, np.nan, 0.05, 0.2], [0.95, 0.2, 0.2, np.nan]])
    _, frame = seeds_figure({"here": [(table, {"mcs_seeds": mcs})]}, "two SAEs")
    assert frame["share"].sum() == pytest.approx(1) and set(frame["n_latents"]) == {6}
    top = frame[frame["low"] > 0.9]
    assert top["share"].sum() == pytest.approx(2 / 6)
    arms = pd.DataFrame({
        "arm": ["clean", "zero", "untied seed0"], "delta_ce": [0.0, 2.0, 0.1],
        "delta_ce_half_width": [0.0, 0.1, 0.01],
    })  # fmt: skip
    _, frame = splice_figure({"here": arms}, "one SAE")
    assert frame["site"].tolist() == ["here"] * 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["card"], "name the directory of a capture"),
        (["card", "nowhere"], "holds no captured site"),
        (["card", "nowhere", "--word", "sphere"], "--world"),
        (["card", "nowhere", "--world", "spere"], "'sphere'"),
        (["twin", "nowhere"], "--l1-coeff"),
        (["twin", "nowhere", "--l1-coeff", "1"], "holds no captured site"),
        (["twin", "nowhere", "--recipes", "untyed", "--l1-coeff", "1"], "'untied'"),
    ],
)
def test_bad_commands_are_one_line(args, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["lm", *args])
    assert stop.value.code == 2 and words in capsys.readouterr().err
