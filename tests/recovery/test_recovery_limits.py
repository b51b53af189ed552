"""Limits of a world: Welch's bound reached, coherence in NumPy, the sparsity limit by hand."""

import numpy as np
import pytest
from scipy.optimize import linprog

from toysae import make_world
from toysae.recovery import limits, phase_transition, sparsity_limit


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


def test_the_phase_transition_is_donohos_and_tanners():
    # Weak threshold of the simplex at delta = 1/2: 0.558 (Donoho and Tanner 2005, PNAS 102(27)).
    assert phase_transition(200, 100) == pytest.approx(55.8, abs=0.1)
    assert phase_transition(100, 100) == phase_transition(50, 100) == 100
    for n in (10**6, 10**12):  # for large N / d, slowly, the sparsity limit
        off = phase_transition(n * 10, 10) / sparsity_limit(n * 10, 10) - 1
        assert 0 < off < 2.5 / np.log(n)


def test_linear_programming_finds_the_codes_below_the_transition_and_not_above():
    rng, d, n = np.random.default_rng(0), 60, 120
    share = {}
    for factor in (0.7, 1.3):
        k, found = round(factor * phase_transition(n, d)), 0
        for _ in range(20):
            directions, codes = rng.standard_normal((n, d)), np.zeros(n)
            codes[rng.choice(n, k, replace=False)] = rng.uniform(size=k)
            least = linprog(
                np.ones(n), A_eq=directions.T, b_eq=codes @ directions, bounds=(0, None)
            )
            found += bool(np.abs(least.x - codes).max() < 1e-6)
        share[factor] = found / 20
    assert share[0.7] >= 0.9 and share[1.3] <= 0.1
