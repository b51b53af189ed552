"""Products with bfloat16 factors: rounded once, summed in float32, in every recipe."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from toysae import make_world, train
from toysae.errors import ToysaeError
from toysae.sae import RECIPES, make_spec
from toysae.sae.activations import TopK
from toysae.sae.arithmetic import product
from toysae.sae.component import Weights
from toysae.sae.encoders import affine
from toysae.training import advance, start, trained
from toysae.training.members import make_ensemble

RNG = np.random.default_rng(0)


def rounded(a):
    """What bfloat16 keeps of an array, in float64."""
    return np.asarray(a, np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


@pytest.mark.parametrize("shape", [(5, 3, 7), (16, 24, 8), (1, 1, 1)])
def test_the_factors_are_rounded_and_nothing_else(shape):
    n, k, m = shape
    a, b, g = RNG.normal(size=(n, k)), RNG.normal(size=(k, m)), RNG.normal(size=(n, m))
    out, back = jax.vjp(lambda a, b: product("bfloat16", a, b), jnp.float32(a), jnp.float32(b))
    grad_a, grad_b = back(jnp.float32(g))
    assert out.dtype == grad_a.dtype == grad_b.dtype == jnp.float32
    np.testing.assert_allclose(out, rounded(a) @ rounded(b), atol=1e-5)
    np.testing.assert_allclose(grad_a, rounded(g) @ rounded(b).T, atol=1e-5)
    np.testing.assert_allclose(grad_b, rounded(a).T @ rounded(g), atol=1e-5)


def test_float32_is_the_plain_product():
    a, b = jnp.float32(RNG.normal(size=(6, 4, 5))), jnp.float32(RNG.normal(size=(5, 3)))
    np.testing.assert_array_equal(product("float32", a, b), a @ b)


def test_members_share_the_left_factor_and_may_be_nested():
    x = jnp.float32(RNG.normal(size=(2, 9, 4)))
    W = jnp.float32(RNG.normal(size=(2, 3, 4, 6)))
    one = jax.grad(lambda W, x: jnp.sum(jnp.sin(product("bfloat16", x, W))))
    all_at_once = jax.vmap(jax.vmap(one, (0, None)))(W, x)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(all_at_once[i, j], one(W[i, j], x[i]), rtol=1e-5, atol=1e-5)


FEW = ("untied", "tied-gain", "gated", "gao-topk-2024", "matryoshka", "mlp")
ALL = {make_spec(name, 8, 16): name for name in RECIPES}.values()


@pytest.mark.parametrize(
    "name",
    [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in sorted({*FEW, *ALL})],
)
def test_every_recipe_takes_a_step(name):
    world = make_world("sphere", d_in=8, n_features=16, l0=2.0)
    steps = {}
    for arithmetic in ("float32", "bfloat16"):
        spec = replace(make_spec(name, 8, 16), arithmetic=arithmetic)
        group = make_ensemble([world], [0], spec, RECIPES[name].toy, range(2), 32)
        state = advance(start(group), group.once_started(), jnp.int32(2), jnp.float32(10))
        sae = trained(state, group.once_started())
        assert sae.weights.arithmetic == sae.spec.arithmetic == "float32"  # once trained
        steps[arithmetic] = np.asarray(state.loss)
    assert np.isfinite(steps["bfloat16"]).all()
    np.testing.assert_allclose(steps["bfloat16"], steps["float32"], rtol=0.05)


def test_an_unknown_arithmetic_is_refused():
    with pytest.raises(ToysaeError, match="unknown arithmetic 'bf16': did you mean 'bfloat16'"):
        replace(make_spec("untied", 4, 4), arithmetic="bf16")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["untied", "tied", "topk"])
def test_recovery_does_not_suffer(recipe):
    found = {}
    for arithmetic in ("float32", "bfloat16"):
        rows = []
        for seed in range(3):
            world = make_world("sphere", seed, d_in=32, n_features=64, l0=4.0)
            spec = replace(make_spec(recipe, 32, 64), arithmetic=arithmetic)
            numbers = {**RECIPES[recipe].toy, "lr": 3e-3}
            table = train(
                world, spec, n_steps=4000, sae_seeds=range(2), quiet=True, **numbers
            ).table
            rows.append(table.mmcs.mean())
        found[arithmetic] = np.mean(rows)
    assert abs(found["bfloat16"] - found["float32"]) < 0.02


def test_a_bias_that_is_taken_out_costs_no_digits():
    """TopK of x + 20 less 20 is that of x: k 2 stays 2, and the gradients are float32's."""
    x = jnp.float32(RNG.normal(size=(64, 8)))
    params = {"W": jnp.float32(RNG.normal(size=(8, 16))) / 8**0.5, "b": jnp.full(8, 20.0)}

    def codes(params, x, arithmetic):
        w = Weights(params["W"].T, params["b"], {}, {}, arithmetic)
        return affine(w, x, params["b"], params["W"])

    far = codes(params, x + 20, "bfloat16")
    near = codes({**params, "b": jnp.zeros(8)}, x, "bfloat16")
    np.testing.assert_allclose(far, near, atol=2e-2)
    assert (np.asarray(TopK().apply(far, {}, {}, {"k": jnp.float32(2)}) != 0).sum(1) == 2).all()
    loss = [jax.grad(lambda p, a=a: jnp.sin(codes(p, x + 20, a)).sum())(params)
            for a in ("float32", "bfloat16")]  # fmt: skip
    for name in params:
        np.testing.assert_allclose(loss[1][name], loss[0][name], atol=0.15, rtol=0.05)
