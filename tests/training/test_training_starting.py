"""The state before any step: that of each SAE by itself, from programs that ensembles share."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.sae import INITS, RECIPES, InitData, SAESpec, init_params, make_spec
from toysae.sae.inits import Init, Short, axes_for
from toysae.training import start
from toysae.training.members import fallback, make_ensemble
from toysae.training.starting import _rows, _samples, init_samples, start_from
from toysae.training.state import member_key
from toysae.worlds import make_world

D, S, SEEDS, SAE_SEEDS = 8, 16, [3, 5], [0, 4]


@pytest.fixture(scope="module")
def worlds():
    return [make_world("sphere", seed, d_in=D, n_features=16, l0=2.0) for seed in SEEDS]


def ensemble_of(worlds, recipe, init):
    spec = make_spec(recipe, D, S, init)
    numbers = {**fallback(recipe, spec), RECIPES[recipe].knob(): 0.1}
    return make_ensemble(worlds, SEEDS, spec, numbers, SAE_SEEDS, 32)


def alone(ensemble, world, member):
    """The parameters of one SAE, as :func:`init_params` gives them."""
    seed = ensemble.world_seeds[world]
    w = jax.tree.map(lambda leaf: leaf[world], ensemble.worlds)
    data = InitData(init_samples(w, seed), w.generating_matrix, w.target)
    h = {name: value[member] for name, value in ensemble.hypers.items()}
    return init_params(ensemble.spec, member_key(seed, ensemble.sae_seeds[member]), data, h)


@pytest.mark.parametrize(
    ("recipe", "init"),
    [("untied", "random"), ("untied", "data-samples"), ("untied", "svd-data"), ("tied", "svd"),
     ("lista", "orthogonal")],
)  # fmt: skip
def test_each_sae_starts_as_it_does_by_itself(worlds, recipe, init):
    ensemble = ensemble_of(worlds, recipe, init)
    state = start(ensemble)
    for world, member in ((0, 1), (1, 0)):
        found = jax.tree.map(lambda leaf, at=(world, member): leaf[at], state.members.params)
        expected = alone(ensemble, world, member)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)
    assert int(state.step) == 0 and not state.firings.any() and state.firings.shape == (2, 16)


def test_recipes_share_the_rows_and_inits_the_rest(worlds):
    def sizes():
        return _rows._cache_size(), start_from._cache_size(), _samples._cache_size()

    start(ensemble_of(worlds, "untied", "random"))  # its encoder's rows are drawn too
    start(ensemble_of(worlds, "tied", "random"))
    rows, starts, samples = sizes()
    start(ensemble_of(worlds, "untied", "transpose"))
    start(ensemble_of(worlds, "untied", "kaiming"))
    start(ensemble_of(worlds, "tied", "kaiming"))
    assert sizes() == (rows + 1, starts, samples)


@pytest.mark.parametrize("name", [*INITS, "short"])
def test_an_init_reads_the_samples_if_and_only_if_it_says_so(worlds, name):
    init: Init = Short(init=INITS["k-means"]) if name == "short" else INITS[name]
    spec = SAESpec(D, S, init=init)
    h = {n: jnp.float32(0.1) for n in spec.hypers()}
    x = [jnp.asarray(np.random.default_rng(i).normal(size=(64, D)), jnp.float32) for i in (0, 1)]
    matrix = jnp.asarray(np.random.default_rng(2).normal(size=(D, 16)), jnp.float32)
    key, axes = jax.random.key(0), None
    if init.axes_from:
        axes = axes_for(init, x[0] if init.axes_from == "x" else matrix)
    rows = [
        np.asarray(init.directions(key, S, InitData(data, matrix, matrix.T, axes), h)[0])
        for data in (*x, *([] if init.reads_x else [jnp.zeros((0, D))]))
    ]
    assert np.isfinite(rows[0]).all()
    for other in rows[1:]:
        assert np.array_equal(rows[0], other) == (not init.reads_x)


def own(**methods):
    return dataclass(frozen=True)(type("Own", (Init,), methods))()


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ({"decoder_rows": lambda self, key, d_sae, data, h: data.x[:3]},
         r"decoder_rows of init Own have shape \[3, 8\]: return \[d_sae, d_in\] = \[16, 8\]"),
        ({"decoder_rows": lambda self, key, d_sae, data, h: h["l1_coeff"] * data.x[:d_sae]},
         "init Own reads the number 'l1_coeff', which it does not declare"),
        *(({"reads_x": False, "decoder_rows": lambda self, key, d_sae, data, h, read=read: read(
            data.x)}, "init Own declares reads_x = False and reads data.x")
          for read in (lambda x: x.mean(0), lambda x: x[:S], lambda x: 2 * x, jnp.sum)),
    ],
)  # fmt: skip
def test_an_init_of_ones_own_that_does_not_keep_its_word_is_named(worlds, methods, words):
    spec = make_spec("untied", D, S, own(**methods))
    with pytest.raises(ToysaeError, match=words):
        start(make_ensemble(worlds, SEEDS, spec, {"l1_coeff": 0.1}, SAE_SEEDS, 32))


def test_an_init_of_ones_own_starts_where_it_says(worlds):
    spec = make_spec("untied", D, S, own(decoder_rows=lambda self, key, d_sae, data, h: (
        jnp.broadcast_to(data.x[0], (d_sae, D)))))  # fmt: skip
    state = start(make_ensemble(worlds, SEEDS, spec, {"l1_coeff": 0.1}, SAE_SEEDS, 32))
    x = np.asarray(init_samples(worlds[1], jnp.int32(SEEDS[1])))[0]
    W_dec = np.asarray(state.members.params.W_dec[1, 0])
    np.testing.assert_allclose(W_dec, np.tile(x / np.linalg.norm(x), (S, 1)), atol=1e-5)
    with pytest.raises(
        ToysaeError, match="overrides directions, which is final: write decoder_rows"
    ):
        own(directions=lambda self, key, d_sae, data, h: None)
