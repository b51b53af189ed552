"""Kernels that never write the codes: loss, gradients and training are those of plain products."""

from contextlib import nullcontext
from dataclasses import replace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError, make_world, train
from toysae.sae import AbsTopK, Denoising, FrequencyAware, Plain, SAESpec, Tied, make_spec
from toysae.sae.decoders import Free, UnitNorm
from toysae.sae.fused import check_fused
from toysae.sae.kernels import fused_loss
from toysae.sae.penalties import L1, L1DecoderNorm, Sum
from toysae.sae.tiles import tile_of
from toysae.training import advance, start
from toysae.training.devices import Split, layout_of
from toysae.training.ensemble import spread_ensemble
from toysae.training.members import make_ensemble
from toysae.training.state import member_loss

D, S, BATCH = 16, 96, 32
SPECS = {
    "untied": make_spec("untied", D, S),
    "norms": make_spec("anthropic-april-2024", D, S),
    "no bias": SAESpec(D, S, UnitNorm(bias="none"), Tied(), penalty=Sum()),
    "two costs": SAESpec(D, S, Free(bias="post"), penalty=Sum((L1DecoderNorm(), L1DecoderNorm()))),
}


def ensemble(spec, seeds=(0, 1), batch=BATCH):
    world = make_world("sphere", 0, d_in=spec.d_in, n_features=32, l0=2.0)
    numbers = {"l1_coeff": 0.1} if "l1_coeff" in spec.hypers() else {}
    return make_ensemble([world], [0], spec, {**numbers, "lr": 3e-3}, seeds, batch)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_loss_and_gradients_are_those_of_plain_products(spec):
    group = ensemble(spec, [0])
    members, h = jax.tree.map(lambda leaf: leaf[0, 0], start(group).members), group.hypers
    h = {name: value[0] for name, value in h.items()}
    params = jax.tree.map(lambda leaf: leaf + 0.05, members.params)  # a bias that is not 0
    x = group.worlds.sample(jax.random.key(0), BATCH).x[0]

    def of(arithmetic):
        one = replace(spec, arithmetic=arithmetic)
        run = {**members.run, "progress": jnp.float32(0.5)}
        return jax.value_and_grad(member_loss, argnums=1, has_aux=True)(
            one, params, run, h, jax.random.key(0), x
        )

    (plain, _), expected = of("float32")
    with pytest.warns(UserWarning, match="for GPUs and TPUs: on a CPU an interpreter"):
        (fused, stats), found = of("fused")
    assert fused == pytest.approx(float(plain), rel=1e-6) and stats == {}
    for name, one in zip("WDEcb", jax.tree.leaves(expected), strict=False):
        assert np.abs(one).max() > 1e-3, name
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), expected, found)


def test_an_ensemble_trains_as_with_plain_products():
    ended = {}
    for arithmetic in ("float32", "fused"):
        group = ensemble(replace(SPECS["untied"], arithmetic=arithmetic))
        layout = layout_of(1, 2)
        group = spread_ensemble(group, layout)
        state = advance(
            start(group, layout), group.once_started(), jnp.int32(20), jnp.float32(20), layout
        )
        ended[arithmetic] = state.members.params
    plain, fused = (jax.tree.leaves(ended[name]) for name in ("float32", "fused"))
    for one, other in zip(plain, fused, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def as_if_on(platform):
    """A device to lower kernels for, which jax asks for since 0.12."""
    if platform != "cuda" or jax.__version__.startswith("0.10."):
        return nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=132, platform="cuda")
    mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


@pytest.mark.parametrize(("backend", "platform"), [("gpu", "cuda"), ("tpu", "tpu")])
def test_the_kernels_are_lowered_and_no_code_is_in_memory(monkeypatch, backend, platform):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    shapes = (BATCH, D), (S, D), (S,), (S, D), (D,), (S,)
    args = [jax.ShapeDtypeStruct((2, *shape), jnp.float32) for shape in shapes]
    grads = jax.vmap(jax.value_and_grad(fused_loss, argnums=(1, 2, 3, 4, 5)))
    every = jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    with as_if_on(platform):
        text = jax.export.export(
            jax.jit(lambda *a: grads(*a)), platforms=[platform], disabled_checks=[every]
        )(*args).mlir_module()
    assert text.count("stablehlo.custom_call") == 2
    assert f"{BATCH}x{S}xf32" not in text and f"{S}x{BATCH}xf32" not in text


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_plain_loss():
    test_loss_and_gradients_are_those_of_plain_products(SPECS["untied"])


def test_tiles_divide():
    assert [tile_of(n) for n in (1, 16, 48, 64, 96, 128, 100)] == [1, 16, 16, 64, 32, 64, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": AbsTopK()}, "computes activation ReLU alone, not AbsTopK"),
        (
            {"penalty": Sum((FrequencyAware(L1()),))},
            "L1 or L1DecoderNorm alone, not FrequencyAware",
        ),
        ({"objective": Denoising(Plain())}, "objective Plain alone, not Denoising"),
        ({"d_sae": 100}, "a d_sae that 16 divides, not 100"),
        ({"d_in": 48}, "a d_in that is a power of two and at most 256, not 48"),
        ({"d_in": 512}, "at most 256, not 512"),
    ],
)
def test_what_they_do_not_compute_is_refused_by_name(change, message):
    with pytest.raises(ToysaeError, match=message):
        check_fused(replace(SPECS["untied"], **change), BATCH, 1)


def test_it_is_refused_before_anything_trains(tmp_path):
    world = make_world("sphere", 0, d_in=16, n_features=32, l0=2.0)
    fused = {"arithmetic": "fused", "n_steps": 5, "quiet": True}
    with pytest.raises(ToysaeError, match="batch_size that 16 divides, not 100"):
        train(world, "untied", l1_coeff=0.1, batch_size=100, **fused)
    with pytest.raises(ToysaeError, match="does not follow .*, which resampling reads"):
        train(world, "untied-resampled", l1_coeff=0.1, **fused)
    with pytest.raises(ToysaeError, match="each SAE on one device"):
        train(world, "untied", l1_coeff=0.1, split=Split(1, 2), **fused)
    with pytest.raises(ToysaeError, match="unknown arithmetic 'fussed': did you mean 'fused'"):
        train(world, "untied", l1_coeff=0.1, **{**fused, "arithmetic": "fussed"})
    with pytest.raises(ToysaeError, match="computes activation ReLU alone, not TopK"):
        train(world, "topk", k=4, **fused)
