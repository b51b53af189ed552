"""Thresholds from histograms: against every threshold tried in NumPy, and scikit-learn."""

import jax.numpy as jnp
import numpy as np
from sklearn.metrics import f1_score, roc_auc_score

from toysae.recovery.auroc import N_BINS, ZERO_BIN, bin_of, edge_of
from toysae.recovery.thresholds import (
    add_scores,
    aurocs_of,
    best_thresholds,
    empty_counts,
    f1_by_bin,
    shared_threshold,
)


def counted(scores, on):
    counts = empty_counts(scores.shape[1])
    for part in (slice(0, 300), slice(300, None)):
        counts = add_scores(counts, jnp.asarray(scores[part], jnp.float32), jnp.asarray(on[part]))
    return counts


def example():
    rng = np.random.default_rng(0)
    on = rng.random((2000, 4)) < [0.1, 0.3, 0.5, 0.9]
    scores = on * rng.uniform(0.2, 1, on.shape) + rng.normal(-0.1, 0.2, on.shape)
    return scores.astype(np.float32), on


def test_a_value_exceeds_the_edge_of_its_bin_and_not_of_the_next():
    size = np.geomspace(1e-6, 4000, 5001).astype(np.float32) * np.float32(1.0001)
    values = np.concatenate([-size, size, [1e-9, -1e-9, 0]]).astype(np.float32)
    bins = np.asarray(bin_of(jnp.asarray(values)))
    assert (values > edge_of(bins)).all()
    assert (values <= edge_of(np.minimum(bins + 1, N_BINS - 1)))[bins < N_BINS - 1].all()
    assert edge_of(np.array(0)) == -np.inf and edge_of(np.array(ZERO_BIN + 1)) == 0


def test_the_best_threshold_is_the_best_of_all():
    scores, on = example()
    counts = counted(scores, on)
    found = best_thresholds(counts)
    for g in range(4):
        got = f1_score(on[:, g], scores[:, g] > found[g])
        called = scores[:, g] > np.sort(scores[:, g])[::5, None]
        every = 2 * (called & on[:, g]).sum(1) / (called.sum(1) + on[:, g].sum())
        assert every.max() - 0.01 < got, g  # bins are 3 to 6 % wide
        assert np.nanmax(f1_by_bin(counts)[g]) == np.float32(got)
    np.testing.assert_allclose(
        aurocs_of(counts), [roc_auc_score(on[:, g], scores[:, g]) for g in range(4)], atol=2e-3
    )


def test_the_shared_threshold_is_the_best_in_the_mean():
    scores, on = example()
    t = shared_threshold(counted(scores, on))
    tried = [(f1_mean(scores, on, t), t) for t in np.linspace(0, 1, 201)]
    assert f1_mean(scores, on, t) > max(tried)[0] - 0.005
    assert abs(t - max(tried)[1]) < 0.05


def f1_mean(scores, on, t):
    return np.mean([f1_score(on[:, g], scores[:, g] > t) for g in range(on.shape[1])])


def test_a_gap_is_cut_in_its_middle_and_a_silent_feature_never_called():
    scores = np.array([[1.0, 0.5], [0.0, 0.2], [1.0, 0.1]])
    on = scores >= [[1.0, 1.0]]
    threshold = best_thresholds(counted(scores, on))
    assert 1e-4 < threshold[0] < 0.1  # the geometric middle of [2^-20, 1]
    assert threshold[1] == np.inf
