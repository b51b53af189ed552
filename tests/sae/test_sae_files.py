"""SAE files: bit-identical for every recipe, and one-line errors for what is wrong with them."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from toysae import ToysaeError
from toysae.sae import (
    SAE,
    InitData,
    Never,
    SAESpec,
    finished,
    init_params,
    init_stats,
    make_spec,
)
from toysae.sae.activations import ReLU
from toysae.sae.files import load_sae, save_sae
from toysae.sae.frozen import SoftFrozen

D, S = 5, 9
NUMBERS = {"k": 2.0, "l1_coeff": 0.1, "l0_target": 2.0}


def make_sae(recipe="untied", **axes) -> SAE:
    """An SAE whose every array differs from its start."""
    rng = np.random.default_rng(0)
    spec = make_spec(recipe, D, S, **axes)
    x, truth = rng.normal(size=(64, D)), rng.normal(size=(S, D))
    data = InitData(*(jnp.asarray(a, jnp.float32) for a in (x, truth.T, truth)))
    h = {
        name: jnp.float32(NUMBERS.get(name, 1.0) if hyper.default is None else hyper.default)
        for name, hyper in spec.hypers().items()
    }
    params = init_params(spec, jax.random.key(0), data, h)
    params = jax.tree.map(lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32), params)
    run = jax.tree.map(lambda a: a + np.float32(0.3), init_stats(spec))
    return finished(spec, params, run, h)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_sae(make_sae(), tmp_path_factory.mktemp("sae") / "sae.safetensors")


def test_every_recipe_comes_back_bit_for_bit(program, tmp_path):
    sae = make_sae(program)
    again = load_sae(save_sae(sae, tmp_path / "new" / "sae.safetensors"))
    assert again.spec == sae.spec and hash(again.spec) == hash(sae.spec)
    assert jax.tree.structure(again) == jax.tree.structure(sae)
    for old, new in zip(jax.tree.leaves(sae), jax.tree.leaves(again), strict=True):
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(np.asarray(old), np.asarray(new))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(7, D)), jnp.float32)
    np.testing.assert_array_equal(sae(x).x_hat, again(x).x_hat)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["sae.safetensors"]


def test_a_soft_frozen_decoder_is_saved_as_its_rows(tmp_path):
    sae = make_sae(decoder=SoftFrozen(min_cos=0.9))
    again = load_sae(save_sae(sae, tmp_path / "a"))
    assert again.W_dec.shape == (S, D) and again.spec.decoder == SoftFrozen(min_cos=0.9)


def test_a_file_of_before_never_resampling_had_a_name_is_read(saved, tmp_path):
    """Files held none for it, as calls may."""
    old = edit(saved, tmp_path / "old", lambda t, h: h["spec"]["fields"].update(resample=None))
    assert load_sae(old).spec == load_sae(saved).spec
    assert load_sae(old).spec.resample == Never() == SAESpec(D, S, resample=None).resample


def test_an_ensemble_is_refused(tmp_path):
    ensemble = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), make_sae())
    with pytest.raises(ToysaeError, match=r"W_dec has shape \[3, 9, 5\]: save one SAE"):
        save_sae(ensemble, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def edit(source, target, change):
    """Rewrites a file after `change(tensors, header)`."""
    with safe_open(source, framework="numpy") as file:
        header = json.loads(file.metadata()["toysae_sae"].split("\n")[0])  # less the checksum
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, header)
    save_file(tensors, target, {"toysae_sae": json.dumps(header)})
    return target


def drop_both(name):
    def change(tensors, header):
        del tensors[name], header["tensors"][name]

    return change


def reshape(name, shape):
    def change(tensors, header):
        tensors[name] = np.zeros(shape, np.float32)
        header["tensors"][name]["shape"] = list(shape)

    return change


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


FISTA_FOR_EVER = {"part": "FISTA", "fields": {"n_iterations": 10**9}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h: t.pop("weights.enc.b_enc"), "tensor weights.enc.b_enc is missing"),
        (lambda t, h: t.update(more=np.zeros(2)), "a tensor that its header does not name: more"),
        (lambda t, h: t.update({"weights.b_dec": np.zeros(3, np.float32)}),
         r"tensor weights.b_dec is .*\[3\].*its header says .*\[5\]"),
        (lambda t, h: t.update({"weights.b_dec": np.zeros(5)}), "float64.*its header says.*float3"),
        (lambda t, h: h.update(version=2), "format version 2, this toysae reads 1..1: upgrade"),
        (lambda t, h: h.update(version="1"), "version '1' is not a whole number"),
        (lambda t, h: h["spec"]["fields"]["encoder"].update(part="Untid"),
         "has a component 'Untid' that is not loaded: define that class first"),
        (lambda t, h: h["spec"]["fields"]["encoder"].update(part="os.system"),
         "has a component 'os"),
        (lambda t, h: h["spec"]["fields"]["decoder"]["fields"].update(bia="pre"),
         "unknown field of UnitNorm 'bia': did you mean 'bias'"),
        (lambda t, h: h["spec"]["fields"].update(d_sae=-1), "d_sae -1 is out of range"),
        (lambda t, h: h["spec"]["fields"].update(d_sae=8), "weights.W_dec is .*not .d_sae 8"),
        (lambda t, h: h["spec"]["fields"]["decoder"]["fields"].update(bias="none"),
         "decoder bias 'none' needs None"),
        (lambda t, h: h.pop("spec"), "its header has no field 'spec'"),
        (lambda t, h: h.update(spec=3), "holds no SAESpec"),
        (lambda t, h: h.update(spec=nested(600)), "its spec is nested more than 100 deep: save it"),
        (lambda t, h: h["spec"]["fields"].update(encoder=FISTA_FOR_EVER),
         "n_iterations 1,000,000,000 is out of range: write 1 to 100,000"),
        (drop_both("weights.enc.W_enc"), "do not fit its spec .*W_enc.* is missing"),
        (drop_both("weights.W_dec"), "weights.W_dec is missing"),
        (reshape("weights.enc.W_enc", (4, 9)), "do not fit its spec"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(saved, tmp_path, change, message):
    path = edit(saved, tmp_path / "bad.safetensors", change)
    with pytest.raises(ToysaeError, match=message) as error:
        load_sae(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "every", [61, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_flipped_bit_of_any_byte_is_refused(saved, every, refused_flips):
    assert refused_flips(load_sae, saved, every) == -(-saved.stat().st_size // every)


def test_other_files_are_refused(saved, tmp_path):
    with pytest.raises(ToysaeError, match="there is no SAE file"):
        load_sae(tmp_path / "none")
    save_file({"a": np.zeros(2)}, tmp_path / "plain")
    with pytest.raises(ToysaeError, match="is not an SAE file: write one with save_sae"):
        load_sae(tmp_path / "plain")
    data = saved.read_bytes()
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    with pytest.raises(ToysaeError, match="half is truncated or not an SAE file"):
        load_sae(tmp_path / "half")


def test_a_failed_write_leaves_the_old_file(saved, tmp_path, monkeypatch):
    path = save_sae(make_sae(), tmp_path / "sae")
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("toysae.disk.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_sae(make_sae("tied"), path)
    assert path.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["sae"]


def test_a_part_that_was_defined_again_counts_once(tmp_path):
    """As in a notebook, whose cells run again."""

    def defined():
        @dataclass(frozen=True)
        class Again(ReLU):
            pass

        return make_sae(activation=Again())

    old, new = defined(), defined()
    assert load_sae(save_sae(new, tmp_path / "new")).spec == new.spec
    with pytest.raises(ToysaeError, match="is a Again, which an SAE file cannot hold"):
        save_sae(old, tmp_path / "old")
