"""K-SVD: one sweep against float64 NumPy, and small dictionaries recovered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.recovery import mcc
from toysae.recovery.baselines import make_baseline
from toysae.recovery.ksvd import _N_ALTERNATIONS, _TIE, learn_ksvd, update_rows

K = 2


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def f32(a):
    return jnp.asarray(a, jnp.float32)


def problem(positive, n, d, samples, seed=0):
    """Unit rows, codes with exactly K entries, and their data."""
    rng = np.random.default_rng(seed)
    D, Z = unit(rng.normal(size=(n, d))), np.zeros((samples, n))
    for z in Z:
        signs = 1 if positive else rng.choice([-1, 1], K)
        z[rng.choice(n, K, replace=False)] = rng.uniform(0.5, 1.5, K) * signs
    return D, Z, Z @ D


def best_pair(own, old, positive):
    """The rank-one fit of K-SVD by NumPy's SVD; non-negative codes by alternation."""
    V = np.linalg.svd(own, full_matrices=False)[2]
    if not positive:
        return V[0], own @ V[0]
    fits, top = [], V[0] * np.sign(V[0] @ old)
    for i, row in enumerate((top, -top, old)):
        for _ in range(_N_ALTERNATIONS):
            codes = np.maximum(own @ row, 0)
            row = unit(codes @ own) if codes.any() else row
        codes = np.maximum(own @ row, 0)
        fits.append(((codes**2).sum() * (1 - i * _TIE), row, codes))
    return max(fits, key=lambda fit: fit[0])[1:]


def numpy_sweep(x, D, Z, positive):
    D, Z = D.copy(), Z.copy()
    for j in range(len(D)):
        users = np.flatnonzero(Z[:, j])
        if len(users):
            others = np.delete(Z, j, 1) @ np.delete(D, j, 0)
            D[j], Z[users, j] = best_pair((x - others)[users], D[j], positive)
        else:
            worst = ((x - Z @ D) ** 2).sum(1).argmax()
            D[j], Z[worst] = unit(x[worst]), 0
            Z[worst, j] = np.linalg.norm(x[worst])
    return D, Z


@pytest.mark.parametrize("positive", [True, False])
def test_a_sweep_equals_numpys(positive):
    rng = np.random.default_rng(4)
    _, Z, x = problem(positive, 7, 5, 60)
    x = x + 0.1 * rng.normal(size=x.shape)
    D = unit(rng.normal(size=(7, 5)))
    Z[:, [2, 5]] = 0  # no sample uses these
    new_D, new_Z = (np.asarray(a) for a in update_rows(
        *map(f32, (x, D, Z)), positive=positive))  # fmt: skip
    D64, Z64 = numpy_sweep(x, D, Z, positive)
    sign = np.ones(7) if positive else np.sign((new_D * D64).sum(1))
    np.testing.assert_allclose(new_D, D64 * sign[:, None], atol=1e-5)
    np.testing.assert_allclose(new_Z, Z64 * sign, atol=1e-5)
    assert ((x - new_Z @ new_D) ** 2).sum() < ((x - Z @ D) ** 2).sum()
    # Where a code was 0 it stays, but for the two samples that a fresh row took over.
    assert len(np.unique(np.nonzero((new_Z != 0) & (Z == 0))[0])) == 2
    assert (new_Z >= 0).all() or not positive


@pytest.mark.parametrize("positive", [True, False])
def test_with_the_true_support_sweeps_come_to_the_truth(positive):
    D, Z, x = problem(positive, 8, 10, 300)
    rng = np.random.default_rng(2)
    rows = f32(unit(D + 0.3 * unit(rng.normal(size=D.shape))))
    codes = f32(Z * rng.uniform(0.5, 1.5, Z.shape))
    for _ in range(30):
        rows, codes = update_rows(f32(x), rows, codes, positive)
    np.testing.assert_allclose(np.asarray(codes @ rows), x, atol=1e-3)
    cos = (D * np.asarray(rows)).sum(1)
    np.testing.assert_allclose(cos if positive else np.abs(cos), 1, atol=1e-4)


@pytest.mark.parametrize("positive", [True, False])
def test_it_recovers_most_of_a_small_dictionary(positive):
    """Most: a few rows end as mixtures."""
    D, _, x = problem(positive, 20, 16, 1500)
    found = []
    for seed in range(3):
        rows, residuals = learn_ksvd(jax.random.key(seed), f32(x), 20, K, 40, positive)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert np.diff(residuals).max() < 1e-6 and residuals[-1] < 0.3 * residuals[0]
        cos = D @ np.asarray(rows).T
        found.append(((cos if positive else np.abs(cos)).max(1) > 0.99).mean())
    start = D @ np.asarray(make_baseline("data-samples", f32(x), 20).rows).T
    assert np.median(found) >= 0.7 and (np.abs(start).max(1) > 0.99).mean() <= 0.1


def test_data_of_fewer_directions_than_rows_keep_rows_finite():
    """Zero samples, and rows that nothing needs: they stay unit rows, the fit is exact."""
    x = np.zeros((50, 6))
    x[:30, 0], x[30:45, 1] = 1.0, 2.0
    rows, residuals = learn_ksvd(jax.random.key(0), f32(x), 8, K, 10)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert float(residuals[-1]) < 1e-9


def test_the_baseline_is_the_non_negative_variant():
    D, _, x = problem(True, 20, 16, 1500)
    found = make_baseline("k-svd", f32(x), 20, k=K, n_steps=40)
    cos = D @ np.asarray(found.rows).T
    assert mcc(cos) > 0.85 and (cos.max(1) > 0.99).mean() >= 0.7
    assert mcc(cos) > mcc(D @ np.asarray(make_baseline("random", f32(x), 20).rows).T) + 0.3
