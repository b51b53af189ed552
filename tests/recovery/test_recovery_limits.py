"""Limits of a world: Welch's bound reached, coherence in NumPy, the sparsity limit by hand."""

import numpy as np
import pytest

from toysae import make_world
from toysae.recovery import limits, sparsity_limit


def test_three_directions_of_the_plane_reach_the_welch_bound():
    # The Mercedes frame, 120 degrees apart as lines: sqrt((3 - 2) / (2 (3 - 1))) = 1 / 2.
    found = limits(make_world("frame", 0, d_in=2, n_features=3, l0=1.0), 1024)
    assert found.welch == 0.5
    assert found.coherence == pytest.approx(0.5, abs=1e-3)


def test_orthogonal_directions_have_none():
    found = limits(make_world("orthogonal", 0, d_in=5, n_features=4, l0=1.0), 1024)
    assert found.welch == 0 and found.coherence == pytest.approx(0, abs=1e-6)
    assert np.isnan(found.sparsity)


def test_coherence_nearest_and_l0_are_of_the_world():
    world = make_world("sphere", 0, d_in=6, n_features=20, l0=3.0)
    found = limits(world, 16_384)
    cos = np.asarray(world.directions, np.float64) @ np.asarray(world.directions, np.float64).T
    off = cos[~np.eye(20, dtype=bool)].reshape(20, 19)
    assert found.coherence == pytest.approx(np.abs(off).max(), abs=1e-5)
    assert found.nearest == pytest.approx(off.max(1).mean(), abs=1e-5)
    assert found.true_l0 == pytest.approx(3, abs=0.1)  # sd of the mean: 0.013
    assert "coherence" in str(found) and "nan" not in str(found)


def test_the_sparsity_limit_by_hand():
    assert sparsity_limit(1000, 100) == pytest.approx(100 / (2 * np.log(10)))
    assert sparsity_limit(101, 100) == 100  # never more than there are dimensions
    assert np.isnan(sparsity_limit(100, 100))
