"""Records against slow float64 NumPy and scikit-learn, on random and degenerate samples."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from toysae.errors import ToysaeError
from toysae.recovery import (
    add_batch,
    add_detections,
    cosines,
    detection_scores,
    direction_scores,
    empty_detections,
    empty_totals,
    match,
    measure,
    no_detections,
    summarise,
)
from toysae.recovery.auroc import N_BINS, ZERO_BIN, auroc, bin_of
from toysae.worlds import Batch

N, D = 3000, 5
NEVER, ALWAYS, STEADY = 0, 1, 2  # features: never on, always, always at exactly 1


def as_batch(acts, in_order=True, slots=None):
    """Dense coefficients as a world would draw them, padded places in the middle."""
    n, n_features = acts.shape
    x = jnp.zeros((n, D))
    if in_order:
        indices = np.broadcast_to(np.arange(n_features, dtype=np.int32), acts.shape)
        return Batch(x, jnp.asarray(indices), jnp.asarray(acts), n_features, in_order=True)
    order = np.argsort(acts == 0, axis=1, kind="stable")
    order = np.roll(order[:, : (acts != 0).sum(1).max() + 2], 1, axis=1).astype(np.int32)
    values = np.take_along_axis(acts, order, 1)
    return Batch(x, jnp.asarray(order), jnp.asarray(values), n_features)


def case(n_features=9, d_sae=12, seed=0):
    """Directions, decoder, coefficients and codes with everything that can go wrong."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((n_features, D))
    W_dec = rng.standard_normal((d_sae, D)) * rng.uniform(0.2, 3, (d_sae, 1))
    W_dec[: min(d_sae, n_features)] += 3 * directions[: min(d_sae, n_features)]
    W_dec[-1] = 0  # a zero row
    if d_sae > 6:
        W_dec[5], W_dec[6] = W_dec[4], -2 * directions[3]  # a duplicate; an opposite
    acts = rng.uniform(0.5, 2, (N, n_features)) * (rng.random((N, n_features)) < 0.2)
    acts[:, NEVER] = 0
    acts[:, ALWAYS] = rng.uniform(1, 2, N)
    acts[:, STEADY] = 1
    unit = W_dec / np.maximum(np.linalg.norm(W_dec, axis=1, keepdims=True), 1e-9)
    z = acts @ directions @ unit.T + 0.3 * rng.standard_normal((N, d_sae))
    z = np.where(np.abs(z) > 0.8, z, 0)
    z[:, ::3] = np.maximum(z[:, ::3], 0)
    z[:, 3] = 0  # dead
    z[:, 7 % d_sae] = 1  # always on, never varies
    return tuple(np.float32(a) for a in (directions, W_dec, acts, z))


def stream(directions, W_dec, acts, z, cuts=(), in_order=True, enc_dec=None):
    matched = match(np.asarray(cosines(jnp.asarray(directions), jnp.asarray(W_dec))))
    seen = no_detections(matched)
    totals, add = empty_totals(D, z.shape[1]), jax.jit(add_detections)
    for i, j in pairwise([0, *cuts, len(z)]):
        seen = add(seen, as_batch(acts[i:j], in_order), jnp.asarray(z[i:j]))
        x = jnp.zeros((j - i, D))
        totals = jax.jit(add_batch)(totals, x, x, jnp.asarray(z[i:j]))
    freq = summarise(totals)["firing_freq"]
    return measure(matched, seen, freq, np.linalg.norm(np.float64(W_dec), axis=1), enc_dec)


def oracle(directions, W_dec, acts, z):
    """Everything from dense float64 arrays, pair by pair."""
    f, d, a, z = (np.float64(v) for v in (directions, W_dec, acts, z))
    norms = np.linalg.norm(d, axis=1)
    cos = f @ d.T / np.linalg.norm(f, axis=1)[:, None] / np.where(norms == 0, 1, norms)

    def detection(g, j):
        on, fires = a[:, g] != 0, z[:, j] != 0
        scores = precision_recall_fscore_support(on, fires, average="binary", zero_division=np.nan)
        return dict(zip(("precision", "recall", "f1"), scores[:3], strict=True))

    features, latents = [], []
    partner = dict(zip(*linear_sum_assignment(cos, maximize=True), strict=True))
    nothing = dict.fromkeys(("precision", "recall", "f1"), np.nan)
    for g in range(len(f)):
        j = cos[g].argmax()
        on, scaled = a[:, g] != 0, z[:, j] * norms[j]
        mixed = on.any() and not on.all()
        varies = np.ptp(a[:, g]) > 0
        row = {"mcs": cos[g].max(), "mcs_abs": np.abs(cos[g]).max(), "best_latent": j}
        row |= {"freq": on.mean(), **detection(g, j)}
        one_to_one = detection(g, partner[g]) if g in partner else nothing
        row |= {f"partner_{name}": value for name, value in one_to_one.items()}
        row["auroc"] = roc_auc_score(on, z[:, j]) if mixed else np.nan
        row["slope"] = np.polyfit(a[:, g], scaled, 1)[0] if varies else np.nan
        moves = varies and np.ptp(scaled) > 0
        row["r2"] = np.corrcoef(a[:, g], scaled)[0, 1] ** 2 if moves else 0 * row["slope"]
        features.append(row)
    for j in range(len(d)):
        g = np.abs(cos[:, j]).argmax()
        fires = z[:, j] != 0
        row = {"best_feature": g, "cos": cos[g, j], "mcs": cos[:, j].max(), "freq": fires.mean()}
        row |= {"dead": not fires.any(), **detection(g, j)}
        latents.append({**row, "accuracy": (fires == (a[:, g] != 0)).mean()})
    return cos, features, latents


