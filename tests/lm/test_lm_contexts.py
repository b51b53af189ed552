"""Contexts and facts of latents beside what a dense computation finds."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.lm.capture.text import Corpus, TextLayout
from toysae.lm.cards.contexts import latent_contexts
from toysae.lm.effects.latents import RESIDUAL, latent_facts, logit_effects
from toysae.lm.models import load_model
from toysae.lm.saes.firing import LatentFiring, latent_firing, sample_latents

GOLDEN = Path(__file__).parent / "golden"
D, N_SEQ, N_CTX, FIRST = 6, 40, 20, 2
SITE = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def made(hand):
    """(SAE, source, corpus); latent 7 never fires."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(FIRST + 1, N_CTX + 1, N_SEQ)
    source = hand.Acts([rng.normal(size=(n - FIRST, D)) for n in lengths])
    directions = rng.normal(size=(8, D))
    directions[7] = 0
    tokens = rng.integers(0, 300, (N_SEQ, N_CTX)).astype(np.int32)
    docs = np.zeros_like(tokens)
    corpus = Corpus(tokens, docs, lengths, TextLayout(N_CTX, first=FIRST), {})
    return hand.made(directions, SITE), source, corpus


ALL = np.arange(N_SEQ)


def dense(sae, source):
    """`[positions, d_sae]` by sequence, all at once."""
    z = np.asarray(sae.encode(jnp.asarray(source.read(ALL))))
    return np.split(z, np.cumsum(source.counts)[:-1])


def test_counts_and_largest_activations_are_those_of_a_dense_pass(made):
    sae, source, _ = made
    some = ALL[::3]
    z = np.asarray(sae.encode(jnp.asarray(source.read(some))))
    for size in (None, 1, 4, 100):
        seen = latent_firing(sae, source, some, size)
        np.testing.assert_array_equal(seen.counts, (z > 0).sum(0))
        np.testing.assert_allclose(seen.largest, z.max(0), rtol=1e-6)
        assert seen.n_tokens == len(z)


def test_examples_are_those_of_a_dense_pass(made):
    sae, source, corpus = made
    found = latent_contexts(sae, source, corpus, range(7), ALL, before=5, after=3, bins=20)
    by_sequence = dense(sae, source)
    for one in found:
        z = [rows[:, one.latent] for rows in by_sequence]
        whole = np.concatenate(z)
        assert (one.count, one.share) == ((whole > 0).sum(), (whole > 0).mean())
        np.testing.assert_allclose(one.largest, whole.max(), rtol=1e-6)
        edges = np.linspace(0, one.largest, 21)
        np.testing.assert_array_equal(one.histogram, np.histogram(whole[whole > 0], edges)[0])
        np.testing.assert_array_equal(one.band_counts, one.histogram.reshape(5, 4).sum(1))
        strongest = sorted(ALL, key=lambda i: -z[i].max())[:5]
        assert [e.seq for e in one.examples[:5]] == strongest
        assert [e.pos for e in one.examples[:5]] == [z[i].argmax() + FIRST for i in strongest]
        for e in one.examples:
            np.testing.assert_allclose(e.z, z[e.seq], atol=1e-6)
            assert e.activation == e.z[e.pos - FIRST]
            np.testing.assert_array_equal(
                e.tokens, corpus.tokens[e.seq, : corpus.lengths[e.seq]][e.start : e.pos + 4]
            )
            assert e.start == max(0, e.pos - 5)
            padded = np.concatenate([np.zeros(FIRST), z[e.seq]])[e.start :][: len(e.tokens)]
            np.testing.assert_allclose(e.window_z, padded, atol=1e-6)


def test_every_part_of_the_range_is_shown_and_no_sequence_twice(made):
    sae, source, corpus = made
    for one in latent_contexts(sae, source, corpus, range(7), ALL):
        seqs = [e.seq for e in one.examples]
        assert len(set(seqs)) == len(seqs)
        left = {band: 0 for band in range(6)}
        for e in one.examples:
            left[e.band] += 1
            if e.band:
                assert (e.band - 1) / 5 < e.activation / one.largest <= e.band / 5
        assert left[0] == 5
        assert [left[band] for band in (1, 2, 3)] == [2, 2, 2]  # there are many of these
        order = [(e.band or 6, 0) for e in one.examples]
        assert order == sorted(order, reverse=True)


