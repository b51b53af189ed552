"""Patching of coefficients, beside runs of the model on activations changed in NumPy."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.lm.effects import attribution
from toysae.lm.effects.attribution import direction_pieces, latent_pieces, measured, run_pairs
from toysae.lm.effects.pairs import FIRST_NAMES, PromptPairs, ioi_pairs
from toysae.lm.effects.patching import patching_curve
from toysae.lm.models import forward, load_tokenizer
from toysae.lm.models.edits import Replace

SITE = "blocks.1.hook_resid_post"
WORDS = ("the", "of", "is", "in", "to", "be")  # single tokens of the tiny tokenizer


@pytest.fixture(scope="module")
def setting(hand):
    model = hand.model_of("gpt2")
    rng = np.random.default_rng(3)
    clean = hand.tokens_of(model, 5, 8)
    corrupted = clean.copy()
    corrupted[np.arange(5), rng.integers(1, 4, 5)] += 1
    lengths = np.array([8, 6, 8, 5, 7])
    pairs = PromptPairs(clean, corrupted, lengths, np.arange(10, 15), np.arange(20, 25))
    return model, hand.drawn(model.config.d_model, SITE), pairs


@pytest.fixture(scope="module")
def axes(setting):
    d = setting[0].config.d_model
    return np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0].astype(np.float32)


@pytest.fixture(scope="module")
def runs(setting):
    return next(run_pairs(*setting))[0]


@pytest.fixture(scope="module")
def curve(setting, axes):
    return patching_curve(*setting, axes)


def shown(hand, model, pairs, tokens, acts=None):
    """(logit differences, log p) behind the last tokens, other activations at the site or not."""
    edits = [] if acts is None else [Replace(SITE, jnp.asarray(acts))]
    logits = forward(model, tokens, edits=edits).logits
    last = hand.log_p(logits)[np.arange(len(tokens)), pairs.lengths - 1]
    n = np.arange(len(tokens))
    return last[n, pairs.answer] - last[n, pairs.wrong], last


def sites(hand, setting):
    model, _, pairs = setting
    both = [hand.acts_of(model, tokens, SITE) for tokens in (pairs.clean, pairs.corrupted)]
    pos = np.arange(pairs.clean.shape[1])
    return *both, (pos >= 1) & (pos < pairs.lengths[:, None])


def test_every_row_of_the_latents_curve_is_a_run_with_them_replaced(hand, setting, runs, curve):
    """Which are replaced is told by the gradient at the site; what follows is done by hand."""
    model, sae, pairs = setting
    clean, corrupted, used = sites(hand, setting)
    delta = (hand.encoded(sae, clean) - hand.encoded(sae, corrupted)) * used[..., None]
    rows = hand.written(sae)
    attribution = delta * (np.asarray(runs.gradient, np.float64) @ rows.T)
    delta[np.abs(delta) < 1e-4] = 0
    attribution[delta == 0] = -np.inf
    order = np.argsort(-attribution.reshape(5, -1), 1)
    _, target = shown(hand, model, pairs, pairs.clean)
    whole = np.linalg.norm((clean - corrupted) * used[..., None], axis=(1, 2))
    table = curve[curve["arm"] == "latents"]
    for row in table.itertuples():
        k = order.shape[1] if row.k == "all" else int(row.k)
        chosen = np.zeros_like(delta).reshape(5, -1)
        np.put_along_axis(chosen, order[:, :k], 1, 1)
        vector = (chosen.reshape(delta.shape) * delta) @ rows
        diff, log_q = shown(hand, model, pairs, pairs.corrupted, corrupted + vector)
        kl = (np.exp(target) * (target - log_q)).sum(1)
        norm = np.linalg.norm(vector, axis=(1, 2)) / whole
        n = np.minimum((delta != 0).sum((1, 2)), k)
        expected = [diff.mean(), kl.mean(), norm.mean(), n.mean()]
        found = [row.logit_diff, row.kl, row.norm, row.n_patched]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert list(table["k"])[:4] == ["0", "1", "2", "4"] and list(table["k"])[-1] == "all"


def test_k_0_is_the_corrupted_run_and_clean_the_clean_one(hand, setting, curve):
    model, _, pairs = setting
    by_arm = curve.groupby("arm", sort=False).first()
    corrupted, _ = shown(hand, model, pairs, pairs.corrupted)
    clean, _ = shown(hand, model, pairs, pairs.clean)
    for arm in ("latents", "axes"):
        row = by_arm.loc[arm]
        assert row["logit_diff"] == pytest.approx(corrupted.mean(), abs=1e-5)
        assert (row["norm"], row["recovered"], row["n_patched"]) == (0, 0, 0)
    row = by_arm.loc["clean"]
    assert row["logit_diff"] == pytest.approx(clean.mean(), abs=1e-5)
    assert (row["kl"], row["recovered"]) == (0, 1)


def test_all_latents_and_the_error_are_the_whole_activation(setting, runs):
    _, sae, _ = setting
    pieces = latent_pieces(sae, runs)
    everything = pieces.vector(pieces.delta[0].size)

    def error(acts):
        own = sae.own_mean(acts)
        return acts - own - sae.decode(sae.latents(acts))

    missed = jnp.where(runs.patched[..., None], error(runs.clean) - error(runs.corrupted), 0)
    whole = jnp.where(runs.patched[..., None], runs.clean - runs.corrupted, 0)
    np.testing.assert_allclose(everything + missed, whole, atol=1e-4)


def test_the_whole_activation_of_the_residual_stream_is_the_clean_run(curve):
    whole, axes = (curve[curve["arm"] == arm].iloc[-1] for arm in ("activation", "axes"))
    for row in (whole, axes):  # a whole basis patches all as well
        assert row["kl"] == pytest.approx(0, abs=1e-5)
        assert row["recovered"] == pytest.approx(1, abs=1e-3)
        assert row["norm"] == pytest.approx(1, abs=1e-4)


def test_attributions_are_first_order_effects_of_small_changes(setting, runs, axes):
    model, sae, _ = setting
    base = np.asarray(measured(model, SITE, runs, jnp.zeros_like(runs.clean))["logit_diff"])
    for pieces in (latent_pieces(sae, runs), direction_pieces(jnp.asarray(axes), runs)):
        for rank in (0, 1, 2):
            one = jnp.where(pieces.rank == rank, pieces.delta, 0)
            step = 1e-2 / jnp.abs(one).max((1, 2), keepdims=True)
            vector = (step * one) @ pieces.rows
            up, down = (
                np.asarray(measured(model, SITE, runs, v)["logit_diff"]) for v in (vector, -vector)
            )
            slope = (up - down) / (2 * np.asarray(step)[:, 0, 0])
            expected = np.asarray(jnp.where(one != 0, pieces.attribution, 0).sum((1, 2)))
            np.testing.assert_allclose(slope, expected, rtol=2e-2, atol=1e-3)
            assert np.abs(up - base).max() > 1e-4


@pytest.mark.parametrize("signed", [True, False])
def test_ranks_count_down_from_the_largest_attribution(setting, runs, signed):
    pieces = latent_pieces(setting[1], runs, signed)
    values, ranks = np.asarray(pieces.attribution), np.asarray(pieces.rank)
    values = values if signed else np.abs(values)
    for value, rank, delta in zip(values, ranks, np.asarray(pieces.delta), strict=True):
        n = int((delta != 0).sum())
        in_order = value.ravel()[np.argsort(rank.ravel())]
        assert (np.diff(in_order[:n]) <= 0).all() and (in_order[n:] == 0).all()


def test_batches_make_no_difference(setting, axes, curve):
    small = patching_curve(*setting, axes, batch_size=2)
    assert list(small["k"]) == list(curve["k"]) and list(small["arm"]) == list(curve["arm"])
    numbers = curve.columns[2:]
    np.testing.assert_allclose(small[numbers], curve[numbers], rtol=1e-3, atol=1e-5)


def test_indirect_objects_differ_in_the_giver_alone(hand):
    tokenizer = load_tokenizer(hand.GOLDEN / "gpt2")
    pairs = ioi_pairs(tokenizer, 20, 1, names=(*WORDS, "Bartholomew"), bos=True)
    assert (pairs.clean[:, 0] == tokenizer.end).all()
    assert ((pairs.clean != pairs.corrupted).sum(1) == 1).all()
    said = set()
    for i, length in enumerate(pairs.lengths):
        rows = [part[i, 1:length].tolist() for part in (pairs.clean, pairs.corrupted)]
        at = next(j for j, ids in enumerate(zip(*rows, strict=True)) if len(set(ids)) == 2)
        giver, other = (tokenizer.decode([row[at]]).strip() for row in rows)
        assert tokenizer.decode([int(pairs.wrong[i])]).strip() == giver
        assert tokenizer.decode([int(pairs.answer[i])]).strip() == other
        text = tokenizer.decode(rows[0])
        first, second = text.split(" and ")[0].split(" ")[-1], text.split(" and ")[1].split(" ")[0]
        assert {first, second} == {giver, other} <= set(WORDS)
        assert text.endswith(" to")
        said.add(text)
    assert len(said) > 15
    again = ioi_pairs(tokenizer, 20, 1, names=(*WORDS, "Bartholomew"), bos=True)
    np.testing.assert_array_equal(again.clean, pairs.clean)


def test_too_few_names_that_are_single_tokens_are_refused(hand):
    tokenizer = load_tokenizer(hand.GOLDEN / "gpt2")
    with pytest.raises(ToysaeError, match=f"0 of the {len(FIRST_NAMES)} names are single tokens"):
        ioi_pairs(tokenizer, 4)
    with pytest.raises(ToysaeError, match="1 of the 2 names"):
        ioi_pairs(tokenizer, 4, names=("the", "Bartholomew"))
    with pytest.raises(ToysaeError, match="one word"):
        ioi_pairs(tokenizer, 4, names=("the", ""))
    with pytest.raises(ToysaeError, match="n 0"):
        ioi_pairs(tokenizer, 0, names=WORDS)
    with pytest.raises(ToysaeError, match="no token of the tokenizer begins"):
        ioi_pairs(replace(tokenizer, begin=None), 4, names=WORDS, bos=True)


def test_bad_input_is_refused_before_anything_runs(hand, setting, axes, monkeypatch):
    model, sae, pairs = setting
    monkeypatch.setattr(attribution, "_runs", None)
    with pytest.raises(ToysaeError, match="same lengths"):
        replace(pairs, corrupted=pairs.corrupted[:, 1:])
    with pytest.raises(ToysaeError, match="as many"):
        replace(pairs, answer=pairs.answer[1:])
    with pytest.raises(ToysaeError, match="lengths must be"):
        replace(pairs, lengths=pairs.lengths + 5)
    d = model.config.d_model
    for message, args, how in [
        ("dimensions", (hand.drawn(d + 1, SITE), pairs), {}),
        ("token ids", (sae, replace(pairs, clean=pairs.clean + 999)), {}),
        ("token ids", (sae, replace(pairs, answer=pairs.answer + 999)), {}),
        ("batch_size", (sae, pairs), {"batch_size": 0}),
        ("axes have 31", (sae, pairs, axes[:, :31]), {}),
    ]:
        with pytest.raises(ToysaeError, match=message):
            patching_curve(model, *args, **how)
