"""Dictionaries: each against what it promises."""

import jax
import numpy as np
import pytest

from toysae.worlds import dictionaries
from toysae.worlds.dictionaries import welch_bound

KEY = jax.random.key(3)


def gram(rows):
    rows = np.asarray(rows, np.float64)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    return rows @ rows.T


@pytest.mark.parametrize("n", [1, 5, 16])
def test_orthogonal(n):
    np.testing.assert_allclose(gram(dictionaries.orthogonal(KEY, n, 16)), np.eye(n), atol=1e-5)


@pytest.mark.parametrize(("n", "d"), [(24, 12), (48, 12), (3, 2)])
def test_a_frame_is_nearer_to_the_welch_bound_than_the_sphere(n, d):
    def coherence(rows):
        cos = np.abs(gram(rows))
        return cos[np.triu_indices(n, 1)].max()

    found = coherence(dictionaries.frame(KEY, n, d))
    assert found >= welch_bound(n, d) - 1e-5
    assert found < 0.75 * coherence(dictionaries.sphere(KEY, n, d))
    if (n, d) == (3, 2):  # the Mercedes-Benz frame attains it
        assert found == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.95, 1.0])
def test_clusters_have_the_cosine_asked_for(cosine):
    cos = gram(dictionaries.clusters(KEY, 200, 512, cosine=cosine, size=4))
    same = np.kron(np.eye(50), np.ones((4, 4)))
    inside = cos[(same - np.eye(200)) == 1]
    assert inside.mean() == pytest.approx(cosine, abs=0.01)
    assert inside.std() < 0.05
    assert abs(cos[same == 0].mean()) < 0.01


def test_privileged_features_lean_on_their_coordinate():
    rows = np.asarray(dictionaries.privileged(KEY, 40, 16, basis_noise=0.1))
    gram(rows)
    place = np.arange(40)
    assert (np.abs(rows).argmax(1) == place % 16).all()
    lean = rows[place, place % 16]
    assert (np.sign(lean) == np.where((place // 16) % 2, -1, 1)).all()
    assert np.abs(lean).mean() == pytest.approx(1 / np.sqrt(1.01), abs=0.02)


@pytest.mark.parametrize("rho", [-1.0, -0.3, 0.0, 0.7071, 1.0])
@pytest.mark.parametrize(("n", "d"), [(8, 8), (20, 6)])
def test_pairs_are_at_exactly_rho(rho, n, d):
    cos = gram(dictionaries.pairs(KEY, n, d, rho=rho))
    np.testing.assert_allclose(np.diag(cos[::2, 1::2]), rho, atol=1e-5)
    if n <= d:
        expected = np.kron(np.eye(n // 2), [[1, rho], [rho, 1]])
        np.testing.assert_allclose(cos, expected, atol=1e-5)


def test_low_rank_lies_in_a_subspace():
    rows = np.asarray(dictionaries.low_rank(KEY, 60, 24, rank=5), np.float64)
    gram(rows)
    values = np.linalg.svd(rows, compute_uv=False)
    assert values[4] > 1 and values[5] < 1e-4