def test_examples_depend_neither_on_the_batch_size_nor_on_other_latents(made):
    sae, source, corpus = made

    def places(latents, **how):
        found = latent_contexts(sae, source, corpus, latents, ALL, **how)
        return {c.latent: [(e.seq, e.pos, e.band) for e in c.examples] for c in found}

    whole = places(range(8))
    assert places(range(8), batch_size=1) == places(range(8), batch_size=7) == whole
    assert places([4]) == {4: whole[4]}
    assert places([4], seed=1)[4][:5] == whole[4][:5]
    assert places([4], seed=1) != {4: whole[4]}


def test_examples_of_an_interval_are_drawn_evenly(hand):
    """Of 30 sequences with one weak token each, every one is drawn about as often."""
    source = hand.Acts([np.eye(1, D) * (1.0 if i == 30 else 0.5) for i in range(31)])
    corpus = Corpus(
        np.zeros((31, 2), np.int32), np.zeros((31, 2), np.int32), np.full(31, 2), TextLayout(2), {}
    )
    same = np.repeat(np.eye(1, D), 100, 0)  # but drawn apart
    sae = hand.made(same, SITE, mean=0, scale=1)
    drawn = [
        e.seq
        for seed in range(30)
        for one in latent_contexts(
            sae, source, corpus, range(100), np.arange(31), top=1, n_bands=2, per_band=1, seed=seed
        )
        for e in one.examples
        if e.band == 1
    ]
    assert len(drawn) == 3000
    times = np.bincount(drawn, minlength=30)
    assert ((times - 100) ** 2 / 100).sum() < 60  # chi-squared with 29 degrees: p < 0.001


def test_a_latent_that_never_fires_has_no_examples(made):
    sae, source, corpus = made
    (one,) = latent_contexts(sae, source, corpus, [7], ALL)
    assert (one.count, one.share, one.largest, one.examples) == (0, 0, 0, ())
    assert one.histogram.sum() == one.band_counts.sum() == 0


def test_an_sae_of_centred_activations_sees_them_centred(made, hand):
    _, source, _ = made
    rows = np.eye(2, D)
    x = source.read(ALL)
    seen = latent_firing(hand.made(rows, SITE, mean=0, scale=1, centred=True), source, ALL)
    centred = x - x.mean(1, keepdims=True)
    np.testing.assert_array_equal(seen.counts, (centred[:, :2] > 0).sum(0))


def test_latents_are_drawn_evenly_over_log_frequency():
    freq = 10.0 ** -(np.random.default_rng(0).uniform(0, 4, 2000) ** 0.5)
    freq[:100] = 0
    chosen = sample_latents(freq, 21)
    assert len(set(chosen)) == 21
    logs = np.log(freq[chosen])
    alive = np.log(freq[freq > 0])
    np.testing.assert_allclose(logs, np.linspace(alive.max(), alive.min(), 21), atol=0.05)
    np.testing.assert_array_equal(chosen, sample_latents(freq, 21))
    few = np.array([0, 0.1, 0.5, 0])
    np.testing.assert_array_equal(sample_latents(few, 24), [2, 1])
    ties = sample_latents(np.full(50, 0.1), 5, seed=0)
    assert set(ties) != set(sample_latents(np.full(50, 0.1), 5, seed=1))


