"""Random numbers: the bits of jax.random, and laws that a leftover uniform is turned into."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from toysae import draws

SHAPES = [(1,), (7,), (256, 29), (3, 5, 7), (1001,)]
KEY = jax.random.key(20261122)


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_are_those_of_jax(shape):
    with jax.threefry_partitionable(True):
        expected = jax.random.bits(KEY, shape, jnp.uint32)
    np.testing.assert_array_equal(draws.bits(KEY, shape), expected)


@pytest.mark.parametrize("impl", ["rbg", "threefry2x32"])
def test_any_kind_of_key_is_taken(impl):
    key = jax.random.key(1, impl=impl)
    np.testing.assert_array_equal(draws.bits(key, (12,)), jax.random.bits(key, (12,), jnp.uint32))
    assert draws.bits(key, (0, 3)).shape == (0, 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_laws_are_those_of_jax(shape):
    np.testing.assert_array_equal(draws.uniform(KEY, shape), jax.random.uniform(KEY, shape))
    np.testing.assert_array_equal(
        draws.uniform(KEY, shape, -0.5, 3.0), jax.random.uniform(KEY, shape, minval=-0.5, maxval=3)
    )
    np.testing.assert_array_equal(draws.normal(KEY, shape), jax.random.normal(KEY, shape))
    np.testing.assert_allclose(
        draws.exponential(KEY, shape), jax.random.exponential(KEY, shape), rtol=1e-6
    )


def test_many_keys_at_once():
    keys = jax.random.split(KEY, 4)
    each = jnp.stack([draws.bits(key, (9, 2)) for key in keys])
    np.testing.assert_array_equal(jax.vmap(lambda key: draws.bits(key, (9, 2)))(keys), each)


def test_a_longer_draw_begins_with_a_shorter_one():
    np.testing.assert_array_equal(draws.bits(KEY, (50, 3))[:20], draws.bits(KEY, (20, 3)))


def test_a_uniform_becomes_a_normal_by_its_quantiles():
    unit = jnp.asarray([0.0, 1e-6, 0.1, 0.5, 0.9, 1 - 2.0**-24], jnp.float32)
    out = np.asarray(draws.normal_of(unit))
    np.testing.assert_allclose(out[1:-1], stats.norm.ppf(np.asarray(unit, float)[1:-1]), atol=2e-2)
    assert np.isfinite(out).all() and (np.diff(out) > 0).all()
