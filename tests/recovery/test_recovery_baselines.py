"""Classical dictionaries against closed forms and scikit-learn."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from toysae import ToysaeError
from toysae.recovery import mcc
from toysae.recovery.baselines import BASELINES, Dictionary, make_baseline
from toysae.recovery.dictionary_learning import learn_fista, learn_mod
from toysae.sae.fista import fista

D = 8
SHORT = {"fista": {"n_steps": 30}, "sklearn": {"n_steps": 50}}  # where the default is slow


def rotation(seed=1):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]


def sparse_data(directions, n=1500, p=0.15, seed=0):
    rng = np.random.default_rng(seed)
    acts = rng.uniform(0.5, 1.5, (n, len(directions))) * (rng.random((n, len(directions))) < p)
    return jnp.asarray(acts @ directions, jnp.float32)


@pytest.fixture(scope="module")
def easy():
    """Orthonormal features and data of them."""
    truth = rotation()
    return truth, sparse_data(truth)


@jax.jit
def run(sae, x):
    return sae(x)


@pytest.mark.filterwarnings("ignore:Objective did not converge")
@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"nmf"}))
def test_every_baseline_is_an_sae_with_unit_rows(name, easy):
    found = make_baseline(name, easy[1], 12, **SHORT.get(name, {}))
    assert found.rows.shape == (12, D) and found.name == name
    np.testing.assert_allclose(np.linalg.norm(found.rows, axis=1), 1, atol=1e-4)
    f = run(found.sae(0.05), easy[1][:50])
    assert f.x_hat.shape == (50, D) and bool((f.z >= 0).all()) and bool(jnp.isfinite(f.z).all())
    again = make_baseline(name, easy[1], 12, **SHORT.get(name, {}))
    np.testing.assert_array_equal(found.rows, again.rows)


def test_codes_are_non_negative_least_squares_without_a_penalty():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, D))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    bias = rng.normal(size=D)
    x = rng.normal(size=(6, D))
    found = Dictionary(jnp.asarray(rows, jnp.float32), jnp.asarray(bias, jnp.float32), "random")
    f = run(found.sae(0.0, 500), jnp.asarray(x, jnp.float32))
    z = np.stack([nnls(rows.T, row - bias)[0] for row in x])
    np.testing.assert_allclose(f.z, z, atol=1e-4)
    np.testing.assert_allclose(f.x_hat, z @ rows + bias, atol=1e-4)


def test_pca_is_the_covariances_eigenvectors_and_their_negatives():
    x = np.random.default_rng(0).normal(size=(500, D)) * np.arange(1, D + 1) + 3
    found = make_baseline("pca", jnp.asarray(x, jnp.float32), 40)
    assert found.rows.shape == (2 * D, D)  # no more axes than there are
    values, vectors = np.linalg.eigh(np.cov(x.T))
    axes = vectors.T[np.argsort(-values)]
    np.testing.assert_allclose(np.abs((np.asarray(found.rows[:D]) * axes).sum(1)), 1, atol=1e-4)
    np.testing.assert_array_equal(found.rows[D:], -found.rows[:D])
    np.testing.assert_allclose(found.bias, x.mean(0), rtol=1e-5)
    # Both signs of every axis code anything.
    f = run(found.sae(0.0, 300), jnp.asarray(x[:20], jnp.float32))
    np.testing.assert_allclose(f.x_hat, x[:20], atol=1e-2)


def test_data_samples_and_random_directions(easy):
    rows = np.asarray(make_baseline("data-samples", easy[1], 30).rows)
    unit = np.asarray(easy[1])[(np.asarray(easy[1]) != 0).any(1)]
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose((rows @ unit.T).max(1), 1, atol=1e-5)
    one, two = (make_baseline("random", easy[1], 500, seed=s).rows for s in (0, 1))
    assert np.abs(np.asarray(one).mean(0)).max() < 0.07 and float(jnp.abs(one - two).max()) > 0.1


def test_fista_learning_recovers_an_easy_world(easy):
    truth, x = easy
    found = make_baseline("fista", x, D, l1_coeff=0.1, n_steps=300)
    assert mcc(truth @ np.asarray(found.rows).T) > 0.95
    random = make_baseline("random", x, D)
    assert mcc(truth @ np.asarray(random.rows).T) < 0.7


def test_fista_learning_lowers_its_own_loss(easy):
    @jax.jit
    def loss(D):
        z = fista(easy[1], D, 0.1, 10.0, 300)
        return jnp.sum((easy[1] - z @ D) ** 2, 1).mean() + 0.1 * z.sum(1).mean()

    few, many = (loss(learn_fista(jax.random.key(0), easy[1], 12, 0.1, n)) for n in (1, 100))
    assert many < 0.9 * few


def test_mod_never_raises_its_residual_and_recovers_an_easy_world(easy):
    truth, x = easy
    rows, residuals = learn_mod(jax.random.key(0), x, 12, 3, 30)
    residuals = np.asarray(residuals, np.float64)
    assert np.all(np.diff(residuals) <= 1e-6) and residuals[-1] < 0.5 * residuals[0]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    best = (truth @ np.asarray(rows).T).max(1)
    assert np.median(best) > 0.95


@pytest.mark.filterwarnings("ignore:Objective did not converge")
def test_sklearns_learner_recovers_an_easy_world(easy):
    truth, x = easy
    found = make_baseline("sklearn", x, 12, alpha=0.1, n_steps=300)
    assert np.median((truth @ np.asarray(found.rows).T).max(1)) > 0.95


def test_nmf_of_non_negative_data(easy):
    own = np.arange(D) % 4 == np.arange(4)[:, None]
    truth = np.abs(np.random.default_rng(3).normal(size=(4, D))) * own
    truth = truth / np.linalg.norm(truth, axis=1, keepdims=True)
    rows = np.asarray(make_baseline("nmf", sparse_data(truth, p=0.4), 4).rows)
    assert (rows >= 0).all() and mcc(truth @ rows.T) > 0.98
    with pytest.raises(ToysaeError, match="nmf needs x >= 0.*use semi-nmf"):
        make_baseline("nmf", easy[1], 4)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("pcaa", {}, "unknown baseline 'pcaa': did you mean 'pca'"),
        ("mod", {"kk": 3}, "unknown option of baseline 'mod' 'kk'.*known: k, n_steps"),
        ("random", {"d_sae": 0}, "d_sae 0 must be at least 1"),
        ("k-means", {"d_sae": 2000}, "1500 samples for d_sae 2000: give at least as many"),
    ],
)
def test_bad_input_is_refused(easy, name, given, message):
    with pytest.raises(ToysaeError, match=message):
        make_baseline(name, easy[1], **{"d_sae": 4, **given})


def test_nan_and_negative_coefficients_are_refused(easy):
    with pytest.raises(ToysaeError, match="x is not finite"):
        make_baseline("pca", easy[1].at[3, 2].set(jnp.nan), 4)
    with pytest.raises(ToysaeError, match="l1_coeff -1 must be at least 0"):
        make_baseline("pca", easy[1], 4).sae(-1.0)


def test_a_missing_scikit_learn_names_the_extra(easy, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ToysaeError, match=r"pip install 'toysae\[baselines\]'"):
        make_baseline("sklearn", easy[1], 4)
