"""No program that may run on several CPU devices calls LAPACK: there such calls can wait for ever.

Programs are lowered for two devices, of CPU, GPU and TPU, and read; those of the steps, starts,
probes and scorers of every recipe in tests/sae/test_sae_recipes.py. That the rest of the package
has no such calls either is read off its sources, in tests/test_imports.py.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from toysae import make_world
from toysae.sae import INITS, RECIPES, make_spec
from toysae.training.devices import MESH_AXES, Layout, over_rows
from toysae.training.ensemble import spread_ensemble
from toysae.training.members import make_ensemble
from toysae.training.starting import data_of_worlds, first_rows, init_samples
from toysae.worlds import WORLDS, world_fields

D, N = 8, 12
SMALL = {"d_in": D, "n_features": N, "l0": 2.0}
rows_of = jax.jit(first_rows, static_argnums=2)

pytestmark = pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")


def layout(n_members=2):
    """As on a machine of two cores."""
    return Layout(1, n_members, Mesh(np.array(jax.devices()[:2]).reshape(1, 2, 1, 1), MESH_AXES))


@cache
def world():
    return make_world("sphere", **SMALL)


def ensemble(init):
    spec = make_spec("untied", D, N, init)
    return make_ensemble([world()], [0], spec, {"l1_coeff": 0.1, "lr": 1e-3}, [0, 1], 16)


def test_the_check_itself_finds_a_call(calls_of_lapack):
    for call in (jnp.linalg.eigvalsh, jnp.linalg.qr, jnp.linalg.svd, jnp.linalg.cholesky,
                 lambda a: jnp.linalg.solve(a, a)):  # fmt: skip
        square = jax.ShapeDtypeStruct((2, 4, 4), jnp.float32)
        assert calls_of_lapack(jax.jit(jax.vmap(call)), square), call


OF_RECIPES = {make_spec(name, D, D).init: name for name in RECIPES}
STARTS = {**OF_RECIPES, **{init: name for name, init in INITS.items()}}  # each once


@pytest.mark.parametrize("init", STARTS, ids=STARTS.get)
def test_starts(init, calls_of_lapack):
    spread = spread_ensemble(ensemble(init), layout())
    data, _ = data_of_worlds(spread, layout())
    assert (data.axes is None) == (init.axes_from == "")
    assert calls_of_lapack(rows_of, spread, data, layout()) == []


def small(name):
    """A named world at a small size, where it has sizes."""
    sizes = SMALL | {"rank": 4, "n_steps": 10} | ({"n_features": 8} if name == "orthogonal" else {})
    known = world_fields(name)
    if name == "synth-sae-bench-16k":
        sizes = {"d_in": 16, "n_features": 1024, "n_roots": 8, "rank": 4, "n_steps": 2}
    elif "n_features" not in known:
        sizes = {"n_steps": 10}
    return make_world(name, 0, **{k: v for k, v in sizes.items() if k in known})


SAME = ("tms-20-5", "tms-80-20", "tms-400-30")  # draw as tms-5-2 does, in other sizes
SAMPLERS = [name for name in WORLDS if name not in SAME]


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name, calls_of_lapack):
    """Of a world on each of two devices, drawn as a training step draws."""
    one = small(name)
    both = Layout(2, 1, Mesh(np.array(jax.devices()[:2]).reshape(2, 1, 1, 1), MESH_AXES))
    worlds = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)

    def draw(worlds, seeds):
        return jax.vmap(lambda w, s: (init_samples(w, s), w.batch(jax.random.key(s), s, 16).x))(
            worlds, seeds
        )

    spread = over_rows(draw, both, (P("world"), P("world")), P("world"))
    assert calls_of_lapack(jax.jit(spread), worlds, jnp.arange(2)) == []
