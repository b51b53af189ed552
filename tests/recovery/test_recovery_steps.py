import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.recovery import steps_to

AT = [0, 100, 1000]


def test_hand_worked_crossings():
    nan, inf = np.nan, np.inf
    curve = [
        [0.0, 0.8, 1.0],  # .9 halfway from 100 to 1000
        [0.95, 0.1, 0.2],  # at once
        [0.0, 0.9, 0.2],  # exactly, at a logged point, and lost later
        [0.0, 0.5, 0.8],  # never
        [nan, nan, nan],
        [0.0, nan, 1.0],  # NaN before it gets there
        [0.0, 1.0, nan],  # reached, then diverged
        [-inf, inf, 1.0],
    ]
    steps, censored = steps_to(AT, curve, 0.9)
    np.testing.assert_allclose(steps, [550, 0, 100, 1000, 1000, 1000, 90, 100])
    assert censored.tolist() == [False, False, False, True, True, True, False, False]


def test_interpolation_equals_numpy():
    curve = np.sort(np.random.default_rng(0).random((20, 9)), axis=1)
    at = np.cumsum(np.arange(1, 10))
    steps, censored = steps_to(at, curve, 0.6)
    for row, step, lost in zip(curve, steps, censored, strict=True):
        if not lost:
            assert step == pytest.approx(np.interp(0.6, row, at))
        assert lost == (row.max() < 0.6)


def test_bad_shapes_and_order_are_refused():
    with pytest.raises(ToysaeError, match="rows, T"):
        steps_to(AT, [[0.0, 1.0]], 0.9)
    with pytest.raises(ToysaeError, match="increase"):
        steps_to([0, 100, 100], [[0.0, 0.5, 1.0]], 0.9)