@pytest.mark.parametrize(
    ("n_features", "d_sae", "in_order", "cuts"),
    [(9, 12, True, ()), (9, 12, False, (1, 1500)), (12, 8, False, ()), (12, 8, True, (1500,))],
)
def test_records_equal_the_float64_oracle(n_features, d_sae, in_order, cuts):
    data = case(n_features, d_sae)
    records = stream(*data, cuts, in_order)
    cos, features, latents = oracle(*data)
    for name in set(features[0]) - {"auroc"}:
        expected = [row[name] for row in features]
        np.testing.assert_allclose(records.features[name], expected, rtol=1e-4, atol=2e-5,
                                   err_msg=name)  # fmt: skip
    for name in latents[0]:
        expected = [row[name] for row in latents]
        np.testing.assert_allclose(records.latents[name], expected, rtol=1e-5, atol=1e-6,
                                   err_msg=name)  # fmt: skip
    # The sample holds every degenerate case.
    assert np.isnan(records.features["recall"][NEVER])
    assert records.features["freq"][NEVER] == 0 and records.features["freq"][ALWAYS] == 1
    assert np.isnan(records.features["auroc"][[NEVER, ALWAYS]]).all()
    assert np.isnan(records.features["slope"][[NEVER, STEADY]]).all()
    assert records.latents["dead"][3] and np.isnan(records.latents["precision"][3])

    area = np.array([row["auroc"] for row in features])
    error = np.abs(records.features["auroc"] - area)
    known = ~np.isnan(area)
    assert known.sum() >= 5 and np.isnan(records.features["auroc"][~known]).all()
    assert (error[known] <= records.features["auroc_error"][known] + 1e-6).all()
    # All of a constant latent is in one bin: as loose as the bound can get.
    loose = records.features["best_latent"] == 7
    assert (records.features["auroc_error"][known & loose] == 0.5).all()
    assert (records.features["auroc_error"][known & ~loose] < 0.03).all()

    for name, absolute in (("partner", False), ("partner_abs", True)):
        rows, columns = linear_sum_assignment(np.abs(cos) if absolute else cos, maximize=True)
        total = (np.abs(cos) if absolute else cos)[rows, columns]
        assert (records.features[name] >= 0).sum() == len(rows) == min(n_features, d_sae)
        assert records.features[f"{name}_cos"].sum() == pytest.approx(total.sum(), abs=1e-5)


def test_a_million_samples_stay_accurate():
    """One batch 1,000 times over, with a feature always near 100."""
    rng = np.random.default_rng(0)
    acts = np.float32(rng.uniform(1, 2, (1024, 3)) * (rng.random((1024, 3)) < [1, 0.5, 0.01]))
    acts[:, 0] += 99
    z = np.float32(np.maximum(acts * [0.9, 0.8, 0.7] + 0.1 * rng.standard_normal((1024, 3)), 0))
    eye = np.eye(3, D, dtype=np.float32)
    *_, features, _ = oracle(eye, eye, acts, z)
    pairs, batch = jnp.arange(3), as_batch(acts)

    @jax.jit
    def run(seen, z):
        return jax.lax.fori_loop(0, 1000, lambda _, s: add_detections(s, batch, z), seen)

    seen = run(empty_detections(pairs, pairs, pairs), jnp.asarray(z))
    records = measure(match(np.float32(eye @ eye.T)), seen, (z != 0).mean(0), np.ones(3))
    assert seen.n_samples == 1_024_000
    for name in ("precision", "recall", "f1", "slope", "r2"):
        expected = [row[name] for row in features]
        np.testing.assert_allclose(records.features[name], expected, rtol=1e-4, err_msg=name)


