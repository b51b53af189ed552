"""Products over active latents alone: those of dense ones, but for the order of sums."""

import platform
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import make_world
from toysae.sae import RECIPES, make_spec, sparse
from toysae.training import start
from toysae.training.devices import UNSPLIT
from toysae.training.members import make_ensemble
from toysae.training.optimiser import declared
from toysae.training.state import member_loss
from toysae.training.ways import _dense_alone

D, S, BATCH = 8, 32, 24

pytest.importorskip("numba")
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="not tried elsewhere")


@pytest.fixture(autouse=True)
def loops():
    """They are known to jax once it is asked whether there are any."""
    sparse.missing()


def test_the_loops_are_there_and_pass_their_own_check():
    assert sparse.missing() == "" and sparse._error() < 1e-6


def draw(*shape, seed=0, share=1.0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape) * (rng.random(shape) < share), jnp.float32)


SHARES = {"none": 0.0, "few": 0.1, "all": 1.0}


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize(("n", "d_sae", "d_in"), [(1, 1, 1), (1, 9, 4), (7, 33, 5), (40, 3, 17)])
def test_reconstructions_and_gradients_are_numpys(n, d_sae, d_in, share):
    z, W, r = draw(n, d_sae, share=share), draw(d_sae, d_in, seed=1), draw(n, d_in, seed=2)
    x_hat, back = jax.vjp(sparse.decoding_product, z, W)
    dz, dW = back(r)
    as_floats = (np.asarray(array, np.float64) for array in (z, W, r))
    z, W, r = as_floats
    np.testing.assert_allclose(x_hat, z @ W, atol=1e-5)
    np.testing.assert_allclose(dz, np.where(z != 0, r @ W.T, 0), atol=1e-5)
    np.testing.assert_allclose(dW, z.T @ r, atol=1e-4)


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_gradients_of_an_encoder_are_numpys(share):
    x, W, g = draw(7, 5), draw(5, 33, seed=1), draw(7, 33, seed=2, share=share)
    pre_acts, back = jax.vjp(sparse.encoding_product, x, W)
    dx, dW = back(g)
    np.testing.assert_array_equal(pre_acts, x @ W)
    np.testing.assert_allclose(dW, np.asarray(x.T) @ np.asarray(g), atol=1e-5)
    np.testing.assert_allclose(dx, np.asarray(g) @ np.asarray(W.T), atol=1e-5)


def test_a_gradient_reaches_silent_latents_that_are_live():
    z, W, live = draw(7, 9, share=0.3), draw(9, 4, seed=1), draw(7, 9, seed=3, share=0.5)
    dz = jax.grad(lambda z: sparse.decoding_product(z, W, live).sum())(z)
    expected = np.where(live != 0, np.asarray(W).sum(1), 0)
    np.testing.assert_allclose(dz, expected, atol=1e-5)
    assert ((np.asarray(z) == 0) & (expected != 0)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad):
    """As after a step that was too long: it is how a diverged SAE is told."""
    z, W = draw(5, 9, share=0.3).at[2, 4].set(bad), draw(9, 4, seed=1)
    found, expected = sparse.decoding_product(z, W), z @ W
    assert not np.isfinite(expected[2]).any()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    x, zeros = draw(5, 4, seed=2), jnp.zeros(9)
    for args in ((x, z, W, zeros, W), (x.at[1].set(bad), draw(5, 9), W, zeros, W)):
        assert not np.isfinite(sparse.plain_loss(*args, jnp.zeros(4), zeros + 1))


