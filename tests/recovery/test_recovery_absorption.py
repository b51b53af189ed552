"""Absorption on the analytic family, where the answer is delta, and against pairwise NumPy."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from toysae import make_world
from toysae.errors import ToysaeError
from toysae.recovery.absorption import (
    absorption,
    absorption_scores,
    add_pairs,
    add_repairs,
    empty_pairs,
    empty_repairs,
    repair,
)
from toysae.recovery.absorption_signs import (
    absorption_signs,
    activation_sign,
    add_unseen,
    empty_unseen,
    weight_sign,
    within_span,
)
from toysae.recovery.baselines import Dictionary
from toysae.recovery.hierarchy import parents_of
from toysae.sae import SAE, make_spec
from toysae.sae.component import Weights
from toysae.sae.decoders import Free
from toysae.sae.penalties import Sum
from toysae.worlds import Batch
from toysae.worlds.assemble import assemble
from toysae.worlds.world import sample

KEY = jax.random.key(0)


def family(directions, delta, unit):
    """W_enc,p = f_p - delta f_c, W_dec,c = f_c + delta f_p: reconstructs exactly, any delta."""
    f = np.asarray(directions, np.float64)
    scale = np.hypot(1, delta) if unit else 1.0
    W_dec = np.stack([f[0], (f[1] + delta * f[0]) / scale])
    W_enc = np.stack([f[0] - delta * f[1], f[1] * scale])
    spec = make_spec("untied", f.shape[1], 2, decoder=Free("none"), penalty=Sum())
    enc = {"W_enc": jnp.asarray(W_enc.T, jnp.float32), "b_enc": jnp.zeros(2)}
    weights = Weights(jnp.asarray(W_dec, jnp.float32), None, enc)
    return SAE(weights, {"progress": jnp.float32(1)}, {}, spec.at_inference())


def measured(sae, world, n=20_000):
    batch = sample(world, KEY, n)
    z = sae.encode(batch.x)
    z = jnp.where(jnp.abs(z) < 1e-5, 0, z)  # the family's exact zeros, in float32
    return batch, z, add_pairs(empty_pairs(np.array([-1, 0]), np.arange(2)), batch, z)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("delta", [0.0, 0.5, 0.78, 1.0])
def test_the_analytic_family_is_absorbed_by_delta(delta, unit):
    world = make_world("absorption", 0, d_in=6, n_free=0)
    sae = family(world.directions, delta, unit)
    batch, _, seen = measured(sae, world)
    np.testing.assert_allclose(sae.decode(sae.encode(batch.x)), batch.x, atol=1e-5)
    row = absorption(seen).iloc[0]
    np.testing.assert_allclose(row["share"], delta, atol=1e-5)
    assert row["rate"] == (delta == 1)  # at magnitude 1 it falls silent at once or never
    sign = float(weight_sign(sae.weights.enc["W_enc"], sae.W_dec)[0, 1])
    np.testing.assert_allclose(sign, delta / np.hypot(1, delta), atol=1e-5)


def test_repair_gives_a_fully_absorbed_parent_its_recall_back():
    world = make_world("absorption", 0, d_in=6, n_free=0)
    batch, z, seen = measured(family(world.directions, 1.0, True), world)
    pairs = absorption(seen)
    repaired = repair(add_repairs(empty_repairs(pairs), batch, z))
    acts = np.asarray(batch.feature_acts) != 0
    lost = acts.all(1).sum() / acts[:, 0].sum()
    np.testing.assert_allclose(repaired["recall"], 1 - lost, atol=1e-6)
    assert (repaired[["repaired_recall", "precision", "repaired_precision"]] == 1).all(axis=None)
    scores = absorption_scores(pairs, repaired)
    assert scores["absorbed_pairs"] == scores["mostly_absorbed_pairs"] == 1
    np.testing.assert_allclose(scores["parent_recall"], 1 - lost, atol=1e-6)


def test_nothing_to_repair_and_no_pairs():
    world = make_world("absorption", 0, d_in=6, n_free=0)
    _, _, seen = measured(family(world.directions, 0.5, True), world)
    assert empty_repairs(absorption(seen)) is None
    with pytest.raises(ToysaeError, match=r"threshold 0"):
        empty_repairs(absorption(seen), 0.0)
    none = absorption(empty_pairs(np.array([-1, -1]), np.arange(2)))
    scores = absorption_scores(none, None)
    assert scores.pop("hierarchy_pairs") == 0 and all(np.isnan(v) for v in scores.values())
    merged = empty_pairs(np.array([-1, 0]), np.array([1, 1]))  # one latent for both
    assert merged.parent.shape == (0,)


@pytest.mark.parametrize("cuts", [(), (1, 700)])
def test_pairs_and_repairs_equal_numpy_batch_by_batch(cuts):
    rng = np.random.default_rng(0)
    acts = np.float32(rng.uniform(0.5, 2, (2000, 6)) * (rng.random((2000, 6)) < 0.4))
    acts[:, 5] = 0  # a child that never fires
    z = np.float32(rng.uniform(0.5, 2, (2000, 7)) * (rng.random((2000, 7)) < 0.5))
    z[:, 3] = z[:, 3] * (acts[:, 0] == 0)  # silent with feature 0 on: absorbed by all
    parents, latents = np.array([-1, 0, 0, -1, 3, 0]), np.array([3, 1, 2, 0, 4, 6])
    seen = empty_pairs(parents, latents)
    for i, j in pairwise([0, *cuts, 2000]):
        index = np.broadcast_to(np.arange(6, dtype=np.int32), (j - i, 6))
        batch = Batch(jnp.zeros((j - i, 2)), jnp.asarray(index), jnp.asarray(acts[i:j]), 6,
                      in_order=True)  # fmt: skip
        seen = add_pairs(seen, batch, jnp.asarray(z[i:j]))
    table = absorption(seen).set_index("child")
    a, y = np.float64(acts), np.float64(z)
    for child, p in [(1, 0), (2, 0), (4, 3)]:
        jp, jc = latents[p], latents[child]
        both, alone = (a[:, p] > 0) & (a[:, child] > 0), (a[:, p] > 0) & (a[:, child] == 0)
        missed = (y[alone, jp] == 0).mean()
        rate = ((y[both, jp] == 0) & (y[both, jc] != 0)).mean() - missed
        np.testing.assert_allclose(table.loc[child, "rate"], rate, atol=1e-6)
        if missed <= 0.5:
            response = [y[k, jp].mean() / a[k, p].mean() for k in (alone, both)]
            share = 1 - response[1] / response[0]
            np.testing.assert_allclose(table.loc[child, "share"], share, atol=1e-5)
        else:
            assert np.isnan(table.loc[child, "share"])
    assert np.isnan(table.loc[5, ["rate", "share"]].astype(float)).all()
    wanted = table.reset_index().assign(rate=[0.5, 0.5, 0.05, np.nan])
    index = np.broadcast_to(np.arange(6, dtype=np.int32), acts.shape)
    batch = Batch(jnp.zeros((2000, 2)), jnp.asarray(index), jnp.asarray(acts), 6, in_order=True)
    row = repair(add_repairs(empty_repairs(wanted), batch, jnp.asarray(z))).iloc[0]
    on, group = a[:, 0] > 0, (y[:, [3, 1, 2]] != 0).any(1)
    np.testing.assert_allclose(row["repaired_recall"], (on & group).sum() / on.sum())
    np.testing.assert_allclose(row["repaired_precision"], (on & group).sum() / group.sum())


def test_weights_cannot_tell_the_two_readings_apart_and_activations_can_once_magnitudes_vary():
    def sign(world, n=50_000):
        # Absorbed in the one reading, and in the other the perfect SAE: dual vectors as encoders.
        sae = family(make_world("absorption", 0, d_in=6, n_free=0).directions, 1.0, True)
        enc = {**sae.weights.enc, "b_enc": jnp.full(2, -1e-5)}  # silent on rounding errors
        sae = sae.replace(weights=sae.weights.replace(enc=enc))
        weights = weight_sign(enc["W_enc"], sae.W_dec)
        np.testing.assert_allclose(weights, (1 - np.eye(2)) / np.sqrt(2), atol=1e-5)
        seen = add_unseen(empty_unseen(np.array([[0, 1]])), sae, sample(world, KEY, n).x)
        return activation_sign(seen)[0]

    def worlds(magnitude_sd):
        same = {"d_in": 6, "magnitude_sd": magnitude_sd}
        one = make_world("absorption", 0, n_free=0, **same)
        other = make_world("exclusive-pair", 0, p_first=0.2, p_second=0.05, **same)
        # Its own directions are a rotation of (f_0, (f_0 + f_1) / sqrt 2): take those.
        f = np.asarray(one.directions)
        pair = jnp.asarray(np.stack([f[0], (f[0] + f[1]) / np.sqrt(2)]))
        return one, other.replace(directions=pair, rows=pair)

    one, other = worlds(magnitude_sd=0.0)
    assert sign(one) < 1e-4 and sign(other) < 1e-4
    one, other = worlds(magnitude_sd=0.1)
    assert sign(one) > 0.03 and sign(other) < 1e-4


def test_encoder_parts_that_read_nothing_do_not_hide_the_sign():
    sae = family(np.eye(6)[:2], 1.0, True)
    noise = np.zeros((6, 2), np.float32)
    noise[2:] = np.random.default_rng(0).standard_normal((4, 2))
    noisy = sae.weights.enc["W_enc"] + noise
    np.testing.assert_allclose(within_span(noisy, sae.W_dec), sae.weights.enc["W_enc"], atol=1e-5)
    np.testing.assert_allclose(
        weight_sign(noisy, sae.W_dec), weight_sign(sae.weights.enc["W_enc"], sae.W_dec), atol=1e-5
    )


def test_signs_are_of_the_living_pairs_that_lean_together_most():
    world = make_world("absorption", 0, d_in=6, n_free=0, magnitude_sd=0.1)
    absorbed = family(world.directions, 1.0, True)
    rng = np.random.default_rng(0)
    rows = jnp.asarray(rng.standard_normal((3, 6)), jnp.float32)
    enc = {"W_enc": jnp.concatenate([absorbed.weights.enc["W_enc"], rows.T], 1),
           "b_enc": jnp.zeros(5).at[4].set(-9.0)}  # fmt: skip
    spec = make_spec("untied", 6, 5, decoder=Free("none"), penalty=Sum())
    W_dec = jnp.concatenate([absorbed.W_dec, rows])
    sae = SAE(Weights(W_dec, None, enc), absorbed.run, {}, spec.at_inference())
    x = sample(world, KEY, 4096).x
    alive = np.array([True, True, True, True, False])
    table = absorption_signs(sae, x, alive)
    assert len(table) == 6 and table["decoder"].is_monotonic_decreasing
    assert not (table[["latent", "other"]] == 4).any(axis=None)
    unit = np.float64(W_dec) / np.linalg.norm(W_dec, axis=1, keepdims=True)
    pair = table[(table["latent"] == 0) & (table["other"] == 1)].iloc[0]
    np.testing.assert_allclose(pair["decoder"], unit[0] @ unit[1], atol=1e-5)
    np.testing.assert_allclose(pair["weights"], 1 / np.sqrt(2), atol=1e-5)
    np.testing.assert_allclose(pair["enc_dec"], 1 - 1 / np.sqrt(2), atol=1e-5)
    both = [activation_sign(add_unseen(empty_unseen(np.array([order])), sae, x))[0]
            for order in ([0, 1], [1, 0])]  # fmt: skip
    np.testing.assert_allclose(pair["activations"], np.nanmax(both), rtol=1e-4)
    few = absorption_signs(sae, x, alive, most=2)
    pd.testing.assert_frame_equal(few, table[:2], rtol=1e-5)


def test_signs_need_directions_inputs_and_a_pair():
    sae = family(np.eye(6)[:2], 1.0, True)
    x = jnp.zeros((1024, 6))
    with pytest.raises(ToysaeError, match="1000 inputs: give at least 1024"):
        absorption_signs(sae, x[:1000])
    with pytest.raises(ToysaeError, match="most 0"):
        absorption_signs(sae, x, most=0)
    fista = Dictionary(jnp.eye(6)[:2], None, "axes").sae(0.1)
    with pytest.raises(ToysaeError, match="FISTA has no encoder direction"):
        absorption_signs(fista, x)


@pytest.mark.parametrize(
    ("name", "fields", "parents"),
    [
        ("absorption", {"n_free": 1}, [-1, 0, -1]),
        ("absorption-co-occurrence", {}, [-1, 0, -1, -1]),
        ("absorption-co-occurrence", {"co_occurrence": 0.8}, [-1, -1, -1, -1]),
        ("absorption-independent", {}, [-1, -1, -1, -1]),
        ("balanced-matryoshka", {}, [-1, 0, 0, 0]),
        ("matryoshka-tree", {}, [-1, 0, 0, 0, -1, 4, 4, 4, -1, 8, 8, 8] + [-1] * 8),
    ],
)
def test_parents_are_found_by_co_occurrence(name, fields, parents):
    assert parents_of(make_world(name, 0, **fields)).tolist() == parents


def test_parents_in_trees_are_the_planted_ones():
    world = make_world("sphere", 0, d_in=8, n_features=21, l0=3.0, firing="forest", probs="zipf",
                       n_roots=2, branching=2, depth=2, siblings_exclude=False)  # fmt: skip
    np.testing.assert_array_equal(parents_of(world), world.firing.parents)


def test_an_always_on_feature_is_no_ones_parent():
    directions = np.eye(4)
    world = assemble(directions, np.array([1.0, 0.2, 0.2, 0.1]))
    assert (parents_of(world) == -1).all()


def test_too_many_features_without_trees_are_refused():
    world = make_world("sphere", 0, d_in=4, n_features=5000, l0=2.0)
    with pytest.raises(ToysaeError, match="5,000 features without trees"):
        parents_of(world)
    with pytest.raises(ToysaeError, match="n_samples 0"):
        parents_of(world, 0)
