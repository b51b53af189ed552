"""Survival curves against a worked case from the literature, and against counting."""

import numpy as np
import pytest

from toysae import ToysaeError
from toysae.recovery import steps_by_feature, survival


def test_kaplan_and_meier_on_freireichs_remissions():
    # Freireich et al. 1963, 6-MP arm, weeks in remission; the estimate as in Kalbfleisch and
    # Prentice 2002, table 1.3 and Collett 2015.
    weeks = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    gone = [0, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1]
    at = [5, 6, 7, 10, 13, 16, 22, 23, 35]
    known = [1, 0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448, 0.448]
    np.testing.assert_allclose(survival(weeks, gone, at), known, atol=6e-4)


def test_with_censoring_at_the_end_alone_it_is_the_share_not_yet_recovered():
    rng = np.random.default_rng(0)
    mcs = np.sort(rng.random((3, 5, 7)), axis=1)  # [rows, T, features], never lost again
    counts, at = (mcs > 0.6).sum(axis=2), np.array([0, 10, 20, 40, 80])
    steps, censored = steps_by_feature(at, counts, 7)
    for row in range(3):
        share = survival(steps[row], censored[row], at)
        np.testing.assert_allclose(share, 1 - counts[row] / 7, atol=1e-12)
        first = np.sort((mcs[row] <= 0.6).sum(axis=0))
        np.testing.assert_array_equal(steps[row], at[np.minimum(first, 4)])
        np.testing.assert_array_equal(censored[row], first == 5)


def test_a_feature_that_is_lost_again_has_been_recovered():
    steps, censored = steps_by_feature([0, 5, 9], [[0, 2, 1]], 3)
    assert steps.tolist() == [[5, 5, 9]] and censored.tolist() == [[False, False, True]]


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ToysaeError, match="give \\[rows, T\\]"):
        steps_by_feature([0, 1], [[1, 2, 3]], 3)