def test_vmap_over_members_equals_one_by_one():
    directions, W_dec, acts, z = case()
    batch = as_batch(acts, in_order=False)
    zs = jnp.stack([z, z[:, ::-1]])
    matches = [
        match(np.asarray(cosines(jnp.asarray(directions), jnp.asarray(W))))
        for W in (W_dec, W_dec[::-1])
    ]
    best_latents = jnp.asarray([m.features["best_latent"] for m in matches], jnp.int32)
    best_features = jnp.asarray([m.latents["best_feature"] for m in matches], jnp.int32)
    partners = jnp.asarray([m.features["partner"] for m in matches], jnp.int32)
    empty = jax.vmap(empty_detections)(best_latents, best_features, partners)
    together = jax.jit(jax.vmap(add_detections, (0, None, 0)))(empty, batch, zs)
    for i in range(2):
        start = empty_detections(best_latents[i], best_features[i], partners[i])
        alone = jax.jit(add_detections)(start, batch, zs[i])
        for name, value in vars(alone).items():
            np.testing.assert_allclose(getattr(together, name)[i], value, rtol=1e-5, atol=1e-6,
                                       err_msg=name)  # fmt: skip


def test_order_and_sign_of_the_dictionary_do_not_matter():
    directions, W_dec, acts, z = case()
    rng = np.random.default_rng(1)
    features, latents = rng.permutation(len(directions)), rng.permutation(len(W_dec))
    plain = stream(directions, W_dec, acts, z)
    moved = stream(directions[features], W_dec[latents], acts[:, features], z[:, latents])
    pairs = {"best_latent", "best_feature", "partner", "partner_abs"}
    for before, after, order in (
        (plain.features, moved.features, features),
        (plain.latents, moved.latents, latents),
    ):
        for name in set(before) - pairs:
            # Of the duplicates 4 and 5 either may be the first, and a zero row's best is any.
            latent, ambiguous = before.index, [11]
            if "best_latent" in before:
                latent, ambiguous = before["best_latent"], [4, 5]
            if name.startswith("partner_"):
                latent, ambiguous = before["partner"], [4, 5, 11]
            kept = ~np.isin(latent, ambiguous)[order]
            got, expected = after[name].to_numpy()[kept], before[name].to_numpy()[order][kept]
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=name)

    flipped = stream(directions, -W_dec, acts, -z)
    np.testing.assert_allclose(flipped.features["mcs_abs"], plain.features["mcs_abs"], atol=1e-6)
    np.testing.assert_allclose(flipped.latents["cos"], -plain.latents["cos"], atol=1e-6)
    for name in (
        "precision",
        "recall",
        "f1",
        "accuracy",
        "freq",
    ):  # matched by |cos|
        np.testing.assert_array_equal(flipped.latents[name], plain.latents[name])
    # Signed comes first: an opposite alone does not recover a feature.
    opposite = match(-np.eye(3, dtype=np.float32)).features
    assert opposite["mcs"].tolist() == [0, 0, 0] and opposite["mcs_abs"].tolist() == [1, 1, 1]


def test_scores_are_means_over_what_could_be_measured():
    records = stream(*case())
    on, alive = records.features[records.features["freq"] > 0], ~records.latents["dead"]
    scores = detection_scores(records)
    assert scores["unseen_features"] == 1 and len(on) == 8
    dead = set(np.flatnonzero(records.latents["dead"]))
    assert 3 in dead and scores["features_on_dead"] == on["best_latent"].isin(dead).sum() > 0
    partner = ("partner_precision", "partner_recall", "partner_f1")
    for name in ("recall", "f1", "auroc", "slope", "r2", "precision", *partner):
        assert scores[name] == pytest.approx(np.nanmean(on[name]))
    for name in ("precision", "recall", "f1"):
        expected = np.nanmean(records.latents[name][alive])
        assert scores[f"{name}_latents_alive"] == pytest.approx(expected)
    assert np.isnan(scores["enc_dec_cos_alive"])
    assert direction_scores(records)["mcc"] == pytest.approx(records.features["partner_cos"].mean())


