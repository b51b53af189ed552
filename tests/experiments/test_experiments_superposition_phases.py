"""The superposition study trains the toy models of `toysae.worlds.tms`, its tables are of them, and
it refuses sizes that it cannot run, before it trains anything."""

from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import run
from toysae.errors import ToysaeError
from toysae.points import grid
from toysae.sae.component import Params
from toysae.sae.forward import finished
from toysae.sweeps import load_experiment
from toysae.sweeps.study import Study
from toysae.training import advance, start
from toysae.training.members import ensemble_of
from toysae.training.state import member_loss
from toysae.worlds.tms import TMSSpec, expected_loss, overlap, two_in_one
from toysae.worlds.tms.model import TMSParams, draw_uniforms, features_at, loss
from toysae.worlds.world import sample

# Loaded as others load it in this process: a part that were imported too would be two of one name.
study = load_experiment(Path(__file__).parents[2] / "experiments" / "superposition_phases")
assert isinstance(study, Study) and study.cells is not None
PACKAGE = study.cells.__module__.removesuffix(".experiment")
FeatureData, Features, toy_model = (
    getattr(import_module(f"{PACKAGE}.toy_models"), name)
    for name in ("FeatureData", "Features", "toy_model")
)
sampled_loss = import_module(f"{PACKAGE}.measure").sampled_loss
SWEEP, CURVE = "by-sparsity", "along-training"
COUNTS = [option for option, value in asdict(study.options).items() if isinstance(value, int)]


@pytest.fixture(scope="module")
def options():
    return replace(
        study.options, grid=2, seeds=2, steps=20, batch_size=64, n_features=12, d_hidden=3,
        large_batch_size=32, sweep_points=3, max_sparsity=5.0, sweep_seeds=2, sweep_steps=20,
        curve_steps=130,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(options, tmp_path_factory):
    out = tmp_path_factory.mktemp("superposition")
    return run(replace(study, options=options), out, quiet=True)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((count, 0) for count in COUNTS),
        ("max_sparsity", 0.5),
        ("max_sparsity", float("nan")),
        ("curve_density", 0.0),
        ("curve_density", 1.5),
    ],
)
def test_impossible_sizes_are_refused(option, value, tmp_path):
    with pytest.raises(ToysaeError, match=f"{option} {value} must be"):
        run(replace(study, options=replace(study.options, **{option: value})), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("n", "m"), [(3, 2), (7, 3)])
def test_the_autoencoder_is_the_toy_model_of_elhage_et_al(n, m):
    """Its training loss and the gradient of that are those of the model written down by itself."""
    spec, keys = toy_model(n, m), jax.random.split(jax.random.key(0), 3)
    W, b = jax.random.normal(keys[0], (m, n)), jax.random.normal(keys[1], (n,))
    x, importance = sample(Features(jnp.float32(0.4), n), keys[2], 50).x, jnp.float32(3)
    weights = jnp.ones(n).at[-1].set(importance)

    def ours(W, b):
        h = {"importance": importance, "enc_scale": jnp.float32(1)}
        return member_loss(spec, Params(W, b, {}, {}), {}, h, keys[0], x)[0]

    def theirs(W, b):
        return loss(TMSSpec(n, m), TMSParams(W, None, b), x, weights)

    found, wanted = (jax.value_and_grad(f, (0, 1))(W, b) for f in (ours, theirs))
    for a, c in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-6)


def test_features_are_those_of_elhage_et_al_and_coupled_over_densities():
    key = jax.random.key(3)
    dense, rare = (sample(Features(jnp.float32(p), 6), key, 4096) for p in (0.8, 0.2))
    wanted = features_at(TMSSpec(6, 2), draw_uniforms(TMSSpec(6, 2), key, 4096), jnp.float32(0.2))
    np.testing.assert_allclose(rare.x, wanted, atol=1e-6)
    np.testing.assert_array_equal(rare.x, rare.feature_acts)
    assert (dense.x > 0)[rare.x > 0].all()
    np.testing.assert_allclose((rare.x > 0).mean(), 0.2, atol=0.01)


def test_models_of_a_seed_start_alike_and_those_of_two_seeds_do_not():
    data = FeatureData.each(5, [0.1, 0.9], 2)
    assert data.seeds == (0, 1, 0, 1) and data.densities == (0.1, 0.1, 0.9, 0.9)
    members = grid(importance=[1.0, 2.0], lr=1e-3)
    cell = ensemble_of(data.worlds, data.seeds, toy_model(5, 2), members, (0,), 16)
    W = np.asarray(start(cell).members.params.W_dec)
    np.testing.assert_array_equal(W[0], W[2])
    np.testing.assert_array_equal(W[0, 0], W[0, 1])
    assert not np.allclose(W[0], W[1])
    cell = ensemble_of(
        FeatureData.each(400, [0.5], 1).worlds, (0,), toy_model(400, 30), grid(lr=1e-3), (0,), 16
    )
    drawn = start(cell).members.params
    np.testing.assert_allclose(np.std(drawn.W_dec), (2 / 430) ** 0.5, rtol=0.02)
    assert not np.any(drawn.b_dec)


