"""Windows of a stream against its rows, and trainings fed by them against one that holds all."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.lm.capture.stream import Stream
from toysae.lm.saes.feed import SiteFeed, Window
from toysae.lm.saes.scores import curve_probe
from toysae.sae import make_spec
from toysae.training import advance, train_ensemble
from toysae.training.members import make_ensemble

D, BATCH, N_STEPS = 6, 8, 45
A_STEP = 4 * D * BATCH  # bytes
MEAN = np.linspace(-1, 1, D).astype(np.float32)


class Memory:
    """Activations of a few directions."""

    d, dtype = D, np.float32

    def __init__(self):
        rng = np.random.default_rng(0)
        self.counts = rng.integers(1, 6, 80)
        ends = np.cumsum(self.counts)
        on = (rng.random((ends[-1], 9)) < 0.3) * rng.random((ends[-1], 9))
        self.rows = (on @ rng.normal(size=(9, D)) + MEAN).astype(np.float32)
        self.starts = ends - self.counts

    def read(self, sequences):
        parts = [self.rows[self.starts[i] : self.starts[i] + self.counts[i]] for i in sequences]
        return np.concatenate(parts)


def stream():
    return Stream(Memory(), np.arange(80), 5, 40)


def window(rows, first):
    drawn, pool = jnp.asarray(Memory().rows[:50]), jnp.asarray(Memory().rows[50:150])
    return Window(rows, first, drawn, pool, jnp.asarray(MEAN), jnp.float32(1.5), jnp.eye(D))


def stacked(rows, first):
    """As a feed makes it: with a leading axis of 1."""
    fixed = window(rows[0], first[0])
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], fixed)


@pytest.fixture
def feed_of():
    """Feeds that are closed at the end."""
    made = []

    def make(n_bytes=10 * A_STEP, n_steps=N_STEPS, source=None, window=stacked):
        made.append(SiteFeed(source or stream(), window, BATCH, n_steps, n_bytes))
        return made[-1]

    yield make
    for feed in made:
        feed.close()


@jax.jit
def batch_of(stacked, step):
    return jax.tree.map(lambda leaf: leaf[0], stacked).batch(jax.random.key(0), step, BATCH).x


# Windows


@pytest.mark.parametrize("steps", [1, 4, 10, 1000])
def test_the_batch_of_each_step_is_the_streams_normalised(feed_of, steps):
    feed, wanted = feed_of(steps * A_STEP), stream()
    batch_of.clear_cache()
    lengths = set()
    for step in range(N_STEPS):
        stacked, until = feed(step)
        assert step < until and until % min(steps, N_STEPS) == 0
        x = batch_of(stacked, jnp.int32(step))
        rows = wanted.rows(step * BATCH, BATCH)
        np.testing.assert_allclose(x, (rows - MEAN) * np.float32(1.5), atol=1e-6)
        lengths.add(stacked.rows.shape)
    assert lengths == {(1, min(steps, N_STEPS) * BATCH, D)}
    assert batch_of._cache_size() == 1


@pytest.mark.parametrize("n_bytes", [1, A_STEP - 1, A_STEP])
def test_a_window_holds_one_step_at_least(feed_of, n_bytes):
    assert feed_of(n_bytes)(7)[1] == 8


def test_it_can_begin_anywhere(feed_of):
    wanted = stream()
    for step in (44, 20, 9, 10):
        stacked, until = feed_of()(step)
        assert until == step // 10 * 10 + 10
        rows = wanted.rows(step * BATCH, BATCH)
        x = batch_of(stacked, jnp.int32(step))
        np.testing.assert_allclose(x, (rows - MEAN) * np.float32(1.5), atol=1e-6)


def test_the_next_window_is_loaded_and_none_beyond_the_end(feed_of):
    loaded, ahead = [], threading.Event()

    def noting(rows, first):
        loaded.append(int(first[0]))
        if first[0] == 10:
            ahead.set()
        return stacked(rows, first)

    feed = feed_of(window=noting)
    feed(3)
    assert ahead.wait(30)
    for step in range(N_STEPS):
        feed(step)
    feed.close()
    assert loaded == [0, 10, 20, 30, 40]


class Breaking(Memory):
    reads = 0

    def read(self, sequences):
        self.reads += 1
        if self.reads == 4:
            raise OSError("the disk is gone")
        return super().read(sequences)


def test_what_fails_in_the_loading_thread_is_raised_where_it_is_needed(feed_of):
    feed = feed_of(4 * A_STEP, source=Stream(Breaking(), np.arange(80), 5, 40))
    feed(0)
    with pytest.raises(OSError, match="the disk is gone"):
        for step in range(N_STEPS):
            feed(step)


def test_closed_it_loads_nothing_more(feed_of):
    loaded = []

    def slow(rows, first):
        loaded.append(int(first[0]))
        time.sleep(0.2)
        return stacked(rows, first)

    feed = feed_of(window=slow)
    feed(0)
    feed.close()
    with pytest.raises(RuntimeError):
        feed(20)
    assert max(loaded) <= 10


def test_a_window_is_a_world_without_features():
    one = window(jnp.zeros((BATCH, D)), jnp.int32(0))
    assert one.directions.shape == one.target.shape == (0, D)
    assert (one.n_features, one.d_in) == (0, D)
    drawn = one.sample(jax.random.key(1), 300)
    rows = (Memory().rows[:50] - MEAN) * np.float32(1.5)
    gaps = np.abs(np.asarray(drawn.x)[:, None] - rows).max(-1)
    assert gaps.min(1).max() < 1e-6
    # Each of those rows is drawn about six times.
    assert len(set(gaps.argmin(1).tolist())) > 40
    assert drawn.feature_counts().shape == (0,)


def test_shorter_types_are_computed_in_float32():
    one = window(jnp.asarray(Memory().rows[:BATCH], jnp.bfloat16), jnp.int32(0))
    x = one.batch(jax.random.key(0), jnp.int32(0), BATCH).x
    assert x.dtype == jnp.float32
    wanted = (np.asarray(one.rows, np.float32) - MEAN) * np.float32(1.5)
    np.testing.assert_allclose(x, wanted, atol=1e-6)


# Training


def group_of(rows, recipe="untied"):
    hypers = {"l1_coeff": [0.01, 0.1], "lr": 3e-3, "lr_decay": 0.3}
    spec = make_spec(recipe, D, 12)
    one = window(jnp.asarray(rows), jnp.int32(0))
    return make_ensemble([one], [0], spec, hypers, [0, 1], BATCH)


def training(group, **given):
    return train_ensemble(group, N_STEPS, curve_probe, 4, 64, **given)


def assert_same(one, other, exactly=False):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if exactly:
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        else:
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.fixture(scope="module")
def whole():
    """A training on one window that holds every step's rows, without a feed."""
    return training(group_of(stream().rows(0, N_STEPS * BATCH)))


@pytest.mark.parametrize("steps", [7, 1000])
def test_training_in_windows_equals_one_on_all_rows(feed_of, whole, steps):
    feed = feed_of(steps * A_STEP)
    fed = training(group_of(np.zeros((min(steps, N_STEPS) * BATCH, D), np.float32)), feed=feed)
    assert_same(fed, whole)
    curve = np.asarray(whole.curves["ev"])[0]
    assert curve[:, -1].min() > curve[:, 0].max() + 0.1  # something was learnt


def test_from_every_edge_it_goes_on_to_the_same_bits(feed_of):
    group, edges = group_of(np.zeros((7 * BATCH, D), np.float32)), []
    fed = training(
        group,
        feed=feed_of(7 * A_STEP),
        on_chunk=lambda edge: edges.append(jax.device_get(edge)),
    )
    inside = [edge for edge in edges if 0 < edge.step < N_STEPS]
    assert any(edge.step % 7 == 0 for edge in inside) and any(edge.step % 7 for edge in inside)
    compiled = advance._cache_size()
    for edge in inside:
        assert_same(training(group, feed=feed_of(7 * A_STEP), resume=edge), fed, exactly=True)
    assert advance._cache_size() == compiled
