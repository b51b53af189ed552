from itertools import permutations

import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.recovery import distinct_matches, mcc


def _brute(cos):
    if cos.shape[0] > cos.shape[1]:
        cos = cos.T
    n, m = cos.shape
    return max(np.mean([cos[i, p[i]] for i in range(n)]) for p in permutations(range(m), n))


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("absolute", [False, True])
def test_mcc_equals_the_best_of_all_permutations(shape, absolute):
    cos = np.random.default_rng(sum(shape)).uniform(-1, 1, shape)
    expected = _brute(np.abs(cos) if absolute else cos)
    assert mcc(cos, absolute=absolute) == pytest.approx(expected)


def test_antipodal_pair_found_once_and_duplicated():
    cos = np.array([[1.0, 1.0], [-1.0, -1.0]])
    assert mcc(cos, absolute=True) == 1.0
    assert mcc(cos) == 0.0
    # With an orthogonal feature in the other latent: half of the signed score is left.
    assert mcc(np.array([[1.0, 0.0], [-1.0, 0.0]])) == 0.5


def test_near_duplicates_do_not_share_a_latent():
    cos = np.array([[0.97, 0.1], [0.96, 0.2], [0.1, 0.92]])
    assert (cos.max(1) > 0.9).sum() == 3
    assert distinct_matches(cos, 0.9) == 2
    assert distinct_matches(cos, 0.95) == 1
    assert distinct_matches(cos, 0.99) == 0


def test_distinct_matches_is_the_largest_matching_not_a_greedy_one():
    # Greedily taking .99 first leaves the second feature without its only latent.
    cos = np.array([[0.99, 0.91], [0.95, 0.0]])
    assert distinct_matches(cos, 0.9) == 2


def test_nan_is_not_hidden_and_bad_shapes_are_refused():
    cos = np.array([[1.0, np.nan], [0.0, np.nan]])
    assert np.isnan(mcc(cos))
    assert distinct_matches(cos, 0.9) == 1
    with pytest.raises(ToysaeError, match="n_features, d_sae"):
        mcc(np.ones(3))
