"""SynthSAEBench-16k: its published statistics, and its dictionary against autodiff over pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from toysae.errors import ToysaeError
from toysae.worlds.dictionaries import sphere
from toysae.worlds.forest import Forest
from toysae.worlds.probabilities import zipf_between
from toysae.worlds.synth_sae_bench import near_orthogonal, synth_sae_bench
from toysae.worlds.world import sample


def statistics(world, n_batches=12):
    def step(_, key):
        batch = world.sample(key, 512)
        on = batch.values != 0
        length = jnp.linalg.norm(batch.x, axis=1)
        return None, (on.sum(1).mean(), length.mean(), batch.dropped.sum())

    keys = jax.random.split(jax.random.key(1), n_batches)
    l0, length, dropped = jax.jit(lambda keys: jax.lax.scan(step, None, keys)[1])(keys)
    return float(l0.mean()), float(length.mean()), int(dropped.sum())


def test_published_statistics_with_a_random_dictionary():
    world = synth_sae_bench(jax.random.key(0), n_steps=0)
    l0, length, dropped = statistics(world)
    assert abs(l0 - 34.4) < 1
    assert abs(length - 28.3) < 0.5
    assert dropped == 0
    firing = world.firing
    assert isinstance(firing, Forest) and firing.n_features == 16_384
    assert len(firing.free_ids) == 5504 and len(firing.root_ids) == 128
    in_trees = {*np.asarray(firing.root_ids)}
    for generation in firing.generations:
        in_trees |= {*np.asarray(generation.children[:, 1:]).ravel()}
    assert len(in_trees) == 10_880
    np.testing.assert_allclose(np.linalg.norm(world.bias), 0.5, rtol=1e-5)


@pytest.mark.slow
def test_published_statistics():
    world = synth_sae_bench(jax.random.key(0))
    l0, length, dropped = statistics(world)
    assert abs(l0 - 34.4) < 1 and abs(length - 28.3) < 0.5 and dropped == 0
    some = np.arange(0, 16_384, 16)
    cosines = np.abs(np.asarray(world.directions[some] @ world.directions.T))
    cosines[np.arange(len(some)), some] = 0
    assert 0.14 < cosines.max(1).mean() < 0.148  # a random dictionary has .1484


def test_a_small_one_keeps_the_rules():
    world = synth_sae_bench(jax.random.key(0), 32, 600, n_roots=8, depth=2, rank=4, n_steps=10)
    one = sample(world, jax.random.key(1), 256)
    acts = np.asarray(one.feature_acts)
    for parent in range(8):
        children = acts[:, 8 + 4 * parent : 12 + 4 * parent]
        assert ((children > 0).sum(1) <= 1).all()
        assert (acts[(children > 0).any(1), parent] > 0).all()
    np.testing.assert_allclose(one.x, acts @ world.rows + world.bias, rtol=1e-3, atol=1e-3)


def test_without_factors_the_events_are_independent():
    world = synth_sae_bench(jax.random.key(0), 8, 300, 40, 2, 1, rank=0, n_steps=0)
    assert isinstance(world.firing, Forest) and world.firing.rank == 0
    probs = zipf_between(300, 0.5, 5e-4, 0.4)
    counts = np.asarray(sample(world, jax.random.key(1), 20_000).feature_counts())
    free = slice(120, None)  # a parentless feature fires with the probability asked for
    z = (counts[free] - 20_000 * probs[free]) / np.sqrt(20_000 * probs[free])
    assert np.abs(z).max() < 4.5 and 0.8 < np.std(z) < 1.2


def test_the_dictionary_descends_the_loss_over_all_pairs():
    key = jax.random.key(0)
    start, n = sphere(key, 40, 8), 40

    def loss(rows):
        gram = rows @ rows.T
        off = gram * (1 - jnp.eye(n))
        return (off**2).sum() + n * ((jnp.diag(gram) - 1) ** 2).sum()

    adam = optax.adam(3e-4)
    rows, state = start, adam.init(start)
    for _ in range(20):
        updates, state = adam.update(jax.grad(loss)(rows), state)
        rows = optax.apply_updates(rows, updates)
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(near_orthogonal(key, 40, 8, 20), rows, atol=2e-4)
    # The least value is that of a tight frame, n^2 / d - n.
    tight = near_orthogonal(key, 40, 8, 400, lr=1e-2)
    np.testing.assert_allclose(loss(tight), 40 * 40 / 8 - 40, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"p_min": 0.5}, "p_min 0.5"),
        ({"rank": 700}, "rank 700"),
        ({"bias_norm": -1.0}, "bias_norm"),
        ({"n_roots": 0}, "n_roots 0"),
    ],
)
def test_errors_name_the_value(fields, match):
    with pytest.raises(ToysaeError, match=match):
        synth_sae_bench(jax.random.key(0), 8, 600, **({"n_steps": 0} | fields))