def test_leading_axes_are_those_of_vmap_whichever_arrays_have_them():
    """As worlds and members have them: x without members, an SAE of each."""
    x, z = draw(2, 6, 4), draw(2, 3, 6, 9, share=0.3)
    D, W = draw(2, 3, 9, 4, seed=1), draw(3, 4, 9, seed=2)

    def loss(decode, encode, D, W, z, x):
        return jnp.sum((decode(z * jax.nn.relu(encode(x, W)), D) - x) ** 2)

    def gradients(*products):
        one = jax.grad(lambda *args: loss(*products, *args), (0, 1))
        each = jax.vmap(jax.vmap(one, (0, 0, 0, None)), (0, None, 0, 0))
        return jax.jit(each)(D, W, z, x)

    found, expected = (
        gradients(sparse.decoding_product, sparse.encoding_product),
        gradients(jnp.matmul, jnp.matmul),
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_any_batch_axes_will_do():
    z, W = draw(2, 3, 9, share=0.3), draw(9, 4, seed=1)
    np.testing.assert_allclose(sparse.decoding_product(z, W), z @ W, atol=1e-5)
    np.testing.assert_allclose(sparse.decoding_product(z[0, 0], W), z[0, 0] @ W, atol=1e-5)
    np.testing.assert_array_equal(sparse.encoding_product(z, W), z @ W)


def test_arrays_of_another_type_are_not_read_as_what_they_are_not():
    z, W = draw(5, 9, share=0.3), draw(9, 4, seed=1)
    coarse = z.astype(jnp.bfloat16)
    found = sparse.decoding_product(coarse, W)
    np.testing.assert_allclose(found, coarse.astype(jnp.float32) @ W, atol=1e-5)


SPARSE = [name for name in RECIPES if not _dense_alone(make_spec(name, D, S), UNSPLIT)]
PROGRAMS = {make_spec(name, D, S).once_started(): name for name in reversed(SPARSE)}


def test_most_recipes_have_sparse_steps():
    others = {name: _dense_alone(make_spec(name, D, S), UNSPLIT) for name in RECIPES}
    others = {name: reason for name, reason in others.items() if reason}
    assert len(SPARSE) > 30 and {"fista", "mlp", "lista"} <= set(others)
    assert all("affine" in reason or "flat" in reason for reason in others.values())


@pytest.mark.rotation(2)
@pytest.mark.parametrize("name", list(PROGRAMS.values())[::-1])
def test_loss_and_gradients_are_those_of_dense_products(name):
    """With latents that are dead, and in a batch in which one sample is 0."""
    spec = make_spec(name, D, min(S, D) if "orthogonal" in name else S, "random")
    world = make_world(RECIPES[name].easy, 0, d_in=D, n_features=D, l0=1.5)
    toy = RECIPES[name].toy
    numbers = {n: value for n, value in toy.items() if n in declared(spec, toy)}
    group = make_ensemble([world], [0], spec, numbers, [0], BATCH)
    members, h = jax.tree.map(lambda leaf: leaf[0, 0], start(group).members), group.hypers
    h = {number: value[0] for number, value in h.items()}
    dead = np.zeros(spec.d_sae, np.float32)
    dead[:3] = -100
    shifted = {n: v + dead if n.startswith("b_") else v for n, v in members.params.enc.items()}
    params = replace(members.params, enc=shifted)
    x = group.worlds.sample(jax.random.key(0), BATCH).x[0].at[1].set(0)
    run = {stat: value + 1000 * ("steps" in stat) for stat, value in members.run.items()}
    run["progress"] = jnp.float32(0.5)

    def of(arithmetic):
        one = replace(spec, arithmetic=arithmetic)
        grad = jax.value_and_grad(member_loss, argnums=1, has_aux=True)
        return jax.jit(grad, static_argnums=0)(one, params, run, h, jax.random.key(0), x)

    (loss, stats), expected = of("float32")
    (found_loss, found_stats), found = of("sparse")
    assert found_loss == pytest.approx(float(loss), rel=1e-5)
    for one, other in zip(jax.tree.leaves(stats), jax.tree.leaves(found_stats), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5 * float(jnp.abs(one).max()))


def test_a_hundred_thousand_calls_hold_no_memory():
    import resource

    z, W = draw(4, 16, share=0.3), draw(16, 4, seed=1)

    @jax.jit
    def many(z):
        body = lambda i, z: 0.5 * z + 0 * jax.grad(lambda z: sparse.decoding_product(z, W).sum())(z)  # noqa: E731
        return jax.lax.fori_loop(0, 100_000, body, z)

    jax.block_until_ready(many(z))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    jax.block_until_ready(many(z))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2048  # KiB
