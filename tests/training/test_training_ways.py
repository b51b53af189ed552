"""Dense and sparse steps: which are taken, that it does not matter, and what is said."""

import platform
import warnings
from dataclasses import dataclass, replace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import Experiment, ToysaeError, make_world, run, train
from toysae.recovery.probe import recovery_probe
from toysae.sae import make_spec, sparse
from toysae.sae.activations import Activation, ReLU
from toysae.sae.encoders import Untied
from toysae.training import advance, start, ways
from toysae.training.devices import UNSPLIT, Split
from toysae.training.loop import train_ensemble
from toysae.training.members import make_ensemble
from toysae.training.ways import Ways, check_arithmetic

pytest.importorskip("numba")
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="not tried elsewhere")

D, S, BATCH, N_STEPS = 16, 128, 32, 400


def group_of(arithmetic, recipe="untied", seeds=(0, 1), **numbers):
    world = make_world("sphere", 0, d_in=D, n_features=32, l0=2.0)
    spec = make_spec(recipe, D, S, arithmetic=arithmetic)
    numbers = numbers or {"l1_coeff": [0.5, 0.7]}
    return make_ensemble([world], [0], spec, {"lr": 3e-3, **numbers}, seeds, BATCH)


def trained(group, **kwargs):
    return train_ensemble(group, N_STEPS, recovery_probe, 8, 256, **kwargs)


@pytest.fixture(scope="module")
def dense():
    return trained(group_of("dense"))


@pytest.fixture(scope="module")
def sparse_one():
    snapshots = []

    def keep(snapshot):
        copied = jax.tree.map(lambda leaf: np.array(leaf), (snapshot.state, snapshot.points))
        snapshots.append(replace(snapshot, state=copied[0], points=copied[1]))

    return trained(group_of("sparse"), on_chunk=keep), snapshots


