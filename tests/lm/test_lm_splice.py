"""SAEs in place of activations, and what they cost the model, against NumPy in float64."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.interop.linear import build_sae
from toysae.lm import forward, load_model
from toysae.lm.capture.text import Corpus, TextLayout
from toysae.lm.effects.splice import baselines, splice_table
from toysae.lm.models.edits import Replace
from toysae.lm.saes.site_sae import SiteSAE, spliced
from toysae.sae import Params, finished, init_stats, make_spec

GOLDEN = Path(__file__).parent / "golden"
SITE, D, S, FIRST, N_CTX = "blocks.1.hook_resid_post", 32, 40, 2, 12
RNG = np.random.default_rng(0)
N, BATCH = 16, 8
LENGTHS = np.array([12, 12, 5, 9, 12, 3, 12, 12, 12, 7, 12, 12, 4, 12, 12, 10], np.int32)
TOKENS = np.where(np.arange(N_CTX) < LENGTHS[:, None], RNG.integers(0, 320, (N, N_CTX)), 0)
TOKENS = TOKENS.astype(np.int32)
CORPUS = Corpus(TOKENS, np.zeros_like(TOKENS), LENGTHS, TextLayout(N_CTX, first=FIRST), {})
BEHIND = np.arange(N_CTX) >= FIRST


@pytest.fixture(scope="module")
def model():
    return load_model(GOLDEN / "gpt-neox")


@pytest.fixture(scope="module")
def clean(model):
    seen = forward(model, TOKENS, [SITE])
    return np.asarray(seen.acts[SITE], np.float64), np.asarray(seen.logits, np.float64)


def of_site(sae, mean, scale, **about):
    about = {"site": SITE, "first": FIRST, **about}
    return SiteSAE(sae, jnp.asarray(mean, jnp.float32), jnp.float32(scale), json.dumps(about))


@pytest.fixture(scope="module")
def numbers(clean):
    """A random dictionary that fires about half of the time, as arrays in float64."""
    x = clean[0].reshape(-1, D)
    W_dec = RNG.normal(size=(S, D)) / D**0.5
    arrays = {
        "W_enc": W_dec.T + 0.05 * RNG.normal(size=(D, S)), "W_dec": W_dec,
        "b_enc": 0.1 * RNG.normal(size=S), "b_dec": 0.2 * RNG.normal(size=D),
    }  # fmt: skip
    return arrays, x.mean(0) + 0.1, 0.6 / x.std()


@pytest.fixture(scope="module")
def sae(numbers):
    arrays, mean, scale = numbers
    tensors = {name: a.astype(np.float32) for name, a in arrays.items()}
    return of_site(build_sae(tensors, pre_bias=True), mean, scale)


def codes(numbers, x):
    """z in NumPy."""
    a, mean, scale = numbers
    return np.maximum(((x - mean) * scale - a["b_dec"]) @ a["W_enc"] + a["b_enc"], 0)


def decoded(numbers, z):
    a, mean, scale = numbers
    return (z @ a["W_dec"] + a["b_dec"]) / scale + mean


def acts_with(model, edit):
    return np.asarray(forward(model, TOKENS, [SITE], [edit], logits=False).acts[SITE])


def check(found, wanted, clean):
    """From the first position on as wanted, before it as it was."""
    np.testing.assert_allclose(found[:, FIRST:], wanted[:, FIRST:], 1e-4, 1e-5)
    np.testing.assert_allclose(found[:, :FIRST], clean[:, :FIRST], atol=1e-5)


# The edit


def test_with_the_error_added_back_nothing_changes(model, sae, clean):
    x, logits = clean
    seen = forward(model, TOKENS, [SITE], [spliced(sae, error=True)])
    np.testing.assert_allclose(seen.acts[SITE], x, atol=1e-5)
    np.testing.assert_allclose(seen.logits, logits, atol=3e-5)


def test_without_it_the_reconstruction_stands_there(model, sae, numbers, clean):
    x, logits = clean
    z = codes(numbers, x)
    assert 0.2 < (z > 0).mean() < 0.8
    seen = forward(model, TOKENS, [SITE], [spliced(sae)])
    check(np.asarray(seen.acts[SITE]), decoded(numbers, z), x)
    assert np.abs(np.asarray(seen.logits) - logits)[:, FIRST:].max() > 0.01
    np.testing.assert_allclose(np.asarray(seen.logits)[:, :FIRST], logits[:, :FIRST], atol=3e-5)


def test_all_latents_ablated_leave_the_bias_in_the_units_of_the_model(model, sae, numbers, clean):
    (a, mean, scale), x = numbers, clean[0]
    found = acts_with(model, spliced(sae, times=jnp.zeros(S)))
    check(found, np.broadcast_to(a["b_dec"] / scale + mean, x.shape), x)


@pytest.mark.parametrize("times", [0, -4, 2])
def test_one_latent_times_a_number_moves_the_activation_along_its_direction(
    model, sae, numbers, clean, times
):
    """Ablated, x - z d; times -4, x - 5 z d."""
    (a, _, scale), x = numbers, clean[0]
    z = codes(numbers, x)
    j = int(z.mean((0, 1)).argmax())
    moved = (times - 1) * z[..., j, None] * a["W_dec"][j] / scale
    every = jnp.ones(S).at[j].set(times)
    check(acts_with(model, spliced(sae, times=every, error=True)), x + moved, x)
    check(acts_with(model, spliced(sae, times=every)), decoded(numbers, z) + moved, x)
    assert np.abs(moved).max() > 0.05


def test_pinned_latents_are_set_and_others_left(model, sae, numbers, clean):
    (a, _, scale), x = numbers, clean[0]
    z = codes(numbers, x)
    pinned = jnp.full(S, jnp.nan).at[3].set(1.5).at[7].set(0.0)
    wanted = z.copy()
    wanted[..., 3], wanted[..., 7] = 1.5, 0
    check(acts_with(model, spliced(sae, pinned=pinned)), decoded(numbers, wanted), x)
    moved = (wanted - z) @ a["W_dec"] / scale
    check(acts_with(model, spliced(sae, pinned=pinned, error=True)), x + moved, x)
    # A pinned latent is not multiplied.
    both = spliced(sae, pinned=pinned, times=jnp.zeros(S))
    only = np.zeros_like(z)
    only[..., 3] = 1.5
    check(acts_with(model, both), decoded(numbers, only), x)


def test_a_centred_sae_sees_activations_less_their_own_mean_and_leaves_it(model, sae, numbers):
    """At a site where that mean is not small."""
    site = "blocks.1.mlp.hook_post"
    x = np.asarray(forward(model, TOKENS, [site], logits=False).acts[site])[..., :D]
    own = x.mean(-1, keepdims=True)
    assert np.abs(own).mean() > 0.2 * x.std()
    about = json.dumps({**sae.info, "centred": True})
    found = np.asarray(spliced(sae.replace(about=about))(jnp.asarray(x)))
    wanted = decoded(numbers, codes(numbers, x - own)) + own
    np.testing.assert_allclose(found, wanted, 1e-4, 1e-4)
    other = np.asarray(spliced(sae)(jnp.asarray(x)))
    assert np.abs(other - wanted).max() > 0.01


def both_ways(mean, scale):
    """The identity: x is what one half of the latents gives, less what the other does."""
    two = np.concatenate([np.eye(D), -np.eye(D)]).astype(np.float32)
    tensors = {"W_enc": two.T, "W_dec": two, "b_enc": np.zeros(2 * D), "b_dec": np.zeros(D)}
    return of_site(build_sae(tensors, pre_bias=False), mean, scale)


def test_of_an_orthonormal_tied_dictionary_an_ablated_latent_is_gone(model, clean, numbers):
    """encode(x - z d) is 0 there and the same elsewhere."""
    _, mean, scale = numbers
    spec = make_spec("tied", D, D)
    W, _ = np.linalg.qr(RNG.normal(size=(D, D)))
    params = Params(jnp.asarray(W, jnp.float32), None, {"b_enc": jnp.zeros(D)}, {})
    tied = of_site(finished(spec, params, init_stats(spec), {}), mean, scale)
    z = np.asarray(tied.encode(jnp.asarray(clean[0], jnp.float32)))
    j = int(z.mean((0, 1)).argmax())
    times = jnp.ones(D).at[j].set(0.0)
    found = acts_with(model, spliced(tied, times=times, error=True))
    again = np.asarray(tied.encode(jnp.asarray(found)))
    assert again[:, FIRST:, j].max() < 1e-5 < 0.1 < z[:, FIRST:, j].max()
    rest = np.arange(D) != j
    np.testing.assert_allclose(again[..., rest], z[..., rest], atol=1e-5)


# The table


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


USED = BEHIND & (np.arange(N_CTX) < LENGTHS[:, None] - 1)


def losses(logits, reference):
    """Of each sequence, sums over the positions that count of the loss and of KL(clean, this)."""
    log_p, log_q = log_softmax(reference), log_softmax(logits)
    ce = -np.take_along_axis(log_q[:, :-1], TOKENS[:, 1:, None], -1)[..., 0]
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return (ce * USED[:, :-1]).sum(1), (kl * USED).sum(1)


@pytest.fixture(scope="module")
def rows():
    return (RNG.normal(size=(60, D)) * np.linspace(0.1, 1, D) + 0.2).astype(np.float32)


def stand_ins(x, rows, numbers):
    """What each arm puts in place of the activations, in NumPy; none of what is drawn."""
    mean = rows.astype(np.float64).mean(0)
    _, _, V = np.linalg.svd(rows - mean, full_matrices=False)
    return {
        "clean": x, "zero": np.zeros_like(x), "mean": np.broadcast_to(mean, x.shape),
        "pca-4": mean + (x - mean) @ V[:4].T @ V[:4],
        "ours": decoded(numbers, codes(numbers, x)), "identity": x,
    }  # fmt: skip


@pytest.fixture(scope="module")
def table(model, sae, numbers, rows):
    saes = {"ours": sae, "identity": both_ways(*numbers[1:])}
    found = splice_table(
        model, CORPUS, np.arange(N), saes, rows, batch_size=BATCH, ranks=(4, 32, 99)
    )
    return found.set_index("arm")


def test_arms_stand_in_the_table_with_the_clean_model_first(table):
    names = ["clean", "zero", "mean", "random token", "pca-4", "random-4", "ours", "identity"]
    assert list(table.index) == names  # a projection on all axes would be none
    assert (table["n_tokens"] == sum(max(n - 3, 0) for n in LENGTHS)).all()


@pytest.mark.parametrize("arm", ["clean", "zero", "mean", "pca-4", "ours", "identity"])
def test_every_number_is_that_of_a_pass_of_its_own(
    model, clean, table, rows, numbers, arm
):  # fmt: skip
    x, logits = clean
    value = jnp.asarray(stand_ins(x, rows, numbers)[arm], jnp.float32)
    out = forward(model, TOKENS, [], [Replace(SITE, value, first=FIRST)]).logits
    (ce, kl), (ce_clean, _) = losses(np.asarray(out, np.float64), logits), losses(logits, logits)
    n, row = USED.sum(), table.loc[arm]
    assert row["ce"] == pytest.approx(ce.sum() / n, abs=1e-5)
    assert row["delta_ce"] == pytest.approx((ce - ce_clean).sum() / n, abs=1e-5)
    assert row["kl"] == pytest.approx(kl.sum() / n, abs=1e-5)
    own = (ce - ce_clean) / np.maximum(USED.sum(1), 1)
    wanted = 1.96 * own.std(ddof=1) / N**0.5
    assert row["delta_ce_half_width"] == pytest.approx(wanted, abs=1e-5)
    error = ((np.asarray(value) - x)[USED] ** 2).sum()
    power = ((x[USED] - x[USED].mean(0)) ** 2).sum()
    assert row["fvu"] == pytest.approx(error / power, rel=1e-4, abs=1e-6)
    for column, arm_0 in (("ce_recovered", "zero"), ("ce_recovered_mean", "mean")):
        worst = table["ce"][arm_0] - ce_clean.sum() / n
        share = 1 - (ce - ce_clean).sum() / n / worst
        assert row[column] == pytest.approx(share, abs=2e-5 / abs(worst))


def test_no_sequence_is_left_out_of_a_last_batch_that_is_not_full(model, sae, rows, table):
    found = splice_table(model, CORPUS, np.arange(N), {"ours": sae}, rows, batch_size=5, ranks=(4,))
    found = found.set_index("arm")
    for arm in ("clean", "zero", "mean", "pca-4", "ours"):
        np.testing.assert_allclose(
            found.loc[arm].to_numpy(float), table.loc[arm].to_numpy(float), rtol=1e-4, atol=1e-5
        )


def test_stand_ins_leave_the_own_mean_that_centred_saes_leave(model, sae, rows):
    about = json.dumps({**sae.info, "centred": True})
    centred = sae.replace(about=about)
    x = forward(model, TOKENS, [SITE]).acts[SITE]
    own = np.asarray(x).mean(-1, keepdims=True)
    # Not the zeros: all coordinates alike, a LayerNorm divides one rounding by another.
    wanted = jnp.asarray(own + np.asarray(rows, np.float64).mean(0), jnp.float32)
    out = forward(model, TOKENS, [], [Replace(SITE, wanted, first=FIRST)]).logits
    found = splice_table(model, CORPUS, np.arange(N), {"it": centred}, rows, batch_size=BATCH)
    ce, _ = losses(np.asarray(out, np.float64), np.asarray(out, np.float64))
    found = found.set_index("arm")
    assert found["ce"]["mean"] == pytest.approx(ce.sum() / USED.sum(), abs=1e-6)
    x = np.asarray(x, np.float64)[USED]  # a LayerNorm does not see the own mean; the error does
    for arm, value in (("zero", np.broadcast_to(own, wanted.shape)), ("mean", wanted)):
        error = ((np.asarray(value, np.float64)[USED] - x) ** 2).sum()
        power = ((x - x.mean(0)) ** 2).sum()
        assert found["fvu"][arm] == pytest.approx(error / power, rel=1e-4)
    with pytest.raises(ToysaeError, match="some of these SAEs read centred"):
        splice_table(model, CORPUS, np.arange(N), {"a": sae, "b": centred}, rows)


def test_the_ends_of_the_scales(table):
    assert table["ce_recovered"]["zero"] == table["ce_recovered_mean"]["mean"] == 0
    assert table["ce_recovered"]["clean"] == 1 and table["kl"]["clean"] == 0
    assert (table["kl"] > -1e-6).all() and table["kl"]["ours"] > 1e-4
    for column in ("delta_ce", "kl", "fvu"):
        assert table[column]["identity"] == pytest.approx(0, abs=1e-5)
    assert np.isfinite(table).all(axis=None)


def test_baselines_are_drawn_from_the_rows_given(rows, clean):
    arms = baselines(SITE, rows, FIRST, (3, N_CTX), ranks=(1, 4, D, D + 1))
    assert [name for name in arms if "-" in name] == ["pca-1", "random-1", "pca-4", "random-4"]
    assert {(edit.site, edit.first) for edit in arms.values()} == {(SITE, FIRST)}
    tokens = np.asarray(arms["random token"].value)
    assert tokens.shape == (3, N_CTX, D)
    assert all((row == rows).all(1).any() for row in tokens.reshape(-1, D))
    assert len(np.unique(tokens.reshape(-1, D), axis=0)) > 15
    x = clean[0].astype(np.float32)
    kept = {}
    for name in ("pca-4", "random-4"):
        edit = arms[name]
        basis = np.asarray(edit.basis, np.float64)
        np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-6)
        out = np.asarray(edit(jnp.asarray(x)))
        np.testing.assert_allclose(edit(jnp.asarray(out)), out, atol=1e-5)  # projections
        kept[name] = ((rows - rows.mean(0)) @ basis.T).var(0).sum()
    values = np.linalg.eigvalsh(np.cov(rows.T, ddof=0))
    assert kept["pca-4"] == pytest.approx(values[-4:].sum(), rel=1e-4)
    assert kept["random-4"] < kept["pca-4"]


def test_what_cannot_be_compared_is_refused(model, sae, rows):
    elsewhere = sae.replace(about=json.dumps({**sae.info, "site": "blocks.0.hook_resid_pre"}))
    for saes, sequences, words in [
        ({}, np.arange(N), "name at least one SAE"),
        ({"a": sae, "b": elsewhere}, np.arange(N),
         r"of several sites \(blocks.0.hook_resid_pre, blocks.1.hook_resid_post\): one at a time"),
        ({"a": sae}, np.arange(0), "there are no sequences to predict"),
    ]:  # fmt: skip
        with pytest.raises(ToysaeError, match=words):
            splice_table(model, CORPUS, sequences, saes, rows)
