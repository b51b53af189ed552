"""No program that may run on several CPU devices calls LAPACK: there such calls can wait for ever.

Programs are lowered for two devices and read; that the rest of the package has no such calls
either is read off its sources, in tests/test_imports.py.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from toysae import make_world
from toysae.evaluation.scoring import evaluate_all
from toysae.recovery.probe import recovery_probe
from toysae.sae import INITS, RECIPES, make_spec
from toysae.training import advance, probe_all
from toysae.training.devices import MESH_AXES, Layout, over_rows
from toysae.training.ensemble import spread_ensemble
from toysae.training.members import fallback, make_ensemble
from toysae.training.starting import data_of_worlds, first_rows, init_samples, start_from
from toysae.worlds import WORLDS, world_fields

D, N = 8, 12
SMALL = {"d_in": D, "n_features": N, "l0": 2.0}
rows_of = jax.jit(first_rows, static_argnums=2)
CALLS = ("lapack", "blas_", "cusolver", "Eigh", "Qr(", "@Svd")

pytestmark = pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")


def clean(lowered):
    text = lowered.as_text()
    assert "stablehlo" in text
    return [line for line in text.splitlines() if any(call in line for call in CALLS)] == []


def layout(n_members=2):
    """As on a machine of two cores."""
    return Layout(1, n_members, Mesh(np.array(jax.devices()[:2]).reshape(1, 2, 1, 1), MESH_AXES))


@cache
def world():
    return make_world("sphere", **SMALL)


def ensemble(name, init=None):
    square = "held" in name
    spec = make_spec(name, D, D if square else N, init)
    numbers = fallback(name, spec)
    knob = RECIPES[name].knob()
    numbers.setdefault(knob, {"k": 2.0, "l0_target": 2.0}.get(knob, 0.1))
    numbers = {n: v for n, v in numbers.items() if n in {**spec.hypers(), "lr": 0}}
    return make_ensemble([world()], [0], spec, numbers, [0, 1], 16)


def test_the_check_itself_finds_a_call():
    for call in (jnp.linalg.eigvalsh, jnp.linalg.qr, jnp.linalg.svd, jnp.linalg.cholesky,
                 lambda a: jnp.linalg.solve(a, a)):  # fmt: skip
        square = jax.ShapeDtypeStruct((2, 4, 4), jnp.float32)
        assert not clean(jax.jit(jax.vmap(call)).lower(square)), call


@pytest.mark.parametrize("init", INITS)
def test_starts(init):
    spread = spread_ensemble(ensemble("untied", init), layout())
    data, _ = data_of_worlds(spread, layout())
    assert (data.axes is None) == (INITS[init].axes_from == "")
    assert clean(rows_of.lower(spread, data, layout()))


def test_steps_starts_probes_and_scorers_of_every_recipe(program):
    spread = spread_ensemble(ensemble(program), layout())
    data, bias = data_of_worlds(spread, layout())
    assert clean(rows_of.lower(spread, data, layout()))
    rows = jax.eval_shape(lambda e, d: first_rows(e, d, layout()), spread, data)
    stepping = spread.once_started()
    assert clean(start_from.lower(stepping, rows, bias, layout()))
    state = jax.eval_shape(lambda *args: start_from(*args, layout()), stepping, rows, bias)
    assert clean(advance.lower(state, stepping, jnp.int32(1), jnp.float32(9), layout()))
    assert clean(probe_all.lower(state, stepping, recovery_probe, 64, layout()))
    from toysae.training import trained

    saes = jax.eval_shape(lambda s, g: trained(s, g, layout()), state, stepping)
    scored = evaluate_all.lower(
        saes, stepping.spec, spread.worlds, spread.world_seeds, jnp.int32(2), 16, layout()
    )
    assert clean(scored)


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
def test_samplers(name):
    """Of a world on each of two devices, drawn as a training step draws."""
    one = small(name)
    both = Layout(2, 1, Mesh(np.array(jax.devices()[:2]).reshape(2, 1, 1, 1), MESH_AXES))
    worlds = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)

    def draw(worlds, seeds):
        return jax.vmap(lambda w, s: (init_samples(w, s), w.batch(jax.random.key(s), s, 16).x))(
            worlds, seeds
        )

    spread = over_rows(draw, both, (P("world"), P("world")), P("world"))
    assert clean(jax.jit(spread).lower(worlds, jnp.arange(2)))