def test_three_regions_of_the_phase_diagram_are_learned():
    places = {0.9: (0.2, "extra ignored", 0, 0), 0.05: (0.5, "extra in superposition", 1, 1)}
    for density, (importance, arrangement, norm, shared) in places.items():
        data = FeatureData.each(2, [density], 6)
        members = grid(importance=importance, lr=5e-3, lr_decay=0.5)
        cell = ensemble_of(data.worlds, data.seeds, toy_model(2, 1), members, (0,), 256)
        state = advance(start(cell), cell, jnp.int32(1500), jnp.float32(1500))
        W, b = (np.asarray(v, float)[:, 0] for v in (state.members.params.W_dec,
                                                    state.members.params.b_dec))  # fmt: skip
        weights = np.array([1, importance])
        exact = [expected_loss(*each, density, weights)[0] for each in zip(W, b, strict=True)]
        best, forms = int(np.argmin(exact)), two_in_one(density, importance)
        assert min(forms, key=lambda form: forms[form]) == arrangement
        assert min(exact) == pytest.approx(forms[arrangement], rel=0.02)
        assert np.linalg.norm(W[best, :, 1]) == pytest.approx(norm, abs=0.12)
        assert norm == 0 or overlap(W[best])[1] == pytest.approx(shared, abs=0.12)


def test_every_model_is_trained_once(options, results):
    table = results.table
    assert len(table) == 2 * (2 * 2 * 2) + 3 * 2 + 1  # phases, sweep, curve
    assert list(table["cell"].unique()) == ["2-in-1", "3-in-2", SWEEP, CURVE]
    by = ["cell", "density", "importance", "world_seed"]
    assert not table.duplicated(by).any() and not table["diverged"].any()
    assert len({key for cell in study.cells(options) for key in cell.keys.ravel()}) == len(table)


def test_losses_are_those_of_the_weights_that_were_kept(options, results):
    for n in (2, 3):
        part = results.select(cell=f"{n}-in-{n - 1}")
        held = results.weights(f"{n}-in-{n - 1}")
        for place, model in enumerate(part.itertuples()):
            W, b = (held[name][place].astype(float) for name in ("W_dec", "b_dec"))
            exact = expected_loss(W, b, model.density, np.append(np.ones(n - 1), model.importance))
            assert model.loss == pytest.approx(exact[0], rel=1e-3)
    part, cell = results.select(cell=SWEEP), study.cells(options)[2]
    for row, model in part.iterrows():
        sae = jax.tree.map(lambda leaf: leaf[None, None], results.sae(row))
        world = Features(jnp.float32([model["density"]]), 12)
        found = sampled_loss(sae, world, jnp.array([model["world_seed"]]), cell.measure.n_eval)
        assert float(found[0, 0]) == pytest.approx(model["loss"], rel=1e-4)


def test_tables_and_figures_are_of_the_best_seeds_and_all_densities(options, results):
    drawn = {name: frame for name, _, frame in study.draw(options, results)}
    assert list(drawn) == ["phase_diagrams", "dimensions", "dimensionality",
                           "dimensionality_curves"]  # fmt: skip
    found, dimensions, shares, curve = drawn.values()
    assert len(found) == 2 * 2 * 2
    for point in found.itertuples():
        models = results.select(cell=f"{point.n_features}-in-{point.d_hidden}")
        models = models[(models["density"] == point.density)
                        & (models["importance"] == point.importance)]  # fmt: skip
        assert len(models) == 2 and point.loss == models["loss"].min()
    assert len(dimensions) == 3 * 2 and shares["density"].nunique() == 3
    np.testing.assert_allclose(shares.groupby("density")["share"].sum(), 1)
    W = results.weights(SWEEP)["W_dec"]
    np.testing.assert_allclose(dimensions["dimensions"], 3 / (W**2).sum((1, 2)), rtol=1e-5)
    assert curve["step"].iloc[0] == 0 and curve["step"].iloc[-1] == 130
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]
    assert curve.filter(regex="^D_").shape == (len(curve), 12)
    assert set(study.answer(options, results)) == {
        "excess_over_closed_forms", "dimensions_by_density"}  # fmt: skip


def test_a_finished_model_gives_what_it_encodes():
    """W x inside, W^T h + b before the rectifier."""
    W, b = jnp.array([[1.0, -1.0]]), jnp.array([0.5, 0.25])
    h = {"importance": jnp.float32(1)}
    f = finished(toy_model(2, 1), Params(W, b, {}, {}), {}, h)(jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(f.z, [[1.0]])
    np.testing.assert_allclose(f.x_hat, [[1.5, -0.75]])