def test_a_latent_shared_by_two_features_is_the_partner_of_one():
    """Both read the first latent; the second is dead, and a third feature is left over."""
    directions = np.float32([[1, 0, 0, 0, 0], [0.9, 0.1, 0, 0, 0], [0, 0, 1, 0, 0]])
    W_dec = np.float32([[1, 0, 0, 0, 0], [0, 0.5, 0, 0, 0]])
    acts = np.float32([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]])
    z = np.float32([[1, 0], [1, 0], [1, 0], [0, 0]])
    records = stream(directions, W_dec, acts, z)
    features = records.features
    assert features["best_latent"].tolist()[:2] == [0, 0] and (features["f1"][:2] == 0.8).all()
    assert features["partner"].tolist() == [0, 1, -1]
    np.testing.assert_allclose(features["partner_precision"], [2 / 3, np.nan, np.nan], rtol=1e-12)
    np.testing.assert_allclose(features["partner_recall"], [1, 0, np.nan])
    np.testing.assert_allclose(features["partner_f1"], [0.8, 0, np.nan])
    assert detection_scores(records)["partner_f1"] == pytest.approx(0.4)


def test_a_dead_latent_detects_nothing():
    eye = np.eye(2, D, dtype=np.float32)
    acts = np.float32(np.random.default_rng(0).random((500, 2)) < 0.3)
    row = stream(eye, eye, acts, acts * np.float32([0, 2]), enc_dec=np.array([0.5, 0.7]))
    silent, heard = row.features.iloc[0], row.features.iloc[1]
    assert np.isnan(silent["precision"])
    assert [silent[n] for n in ("recall", "f1", "slope", "r2", "auroc")] == [0, 0, 0, 0, 0.5]
    assert [heard[n] for n in ("precision", "recall", "f1", "auroc")] == [1, 1, 1, 1]
    assert heard["slope"] == pytest.approx(2, rel=1e-5) and heard["r2"] == pytest.approx(1)
    scores = detection_scores(row)
    assert scores["features_on_dead"] == 1 and scores["enc_dec_cos_alive"] == pytest.approx(0.7)


def test_without_detections_their_columns_are_nan():
    directions, W_dec, _, z = case()
    matched = match(np.asarray(cosines(jnp.asarray(directions), jnp.asarray(W_dec))))
    records = measure(matched, None, (z != 0).mean(0), np.ones(12))
    for name in ("freq", "precision", "f1", "auroc", "slope", "partner_f1"):
        assert records.features[name].isna().all()
    assert records.latents["f1"].isna().all() and records.latents["dead"].sum() == 1
    scores = detection_scores(records)
    assert np.isnan([scores[n] for n in ("f1", "unseen_features", "f1_latents_alive")]).all()
    assert 0 < scores["mmcs_latents_alive"] <= 1


def test_pairs_and_batches_of_another_world_are_refused():
    directions, W_dec, acts, z = case()
    seen = empty_detections(*(jnp.zeros(n, jnp.int32) for n in (9, 12, 9)))
    with pytest.raises(ToysaeError, match="the batch has 8 features, these pairs 9"):
        add_detections(seen, as_batch(acts[:, :8]), jnp.asarray(z))
    with pytest.raises(ToysaeError, match="no rows"):
        add_detections(seen, as_batch(acts[:0]), jnp.asarray(z[:0]))
    matched = match(np.asarray(cosines(jnp.asarray(directions), jnp.asarray(W_dec))))
    with pytest.raises(ToysaeError, match="of other pairs"):
        measure(matched, seen, np.zeros(12), np.ones(12))
    with pytest.raises(ToysaeError, match="cos has NaN"):
        match(np.full((2, 2), np.nan))


def test_bins_keep_the_order_and_zero_to_itself():
    z = np.float32([-1e9, -5000, -1.0, -1e-3, -1e-9, 0, -0.0, 1e-9, 1e-3, 1.0, 1.07, 5000, 1e9])
    bins = np.asarray(bin_of(jnp.asarray(z)))
    assert (np.diff(bins) >= 0).all() and bins[0] == 0 and bins[-1] == N_BINS - 1
    assert (bins == ZERO_BIN).tolist() == (z == 0).tolist()
    assert bins[9] < bins[10]  # 7 % apart
    edges = np.float32(2.0 ** np.arange(-20, 12)[:, None] * (1 + np.arange(16) / 16)).ravel()
    np.testing.assert_array_equal(bin_of(jnp.asarray(edges)), ZERO_BIN + 1 + np.arange(512))


def test_auroc_is_exact_where_no_bin_is_shared():
    rng = np.random.default_rng(0)
    on = rng.random(4000) < 0.3
    z = np.float32(np.where(on, rng.choice([0, 1, 2, 4], 4000), rng.choice([0, 0, 1.5, 3], 4000)))
    count = [np.bincount(bin_of(jnp.asarray(z[which])), minlength=N_BINS) for which in (on, ~on)]
    area, error = auroc(*(jnp.asarray(c, jnp.int32) for c in count))
    assert error == 0 and float(area) == pytest.approx(roc_auc_score(on, z), abs=1e-6)