def test_bad_numbers_are_refused(made):
    sae, source, corpus = made
    none = LatentFiring(np.zeros(8), np.zeros(8), 1)
    for call, words in [
        (lambda: latent_contexts(sae, source, corpus, [8], ALL, none), "latent 8 is outside 0..7"),
        (lambda: latent_contexts(sae, source, corpus, [-1], ALL, none), "latent -1"),
        (lambda: latent_contexts(sae, source, corpus, [], ALL, none), "at least one latent"),
        (lambda: latent_contexts(sae, source, corpus, [0], ALL, none, bins=0), "bins 0"),
        (lambda: latent_firing(sae, source, ALL, 0), "batch_size 0"),
        (lambda: latent_firing(sae, source, ALL[:0]), "no activations"),
        (lambda: sample_latents(np.ones(3), 0), "n_latents 0"),
    ]:
        with pytest.raises(ToysaeError, match=words):
            call()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_logit_effects_are_those_of_the_final_norm_and_the_unembedding(name):
    """Twice the same residual stream, once with a little more of a direction in it: what changes of
    the logits, when the norm divides both by the length of the first."""
    model = load_model(GOLDEN / name)
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(2, model.config.d_model))
    w = {k: np.asarray(v, np.float64) for k, v in model.weights["ln_final"].items()}

    def logits(x, own):
        taken = own.mean() if model.config.norm == "layer" else 0.0
        length = np.sqrt(((own - taken) ** 2).mean() + model.config.norm_eps)
        centred = x - x.mean() if model.config.norm == "layer" else x
        return (centred / length * w["w"] + w.get("b", 0)) @ np.asarray(model.W_U, np.float64)

    now = logits(x, x)
    from_forward = np.asarray(
        jax.jit(lambda x: _final(model, x))(jnp.asarray(x, jnp.float32)), np.float64
    )
    np.testing.assert_allclose(now, from_forward, atol=1e-4)
    taken = x.mean() if model.config.norm == "layer" else 0.0
    length = np.sqrt(((x - taken) ** 2).mean() + model.config.norm_eps)
    more = (logits(x + d, x) - now) * length
    found = logit_effects(model, "blocks.0.hook_mlp_out", jnp.asarray(d[None], jnp.float32))[0]
    np.testing.assert_allclose(found, more - more.mean(), atol=1e-4)


def _final(model, x):
    from toysae.lm.models.forward import norm

    return norm(model.config, model.weights["ln_final"], x) @ model.W_U


def test_facts_of_a_latent(hand):
    model = load_model(GOLDEN / "gpt2")
    d = model.config.d_model
    rows = np.random.default_rng(0).normal(size=(5, d))
    rows[0] = -3 * np.eye(d)[4]  # a neuron, written negatively
    rows[2] = rows[1] + 0.1 * rows[3]
    read = rows.copy()
    read[3] = -rows[3]
    sae = hand.made(rows, SITE, read=read, mean=0)
    alive = np.array([True, True, True, True, False])
    facts = latent_facts(sae, model, [0, 1, 3], alive, n_tokens=4, n_vocab=300)
    assert [f.latent for f in facts] == [0, 1, 3]
    assert (facts[0].axis, facts[0].axis_cos) == (4, pytest.approx(1))
    assert facts[1].nearest == 2
    cos = rows[1] @ rows[2] / np.linalg.norm(rows[1]) / np.linalg.norm(rows[2])
    assert facts[1].nearest_cos == pytest.approx(cos, abs=1e-5)
    assert all(f.nearest not in (f.latent, 4) for f in facts)
    assert [f.enc_dec_cos for f in facts] == pytest.approx([1, 1, -1], abs=1e-5)
    effects = np.asarray(logit_effects(model, sae.site, jnp.asarray(rows[1:2] * 2, jnp.float32)))[0]
    order = np.argsort(effects[:300])
    assert [token for token, _ in facts[1].suppressed] == list(order[:4])
    assert [token for token, _ in facts[1].promoted] == list(order[::-1][:4])
    assert facts[1].promoted[0][1] == pytest.approx(effects[order[-1]], abs=1e-4)
    (alone,) = latent_facts(sae, model, [1], np.eye(5, dtype=bool)[1])
    assert alone.nearest is None


def test_only_sites_of_the_residual_stream_have_effects_on_logits(hand):
    model = load_model(GOLDEN / "gpt2")
    rows = np.random.default_rng(0).normal(size=(3, model.config.d_model))
    alive = np.ones(3, bool)
    for name in (*RESIDUAL, "attn.hook_z"):
        sae = hand.made(rows, f"blocks.1.{name}")
        (fact,) = latent_facts(sae, model, [0], alive)
        assert bool(fact.promoted) == bool(fact.suppressed) == (name in RESIDUAL)
