"""Changes of one latent, beside runs of the model on activations changed in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.lm.effects import steering
from toysae.lm.effects.changes import Change
from toysae.lm.effects.latents import logit_effects
from toysae.lm.effects.steering import moved_tokens, next_token_changes
from toysae.lm.models import forward
from toysae.lm.models.edits import Replace

SITE = "blocks.1.hook_resid_post"
LAST = "blocks.2.hook_resid_post"
LENGTHS = np.array([9, 4, 9, 7, 2])


@pytest.fixture(scope="module")
def setting(hand):
    model = hand.model_of("gpt2")
    sae = hand.drawn(model.config.d_model, SITE, centred=True)
    return model, sae, hand.tokens_of(model)


def by_hand(hand, setting, latent, times=1.0, pin=None):
    """(log p before, log p after, z) from activations changed outside."""
    model, sae, tokens = setting
    acts = hand.acts_of(model, tokens, SITE)
    z = hand.encoded(sae, acts)[..., latent]
    to = np.full_like(z, pin) if pin is not None else times * z
    changed = acts + (to - z)[..., None] * hand.written(sae)[latent]
    changed[:, :1] = acts[:, :1]  # before the SAE's first position
    runs = [forward(model, tokens, edits=[Replace(SITE, jnp.asarray(a))]) for a in (acts, changed)]
    return *(hand.log_p(run.logits) for run in runs), z


@pytest.mark.parametrize(
    "change", [Change(), Change(-4.0), Change(pin=5.0)], ids=["ablated", "times", "pinned"]
)
def test_changes_of_the_next_token_are_those_of_activations_changed_outside(hand, setting, change):
    model, sae, tokens = setting
    found = next_token_changes(model, sae, 3, tokens, change, lengths=LENGTHS, batch_size=2)
    before, after, z = by_hand(hand, setting, 3, change.times, change.pin)
    pos = np.arange(tokens.shape[1])
    scored = (pos >= 1) & (pos < LENGTHS[:, None] - 1)
    np.testing.assert_array_equal(found.scored, scored)
    delta = np.take_along_axis(after - before, np.roll(tokens, -1, 1)[..., None], -1)[..., 0]
    kl = (np.exp(before) * (before - after)).sum(-1)
    np.testing.assert_allclose(found.z[scored], z[scored], atol=1e-4)
    np.testing.assert_allclose(found.delta_log_p[scored], delta[scored], atol=5e-5)
    np.testing.assert_allclose(found.kl[scored], kl[scored], atol=5e-5)
    assert np.abs(delta[scored]).max() > 1e-2


@pytest.mark.parametrize("change", [Change(), Change(pin=5.0)], ids=["ablated", "pinned"])
def test_moved_tokens_are_those_of_a_dense_computation(hand, setting, change):
    model, sae, tokens = setting
    how = {"lengths": LENGTHS, "batch_size": 2}
    found = moved_tokens(model, sae, 3, tokens, change, 4, n_vocab=300, **how)
    before, after, z = by_hand(hand, setting, 3, change.times, change.pin)
    pos = np.arange(tokens.shape[1])
    scored = (pos >= 1) & (pos < LENGTHS[:, None] - 1)
    where = scored if change.everywhere else scored & (z > 0)
    mean = (after - before)[where].mean(0)[:300]
    order = np.argsort(mean)
    assert [i for i, _ in found.down] == list(order[:4])
    assert [i for i, _ in found.up] == list(order[:-5:-1])
    np.testing.assert_allclose([v for _, v in found.up], mean[order[:-5:-1]], atol=5e-5)
    delta = np.take_along_axis(after - before, np.roll(tokens, -1, 1)[..., None], -1)[..., 0]
    kl = (np.exp(before) * (before - after)).sum(-1)
    assert found.kl == pytest.approx(kl[where].mean(), abs=5e-5)
    assert found.delta_ce == pytest.approx(-delta[where].mean(), abs=5e-5)
    counts = (found.n_positions, found.n_firing, found.n_scored)
    assert counts == (where.sum(), (scored & (z > 0)).sum(), scored.sum())
    assert found.largest == pytest.approx(z[scored].max(), rel=1e-4)


def test_nothing_changed_is_exactly_nothing(setting):
    model, sae, tokens = setting
    found = next_token_changes(model, sae, 3, tokens, Change(1.0), batch_size=2)
    assert (found.delta_log_p[found.scored] == 0).all() and (found.kl[found.scored] == 0).all()


def test_a_latent_that_never_fires_moves_nothing(hand, setting):
    model, _, tokens = setting
    sae = hand.drawn(model.config.d_model, SITE, bias=-1e6)
    found = moved_tokens(model, sae, 0, tokens, batch_size=2)
    assert found.n_positions == 0 and found.up == () == found.down
    assert np.isnan(found.kl) and np.isnan(found.delta_ce)
    changes = next_token_changes(model, sae, 0, tokens, batch_size=2)
    assert (changes.delta_log_p[changes.scored] == 0).all()


def test_a_latent_that_writes_one_tokens_logit_moves_that_token(hand):
    """Its row is the token's column of what the final norm and the unembedding make."""
    model = hand.model_of("llama")
    token, d = 77, model.config.d_model
    effects = np.asarray(logit_effects(model, LAST, jnp.eye(d)))
    row = np.linalg.pinv(effects.T)[:, token]
    sae = hand.made(row[None], LAST, read=np.zeros((1, d)), bias=1.0)
    tokens = hand.tokens_of(model)
    assert moved_tokens(model, sae, 0, tokens, Change(pin=4.0)).up[0][0] == token
    assert moved_tokens(model, sae, 0, tokens, Change()).down[0][0] == token


def test_other_latents_and_numbers_compile_nothing_new(setting):
    model, sae, tokens = setting
    moved_tokens(model, sae, 0, tokens, Change(), batch_size=2)
    programs = [f._cache_size() for f in (steering._predictions, steering._compared)]
    for latent, change in enumerate([Change(-4.0), Change(pin=2.0), Change(0.5)]):
        moved_tokens(model, sae, latent, tokens, change, batch_size=2)
    assert [f._cache_size() for f in (steering._predictions, steering._compared)] == programs


def test_bad_input_is_refused_before_anything_runs(hand, setting, monkeypatch):
    model, sae, tokens = setting
    monkeypatch.setattr(steering, "_predictions", None)
    d = model.config.d_model
    cases = [
        ("latent 12", lambda: moved_tokens(model, sae, 12, tokens)),
        ("latent -1", lambda: next_token_changes(model, sae, -1, tokens)),
        ("token ids", lambda: moved_tokens(model, sae, 0, tokens + 1000)),
        ("longer than", lambda: moved_tokens(model, sae, 0, np.tile(tokens, 9))),
        ("lengths", lambda: moved_tokens(model, sae, 0, tokens, lengths=LENGTHS + 1)),
        ("no sequences", lambda: moved_tokens(model, sae, 0, tokens[:0])),
        ("batch_size", lambda: moved_tokens(model, sae, 0, tokens, batch_size=0)),
        ("dimensions", lambda: moved_tokens(model, hand.drawn(d + 1, SITE), 0, tokens)),
        ("layers 0 to 2", lambda: moved_tokens(
            model, hand.drawn(d, "blocks.9.hook_resid_post"), 0, tokens)),
        ("not finite", lambda: Change(float("nan"))),
        ("not finite", lambda: Change(pin=float("inf"))),
    ]  # fmt: skip
    for message, call in cases:
        with pytest.raises(ToysaeError, match=message):
            call()
