"""D_i, D*, overlap and directions, on arrangements whose values are known."""

import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.worlds.tms import (
    POLYTOPES,
    dimensions_per_feature,
    feature_dimensionality,
    overlap,
    phase_change,
    tms_directions,
)


def polygon(n):
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle)])


def antiprism():
    """Two squares, the upper one turned by 45 degrees, at the height that makes D_i 3/8."""
    low, high = polygon(4), polygon(8)[:, 1::2]
    height = 0.5**0.5  # sum_i W_i W_i^T is then a multiple of the identity
    z = height * np.concatenate([-np.ones(4), np.ones(4)])
    return np.concatenate([np.concatenate([low, high], 1), z[None]])


ARRANGEMENTS = {
    "dedicated": np.eye(3),
    "tetrahedron": np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).T,
    "triangle": polygon(3),
    "antipodal pair": np.array([[1.0, -1.0]]),
    "pentagon": polygon(5),
    "square antiprism": antiprism(),
    "not represented": np.zeros((2, 3)),
}


@pytest.mark.parametrize("name", POLYTOPES)
def test_each_arrangement_has_its_share(name):
    W = 1.7 * ARRANGEMENTS[name].astype(np.float32)
    np.testing.assert_allclose(feature_dimensionality(W), POLYTOPES[name], atol=1e-6)


def test_measures_are_what_their_formulas_say():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(2, 3, 7))
    for one, share, over, star in zip(
        W,
        feature_dimensionality(W.astype(np.float32)),
        overlap(W.astype(np.float32)),
        dimensions_per_feature(W.astype(np.float32)),
        strict=True,
    ):
        for i in range(7):
            unit = one[:, i] / np.linalg.norm(one[:, i])
            along = [(unit @ one[:, j]) ** 2 for j in range(7)]
            assert share[i] == pytest.approx(one[:, i] @ one[:, i] / sum(along), rel=1e-5)
            assert over[i] == pytest.approx(sum(along) - along[i], rel=1e-5)
        assert star == pytest.approx(3 / np.linalg.norm(one) ** 2, rel=1e-5)


def test_a_zero_column_has_no_share_and_no_nan():
    W = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    np.testing.assert_array_equal(feature_dimensionality(W), [1.0, 0.0])
    np.testing.assert_array_equal(overlap(W), [0.0, 0.0])


# Directions


def test_features_without_a_direction_are_left_out_and_counted():
    W = np.array([[3.0, 0.0, 0.2, -1.0], [4.0, 0.0, 0.1, 0.0]])
    found = tms_directions(W)
    assert found.kept.tolist() == [True, False, False, True]
    assert found.n_excluded == 2
    np.testing.assert_allclose(found.directions, [[0.6, 0.8], [-1.0, 0.0]])
    np.testing.assert_array_equal(found.rows, [[3.0, 4.0], [-1.0, 0.0]])
    assert tms_directions(W, threshold=0.0).kept.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("W", "threshold", "message"),
    [
        (np.zeros((2, 3)), 0.1, "W is all zero"),
        (np.array([[1.0, np.nan]]), 0.1, "W is not finite"),
        (np.ones((2, 3)), 1.0, "threshold 1.0 must be in"),
    ],
)
def test_what_has_no_directions_is_refused(W, threshold, message):
    with pytest.raises(ToysaeError, match=message):
        tms_directions(W, threshold)


# Phase changes


def turning(steps, turns_at):
    """Two features in one dimension each, until feature 1 turns onto feature 0."""
    late = 1 / (1 + np.exp(-(steps - turns_at) / 30))
    angle = (1 - late) * np.pi / 2
    W = np.zeros((len(steps), 2, 2))
    W[:, 0, 0] = 1
    W[:, :, 1] = np.stack([np.cos(angle), np.sin(angle)], -1)
    return W


def test_the_phase_change_is_found_where_it_is():
    steps = np.arange(0, 1001, 50)
    W = turning(steps, 600)
    found = phase_change(steps, W)
    assert found.steps.tolist() == [550, 600, 650]
    np.testing.assert_array_equal(found.W, W[11:14])
    share = [np.asarray(feature_dimensionality(w))[found.feature] for w in found.W]
    assert found.jump == pytest.approx(share[0] - share[2], abs=1e-6)
    assert phase_change(steps, W, width=4).steps.tolist() == [400, 600, 800]


def test_changes_before_after_step_do_not_count():
    steps = np.arange(0, 1001, 50)
    W = turning(steps, 100)
    W[16:, :, 1] *= 0.8  # a smaller change later; D_0 rises from 1 / 2 to 1 / 1.64
    assert phase_change(steps, W).steps.tolist() == [50, 100, 150]
    late = phase_change(steps, W, after_step=500)
    assert late.steps.tolist() in ([700, 750, 800], [750, 800, 850])
    assert late.jump == pytest.approx(1 / 1.64 - 0.5, abs=0.15)


@pytest.mark.parametrize(("width", "after", "message"), [(0, 1, "width 0"), (1, 900, "too few")])
def test_too_few_snapshots_are_refused(width, after, message):
    steps = np.arange(0, 1001, 50)
    with pytest.raises(ToysaeError, match=message):
        phase_change(steps, turning(steps, 600), width, after + 50)
