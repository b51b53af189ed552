"""Control of L0: one program steers members with targets of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.sae import ToL0, make_spec
from toysae.sae.penalties import L1, Sum
from toysae.training import advance, start, trained
from toysae.training.members import make_ensemble
from toysae.worlds import make_world

D, S = 16, 32
TARGETS = [2.0, 4.0, 8.0]


@pytest.fixture(scope="module")
def world():
    return make_world("sphere", 0, d_in=D, n_features=32, l0=3.0)


def go(world, hypers, until, n_steps=None, recipe="untied"):
    spec = make_spec(recipe, D, S, penalty=Sum((ToL0(L1()),)))
    ensemble = make_ensemble([world], [0], spec, hypers, [0], 64)
    state = advance(start(ensemble), ensemble.once_started(), jnp.int32(until),
                    jnp.float32(n_steps or until))  # fmt: skip
    return state, ensemble


def test_l1_reaches_its_targets(world):
    """Within 10 % after 2,500 steps, from a first coefficient far too small for all three."""
    hypers = {"l1_coeff": 0.1, "l0_target": TARGETS, "lr": 3e-3}
    state, ensemble = go(world, hypers, 2500)
    x = world.sample(jax.random.key(9), 4000).x
    saes = trained(state, ensemble.once_started())
    for member, target in enumerate(TARGETS):
        sae = jax.tree.map(lambda leaf, i=member: leaf[0, i], saes)
        measured = (np.asarray(sae.encode(x)) > 0).sum(1).mean()
        assert measured == pytest.approx(target, rel=0.1)
    multipliers = np.exp(np.asarray(state.members.run["l0_multiplier"][0, :, 0]))
    assert (np.diff(multipliers) < 0).all() and multipliers[0] > 3  # sparser costs more
    sizes = advance._cache_size()
    state, _ = go(world, {**hypers, "l0_target": [3.0, 5.0, 6.0], "l0_gain": 0.02}, 5)
    assert advance._cache_size() == sizes


def test_without_gain_the_target_plays_no_part(world):
    hypers = {"l1_coeff": 0.1, "l0_target": TARGETS, "l0_gain": 0.0, "lr": 3e-3}
    state, _ = go(world, hypers, 50)
    assert not np.asarray(state.members.run["l0_multiplier"][..., 0]).any()
    for leaf in jax.tree.leaves(state.members.params):
        np.testing.assert_array_equal(leaf[0, 0], leaf[0, 2])


def test_a_diverged_member_stands_still_and_harms_no_one(world):
    hypers = {"l1_coeff": 0.1, "l0_target": 4.0, "lr": [3e-3, 1e30, 1e-3]}
    state, _ = go(world, hypers, 40, 200)
    later, _ = go(world, hypers, 60, 200)
    assert state.members.diverged[0].tolist() == [False, True, False]
    for a, b in zip(jax.tree.leaves(state.members.params), jax.tree.leaves(later.members.params),
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(a[0, 1], b[0, 1])
        assert np.isfinite(b).all()
    assert np.isfinite(later.members.run["l0_multiplier"][0, 0]).all()
