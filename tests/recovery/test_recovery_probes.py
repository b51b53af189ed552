"""Linear probes: closed forms, and scikit-learn's ridge on the very samples."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score, r2_score, roc_auc_score

from toysae import ToysaeError, make_world
from toysae.keys import seed_key
from toysae.recovery import linear_probes
from toysae.worlds import batches

FIT, SCORE = seed_key(0, "fit"), seed_key(0, "score")


def drawn(world, key, n):
    found = list(batches(world, key, n))
    return [np.concatenate([getattr(b, k) for b in found]) for k in ("x", "feature_acts")]


def test_orthogonal_coefficients_are_read_exactly():
    world = make_world("orthogonal", 0, d_in=6, n_features=5, l0=1.5)
    scores = linear_probes(world, FIT, SCORE, 4096, 4096)["coefficient"]
    np.testing.assert_allclose(scores["r2"], 1, atol=1e-5)
    for column in ("f1", "precision", "recall", "auroc"):
        np.testing.assert_allclose(scores[column], 1, atol=2e-3)  # coefficients near 0


def test_antipodal_pairs_that_exclude_each_other():
    # score = (a - b) / 2 for exclusive a, b ~ U[0, 1) on with probability p each: the sign tells
    # them apart, and R^2 = E a^2 / (2 var a).
    world = make_world(
        "antipodal", 0, d_in=4, n_features=8, l0=2.0, firing="exclusive", group_size=2
    )
    scores = linear_probes(world, FIT, SCORE, 16_384, 16_384)["coefficient"]
    p = 2.0 / 8
    np.testing.assert_allclose(scores["r2"], (p / 3) / (2 * (p / 3 - p**2 / 4)), atol=0.03)
    np.testing.assert_allclose(scores["auroc"], 1, atol=5e-3)
    np.testing.assert_allclose(scores["f1"], 1, atol=0.02)


def test_agrees_with_scikit_learn_and_scores_other_samples():
    world = make_world("sphere", 0, d_in=5, n_features=9, l0=2.0)
    found = linear_probes(world, FIT, SCORE, 4096, 2048)
    (x, acts), (x_new, acts_new) = drawn(world, FIT, 4096), drawn(world, SCORE, 2048)
    for name, y, y_new in (
        ("coefficient", acts, acts_new),
        ("on-off", (acts != 0) * 1.0, (acts_new != 0) * 1.0),
    ):
        score = Ridge(alpha=1e-4).fit(x, y).predict(x_new)
        for g in range(9):
            row, on = found[name].iloc[g], acts_new[:, g] != 0
            assert row["r2"] == pytest.approx(r2_score(y_new[:, g], score[:, g]), abs=1e-3)
            assert row["auroc"] == pytest.approx(roc_auc_score(on, score[:, g]), abs=3e-3)
            best = max(f1_score(on, score[:, g] > t) for t in np.quantile(score[:, g], QUANTILES))
            assert best - 0.1 < row["f1"] < best + 0.01  # its threshold is of other samples
            p, r = row["precision"], row["recall"]
            assert row["f1"] == pytest.approx(2 * p * r / (p + r))


QUANTILES = np.linspace(0.3, 0.99, 100)


def test_features_that_are_not_what_is_scored_are_refused():
    world = make_world("orthogonal", 0, d_in=4, n_features=3, l0=1.0)
    with pytest.raises(ToysaeError, match="other directions than fire"):
        linear_probes(world.replace(truth=world.directions[:2]), FIT, SCORE, 1024, 1024)


def test_a_large_bias_costs_no_digits():
    near, far = (make_world("sphere", 0, d_in=5, n_features=9, l0=2.0, bias=b) for b in (0.0, 1e3))
    scores = [linear_probes(w, FIT, SCORE, 4096, 2048)["coefficient"]["r2"] for w in (near, far)]
    np.testing.assert_allclose(scores[1], scores[0], atol=5e-3)
