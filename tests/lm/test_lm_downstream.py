"""Effects of latents on those of a later layer, compared with runs changed in NumPy."""

import json
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.lm.effects.changes import Change
from toysae.lm.effects.downstream import downstream
from toysae.lm.models.edits import Replace
from toysae.lm.models.forward import block
from toysae.lm.models.sites import SITES, Site, is_behind

module = import_module("toysae.lm.effects.downstream")

A, B = "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"
LENGTHS = np.array([9, 4, 9, 7, 2])


@pytest.fixture(scope="module")
def setting(hand):
    model = hand.model_of("gpt2")
    d = model.config.d_model
    return model, hand.drawn(d, A, seed=1), hand.drawn(d, B, n=7, seed=2), hand.tokens_of(model)


@pytest.mark.parametrize("change", [Change(), Change(pin=5.0)], ids=["ablated", "pinned"])
def test_changes_are_those_of_activations_changed_outside(hand, setting, change):
    model, earlier, later, tokens = setting
    chosen = [5, 0, 3]
    found = downstream(model, earlier, later, chosen, tokens, change, lengths=LENGTHS, batch_size=2)
    acts = hand.acts_of(model, tokens, A)
    z = hand.encoded(earlier, acts)
    before = hand.encoded(later, hand.acts_of(model, tokens, B))
    pos = np.arange(tokens.shape[1])
    used = (pos >= 1) & (pos < LENGTHS[:, None])
    for i, latent in enumerate(chosen):
        own = z[..., latent]
        to = np.zeros_like(own) if change.pin is None else np.full_like(own, change.pin)
        changed = acts + (to - own)[..., None] * hand.written(earlier)[latent]
        changed[:, :1] = acts[:, :1]
        edit = Replace(A, jnp.asarray(changed))
        after = hand.encoded(later, hand.acts_of(model, tokens, B, [edit]))
        fires = used & (own > 0)
        where = used if change.everywhere else used & (np.cumsum(fires, 1) > 0)
        delta = (after - before)[where]
        assert (found.n_firing[i], found.n_positions[i]) == (fires.sum(), where.sum())
        np.testing.assert_allclose(found.change[i], delta.mean(0), atol=2e-5)
        np.testing.assert_allclose(found.moved[i], np.abs(delta).mean(0), atol=2e-5)
        np.testing.assert_allclose(found.before[i], before[where].mean(0), rtol=1e-4, atol=1e-5)
    assert np.abs(found.change).max() > 1e-2
    assert len(found.inert) == 0


def test_edges_are_the_strongest_changes_in_order(setting):
    model, earlier, later, tokens = setting
    found = downstream(model, earlier, later, [5, 0, 3], tokens)
    edges = found.edges(6)
    sizes = np.sort(np.abs(found.change).ravel())[::-1][:6]
    np.testing.assert_array_equal(np.abs(edges["change"]), sizes)
    for row in edges.itertuples():
        i = list(found.latents).index(row.latent)
        assert found.change[i, row.later_latent] == row.change


def test_latents_that_nothing_behind_reads_or_that_never_fire_are_inert(hand, setting):
    """The site of latent 0's row is orthogonal to what the later SAE reads at the next site."""
    model, _, _, tokens = setting
    d = model.config.d_model
    rows = np.eye(d)[:3]
    earlier = hand.made(rows, A, read=np.array([0 * rows[0], rows[1], 0 * rows[2]]), bias=0.5)
    bias = jnp.asarray([0.5, 50.0, -1.0])
    earlier.sae.weights.enc["b_enc"] = bias
    later = hand.made(rows[1:2], "blocks.1.hook_resid_pre", bias=9.0)
    found = downstream(model, earlier, later, [0, 1, 2], tokens)
    assert list(found.inert) == [0, 2]
    assert list(found.n_firing > 0) == [True, True, False]
    assert found.edges()["latent"].tolist() == [1]


def test_nothing_changed_is_exactly_nothing(setting):
    model, earlier, later, tokens = setting
    found = downstream(model, earlier, later, [0, 1], tokens, Change(1.0))
    assert (found.moved == 0).all() and list(found.inert) == [0, 1]
    assert len(found.edges()) == 0


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox"])
def test_the_order_of_sites_is_that_of_what_an_edit_reaches(hand, name):
    """For every pair of sites of a sequential and of a parallel layer."""
    model = hand.model_of(name)
    c = model.config
    kinds = [k for k in SITES if not (c.parallel and k == "hook_resid_mid")]
    angles = None if c.rotary is None else c.rotary.angles(4)

    @jax.jit
    def acts_with(edited):
        seen = {}

        def tap(kind, acts):
            seen[kind] = acts + (edited == kinds.index(kind)) * jnp.arange(acts.shape[-1])
            return seen[kind]

        block(c, model.block(0), jnp.ones((1, 4, c.d_model)), angles, tap)
        return seen

    clean = acts_with(-1)
    for i, kind in enumerate(kinds):
        seen = acts_with(i)
        for later in kinds:
            if later != kind:
                reached = float(jnp.abs(seen[later] - clean[later]).max()) > 1e-3
                assert is_behind(Site(0, later), Site(0, kind), c) == reached, (later, kind)
        assert is_behind(Site(1, kind), Site(0, "hook_resid_post"), c)
        assert not is_behind(Site(0, kind), Site(1, "hook_resid_pre"), c)


def test_bad_input_is_refused_before_anything_runs(hand, setting, monkeypatch):
    model, earlier, later, tokens = setting
    monkeypatch.setattr(module, "traced_forward", None)
    d = model.config.d_model
    same = hand.drawn(d, A)
    before = hand.drawn(d, "blocks.0.hook_attn_out")
    foreign = later.replace(about=json.dumps({**later.info, "weights": "b"}))
    ours = earlier.replace(about=json.dumps({**earlier.info, "weights": "a"}))
    for message, args in [
        ("not behind", (earlier, same, [0])),
        ("not behind", (earlier, before, [0])),
        ("not behind", (later, earlier, [0])),
        ("two models", (ours, foreign, [0])),
        ("latent 12", (earlier, later, [0, 12])),
        ("at least one", (earlier, later, [])),
        ("dimensions", (earlier, hand.drawn(d + 1, B), [0])),
    ]:
        with pytest.raises(ToysaeError, match=message):
            downstream(model, *args, tokens)