def test_both_ways_train_the_same_saes_to_the_rounding_of_sums(dense, sparse_one):
    """Four SAEs on two devices, 200 sparse steps and more."""
    one, _ = sparse_one
    assert dense.ways == ((0, "dense"),)
    assert [way for _, way in one.ways] == ["dense", "sparse"]
    assert N_STEPS - one.ways[1][0] >= 200
    for a, b in zip(jax.tree.leaves(dense.saes), jax.tree.leaves(one.saes), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    np.testing.assert_allclose(dense.curves["mmcs"], one.curves["mmcs"], atol=1e-4)
    np.testing.assert_array_equal(dense.firings, one.firings)


def test_it_goes_on_from_any_snapshot_with_the_same_bits_and_the_same_way(sparse_one):
    whole, snapshots = sparse_one
    between = whole.ways[1][0]
    before = max((s for s in snapshots if s.step < between), key=lambda s: s.step)
    after = min((s for s in snapshots if s.step > between), key=lambda s: s.step)
    for snapshot in (before, after):
        again = trained(group_of("sparse"), resume=snapshot)
        assert again.ways == whole.ways
        for a, b in zip(jax.tree.leaves(whole.saes), jax.tree.leaves(again.saes), strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_goes_on_without_the_loops_says_that_it_was_dense_from_there(sparse_one, monkeypatch):
    """On another machine: what was sparse before stays told as such."""
    whole, snapshots = sparse_one
    after = min((s for s in snapshots if s.step > whole.ways[1][0]), key=lambda s: s.step)
    monkeypatch.setattr(Ways, "of", lambda ensemble, n_steps: Ways(False))
    again = trained(group_of("sparse"), resume=after)
    assert again.ways == (*whole.ways, (after.step, "dense"))
    np.testing.assert_allclose(again.curves["mmcs"], whole.curves["mmcs"], atol=1e-4)


@pytest.mark.parametrize("recipe", ["untied", "gated"])
def test_an_sae_that_diverges_is_seen(recipe, monkeypatch):
    """Its NaN is not read past by the loops, and the others train on."""
    monkeypatch.setattr(Ways, "look", lambda *_: False)
    monkeypatch.setattr(Ways, "of", lambda e, n: Ways(True, taken=[(0, "sparse")]))
    numbers = {"l1_coeff": 0.5, "lr": [3e-3, 1e30]}
    ended = trained(group_of("sparse", recipe, (0,), **numbers))
    assert ended.ways == ((0, "sparse"),) and ended.diverged.tolist() == [[False, True]]
    assert np.isfinite(ended.curves["loss"][0, 0, 1:]).all()


def test_who_asks_for_sparse_steps_is_told_that_there_were_none():
    with pytest.warns(UserWarning, match="every step was dense, as at no point .* than 10% of the"):
        ended = train_ensemble(group_of("sparse", seeds=(0,)), 3, recovery_probe, 1, 256)
    assert ended.ways == ((0, "dense"),)


def test_the_way_changes_in_either_direction_and_back():
    few, many = np.array([[1.0, 2.0]]), np.array([[1.0, 50.0]])
    taken = Ways(True, 0.1)
    assert [taken.look(step, l0, 100) for step, l0 in enumerate((many, few, few, many, few))] == [
        False, True, False, True, True,
    ]  # fmt: skip
    assert taken.taken == [(0, "dense"), (1, "sparse"), (3, "dense"), (4, "sparse")]
    assert not taken.look(5, few, 100)
    assert taken.look(6, np.array([[1.0, np.nan]]), 100)  # all of a diverged one may be active
    assert not Ways(False, 0.1).look(0, few, 100)


def test_which_way_is_chosen_by_size_and_by_work(monkeypatch):
    large, long = group_of("float32"), 10**7
    assert not Ways.of(large, long).is_free  # a decoder of 2,048 numbers
    monkeypatch.setitem(ways.SMALLEST, True, D * S)
    assert Ways.of(large, long).is_free and not Ways.of(large, 1000).is_free
    assert not Ways.of(group_of("dense"), long).is_free
    assert not Ways.of(group_of("bfloat16"), long).is_free
    assert not Ways.of(group_of("float32", "mlp"), long).is_free
    assert Ways.of(group_of("sparse"), 1).is_free
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not Ways.of(large, long).is_free


def test_float32_takes_sparse_steps_where_they_pay(monkeypatch, sparse_one):
    monkeypatch.setitem(ways.SMALLEST, True, D * S)
    monkeypatch.setattr(ways, "WORTH", 0)
    world = make_world("sphere", 0, d_in=D, n_features=32, l0=2.0)
    result = train(world, "untied", d_sae=S, l1_coeff=0.5, n_steps=N_STEPS, quiet=True, n_eval=1024)
    assert [way for _, way in result.trained.ways] == ["dense", "sparse"]


@pytest.fixture
def without_loops(monkeypatch):
    """As if Numba were not installed."""
    sparse.missing.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    yield
    sparse.missing.cache_clear()


def test_what_cannot_be_had_is_refused_if_asked_for(without_loops):
    with pytest.raises(ToysaeError, match=r"Numba is not installed: pip install numba"):
        group_of("sparse")


def test_what_would_pay_and_cannot_be_had_is_said(without_loops, monkeypatch):
    monkeypatch.setitem(ways.SMALLEST, True, D * S)
    with pytest.warns(UserWarning, match="would be faster here, but Numba is not installed"):
        assert not Ways.of(group_of("float32"), 10**7).is_free
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Ways.of(group_of("float32"), 1000)


def test_loops_that_fail_their_own_check_are_left_alone(monkeypatch):
    sparse.missing.cache_clear()
    monkeypatch.setattr(sparse, "_error", lambda: 1.0)
    assert sparse.missing() == "they fail their own check (an error of 1)"
    monkeypatch.setattr(sparse, "_error", lambda: 1 / 0)
    sparse.missing.cache_clear()
    assert sparse.missing() == "they cannot be loaded (ZeroDivisionError: division by zero)"
    sparse.missing.cache_clear()


@dataclass(frozen=True)
class ReLUOfTheUser(ReLU):
    """What ReLU says of itself does not hold of it."""

    def apply(self, pre_acts, act, run, h):
        return jnp.maximum(pre_acts, 0.01 * pre_acts)


@dataclass(frozen=True)
class UntiedOfTheUser(Untied):
    """Nor what Untied says."""


@dataclass(frozen=True)
class OfTheUser(Activation):
    """Lets a gradient through where it is off."""

    def apply(self, pre_acts, act, run, h):
        return jnp.maximum(pre_acts, 0.01 * pre_acts)


def test_what_sparse_steps_do_not_compute_is_named():
    spec = make_spec("untied", D, S, arithmetic="sparse")
    for changed, split, said in (
        (replace(spec, activation=OfTheUser()), UNSPLIT, "the activation OfTheUser does not say"),
        (
            replace(spec, activation=ReLUOfTheUser()),
            UNSPLIT,
            "the activation ReLUOfTheUser does not say",
        ),
        (replace(spec, encoder=UntiedOfTheUser()), UNSPLIT, "UntiedOfTheUser is not a single"),
        (make_spec("mlp", D, S, arithmetic="sparse"), UNSPLIT, "MLP is not a single affine map"),
        (spec, Split(batch=2), "each SAE stays on one device"),
    ):
        with pytest.raises(ToysaeError, match=said):
            check_arithmetic(changed, BATCH, split)
    check_arithmetic(spec, BATCH, UNSPLIT)


def test_programs_for_other_platforms_take_dense_products():
    group = group_of("float32")
    program = jax.export.export(advance, platforms=("cpu", "cuda", "tpu"))
    args = start(group), group.once_started(), jnp.int32(1), jnp.float32(5)
    assert "toysae_sparse" not in program(*args).mlir_module()
    taking = Ways(True, taken=[(0, "sparse")]).taking(group)
    assert taking.spec.arithmetic == "sparse"
    lowered = advance.lower(start(group), taking, jnp.int32(1), jnp.float32(5))
    assert "toysae_sparse_plain" in lowered.as_text()


def test_a_run_records_its_ways(tmp_path):
    e = Experiment(
        question="Which way?", worlds=("sphere",), d_in=D, ratios=(2,), l0=2.0, sizes=(4.0,),
        recipes=("untied",), l1_coeff=(0.5,), world_seeds=1, n_steps=N_STEPS, batch_size=BATCH,
        n_eval=1024, curve_points=8, figures=(), arithmetic="sparse", ceiling=False,
    )  # fmt: skip
    results = run(e, tmp_path / "out", quiet=True)
    (dense_from, first), (sparse_from, then) = results.manifest(0).any("ways")
    assert (dense_from, first, then) == (0, "dense", "sparse") and 0 < sparse_from < N_STEPS
