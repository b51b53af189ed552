"""Logistic regression: against scikit-learn without a penalty, hand-worked and separated cases."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import t
from sklearn.linear_model import LogisticRegression

from toysae import ToysaeError
from toysae.recovery.logistic import fit_logistic, jackknife


def example(n=400, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3))
    return x, rng.random(n) < expit(0.5 + x @ [2.0, -1.0, 0.0])


def test_agrees_with_scikit_learn_without_a_penalty():
    x, y = example()
    ours = fit_logistic(x, y)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(ours.weights, theirs.coef_[0], atol=1e-5)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], abs=1e-5)
    np.testing.assert_allclose(ours.probability(x), theirs.predict_proba(x)[:, 1], atol=1e-5)
    assert not ours.separated


def test_two_groups_have_the_log_odds_of_their_shares():
    x = np.repeat([0.0, 1.0], 10)[:, None]
    y = np.r_[np.arange(10) < 3, np.arange(10) < 8]
    fit = fit_logistic(x, y)
    assert fit.intercept == pytest.approx(logit(0.3), abs=1e-4)
    assert fit.weights[0] == pytest.approx(logit(0.8) - logit(0.3), abs=1e-4)


def test_what_a_plane_tells_apart_stays_finite_and_is_marked():
    x = np.linspace(-1, 1, 21)[:, None]
    fit = fit_logistic(x, x[:, 0] > 0.27)
    assert fit.separated and np.isfinite(fit.weights).all() and fit.weights[0] > 30
    assert -fit.intercept / fit.weights[0] == pytest.approx(0.25, abs=0.05)  # between .2 and .3
    # A part that is told apart is enough: everything with x = 1 is found.
    x = np.r_[np.zeros(20), np.ones(5)][:, None]
    assert fit_logistic(x, np.r_[np.arange(20) < 10, np.ones(5, bool)]).separated


def test_a_term_that_never_varies_changes_nothing():
    x, y = example()
    both = fit_logistic(np.column_stack([x, np.zeros(len(x))]), y)
    np.testing.assert_allclose(both.weights, [*fit_logistic(x, y).weights, 0], atol=1e-8)


def test_the_jackknife_is_that_of_its_definition():
    x, y = example()
    worlds = np.arange(400) // 100
    fits = []
    for left in range(4):
        fit = fit_logistic(x[worlds != left], y[worlds != left])
        fits.append([fit.intercept, *fit.weights])
    deviation = np.array(fits) - np.mean(fits, axis=0)
    expected = t.ppf(0.975, 3) * np.sqrt(3 / 4 * (deviation**2).sum(0))
    np.testing.assert_allclose(jackknife(x, y, worlds), expected)
    assert np.isnan(jackknife(x, y, np.zeros(400, int))).all()


def test_copies_of_a_world_add_no_precision_that_features_would():
    # Each world's features ten times over: the intervals stay, as a naive error would not.
    x, y = example()
    worlds = np.arange(400) // 100
    ten = np.tile(np.arange(400), 10)
    np.testing.assert_allclose(
        jackknife(x[ten], y[ten], worlds[ten]), jackknife(x, y, worlds), rtol=1e-4
    )


@pytest.mark.parametrize("found", [np.zeros(5, bool), np.ones(5, bool)])
def test_all_or_none_found_is_refused(found):
    with pytest.raises(ToysaeError, match=r"of 5 samples are found"):
        fit_logistic(np.arange(5.0)[:, None], found)
    assert np.isnan(jackknife(np.arange(5.0)[:, None], found, np.arange(5))).all()
