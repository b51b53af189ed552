"""eval_loss is what training minimises, on fresh samples: against NumPy and against training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import make_spec, make_world
from toysae.evaluation.scoring import evaluate_all
from toysae.keys import named_key, seed_key
from toysae.sae import RECIPES
from toysae.sae.objectives import Denoising
from toysae.training import advance, start, trained
from toysae.training.members import make_ensemble
from toysae.training.state import member_loss
from toysae.worlds import sample

N, BATCH = 16, 32
GIVEN = {"l1_coeff": 0.1, "k": 4, "l0_target": 4, "l0_coeff": 0.03}


def group_of(spec, recipe, n_worlds=2, batch_size=BATCH, **own):
    worlds = [make_world("sphere", s, d_in=8, n_features=N, l0=2.0) for s in range(n_worlds)]
    known = {**RECIPES[recipe].toy, **GIVEN}
    given = {name: value for name, value in known.items() if name in spec.hypers()}
    return make_ensemble(worlds, range(n_worlds), spec, {**given, **own}, [0, 1], batch_size)


def evaluated(cell, state, n_batches):
    saes = trained(state, cell.once_started())
    spec = cell.spec.once_started()
    scores, _ = evaluate_all(
        saes, spec, cell.worlds, cell.world_seeds, jnp.int32(n_batches), cell.batch_size
    )
    return jax.device_get(scores), saes


def batches_of(world, seed, n_batches):
    """The evaluation batches of a world, and the keys they were drawn with."""
    key = named_key(seed_key(seed, "data"), "evaluation")
    keys = [jax.random.fold_in(key, i) for i in range(n_batches)]
    return [(k, sample(world, k, BATCH).x) for k in keys]


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_it_equals_numpy(noise):
    own = {"objective": Denoising()} if noise else {}
    spec = make_spec("untied", 8, N, **own)
    cell = group_of(spec, "untied", l1_coeff=0.3, **({"noise": noise} if noise else {}))
    state = advance(start(cell), cell.once_started(), jnp.int32(20), jnp.float32(20))
    scores, saes = evaluated(cell, state, 3)
    for w in range(2):
        world = jax.tree.map(lambda leaf, w=w: leaf[w], cell.worlds)
        for m in range(2):
            one = jax.tree.map(lambda leaf, w=w, m=m: np.asarray(leaf[w, m], np.float64), saes)
            losses = []
            for key, x in batches_of(world, w, 3):
                noised = np.asarray(x, np.float64)
                x = noised
                if noise:
                    normal = jax.random.normal(named_key(key, "denoising"), x.shape)
                    noised = x + noise * np.asarray(normal, np.float64)
                enc, b_dec = one.weights.enc, one.weights.b_dec
                z = np.maximum((noised - b_dec) @ enc["W_enc"] + enc["b_enc"], 0)
                error = ((x - z @ one.weights.W_dec - b_dec) ** 2).sum(1)
                losses.append((error + 0.3 * z.sum(1)).mean())
            np.testing.assert_allclose(scores["eval_loss"][w, m], np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("recipe", ["batchtopk", "gated"])
def test_it_is_the_members_loss(recipe):
    is_the_members_loss(recipe)


@pytest.mark.slow
def test_every_recipe_has_one(program):
    is_the_members_loss(program)


def is_the_members_loss(program):
    cell = group_of(make_spec(program, 8, N), program, n_worlds=1)
    state = advance(start(cell), cell.once_started(), jnp.int32(3), jnp.float32(3))
    scores, _ = evaluated(cell, state, 2)
    assert np.isfinite(scores["eval_loss"]).all()
    world = jax.tree.map(lambda leaf: leaf[0], cell.worlds)
    spec = cell.spec.once_started()
    loss = jax.jit(lambda member, h, key, x: member_loss(
        spec, member.params, {**member.run, "progress": jnp.float32(1)}, h, key, x)[0])  # fmt: skip
    for m in range(2):
        member = jax.tree.map(lambda leaf, m=m: leaf[0, m], state.members)
        h = {name: value[m] for name, value in cell.once_started().hypers.items()}
        expected = np.mean([loss(member, h, key, x) for key, x in batches_of(world, 0, 2)])
        np.testing.assert_allclose(scores["eval_loss"][0, m], expected, rtol=2e-4)
