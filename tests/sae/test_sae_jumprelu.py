"""JumpReLU: forward exact; gradients against the published surrogate, worked in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.sae import Weights, forward, make_spec
from toysae.sae.activations import ReLU
from toysae.sae.jumprelu import JumpReLU, bell, heaviside_ste, jump_relu, rectangle
from toysae.sae.penalties import L1, Sum
from toysae.training import advance, start, trained
from toysae.training.members import make_ensemble
from toysae.worlds import make_world

N, S, D = 300, 7, 5
KERNELS = {
    "step": lambda u: (np.abs(u) < 0.5).astype(float),
    "tanh": lambda u: 1 / np.cosh(2 * u) ** 2,
}


def f32(a):
    return jnp.asarray(a, jnp.float32)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    pre = rng.normal(size=(N, S)) * 0.5
    return pre, rng.uniform(0.05, 0.6, S), rng.normal(size=(N, S))


@pytest.mark.parametrize("function", [jump_relu, heaviside_ste])
@pytest.mark.parametrize("surrogate", KERNELS)
def test_the_forward_pass_is_exact(arrays, function, surrogate):
    pre, theta, _ = (np.float32(a) for a in arrays)
    found = function(f32(pre), f32(theta), 0.3, surrogate, True)
    fires = pre > theta
    assert 0.05 < fires.mean() < 0.5
    np.testing.assert_array_equal(found, np.where(fires, pre if function is jump_relu else 1, 0))


def test_a_pre_activation_at_its_threshold_does_not_fire():
    at = f32([[0.25, 0.5]])
    assert not np.asarray(jump_relu(at, at[0], 0.1)).any()
    assert not np.asarray(heaviside_ste(at, at[0], 0.1)).any()


@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("surrogate", KERNELS)
@pytest.mark.parametrize("bandwidth", [0.02, 0.4])
def test_gradients_are_the_published_ones(arrays, surrogate, bandwidth, to_input):
    pre, theta, out = arrays

    def pulled(function):
        def loss(pre, theta, width):
            return jnp.sum(function(pre, theta, width, surrogate, to_input) * f32(out))

        return jax.grad(loss, (0, 1, 2))(f32(pre), f32(theta), f32(bandwidth))

    kernel = KERNELS[surrogate]((pre - theta) / bandwidth) / bandwidth
    assert (kernel > 1e-3).any(0).all()
    by_pre, by_theta, by_width = pulled(jump_relu)  # eq. 11
    np.testing.assert_allclose(by_theta, (-theta * kernel * out).sum(0), rtol=2e-4, atol=1e-4)
    expected = out * (pre > theta) + to_input * theta * kernel * out
    np.testing.assert_allclose(by_pre, expected, rtol=2e-4, atol=1e-4)
    assert by_width == 0
    by_pre, by_theta, by_width = pulled(heaviside_ste)  # eq. 12
    np.testing.assert_allclose(by_theta, (-kernel * out).sum(0), rtol=2e-4, atol=2e-3)
    np.testing.assert_allclose(by_pre, to_input * kernel * out, rtol=2e-4, atol=1e-3)
    assert by_width == 0


def test_the_gradient_to_pre_acts_equals_finite_differences_away_from_the_jump(arrays):
    pre, theta, out = arrays
    clear = np.abs(pre - theta) > 0.02
    grad = jax.grad(lambda p: jnp.sum(jump_relu(p, f32(theta), 0.1) * f32(out)))(f32(pre))

    def z(pre):
        return pre * (pre > theta)

    slope = (z(pre + 1e-3) - z(pre - 1e-3)) / 2e-3 * out
    np.testing.assert_allclose(grad[clear], slope[clear], atol=1e-5)


@pytest.mark.parametrize("surrogate", KERNELS)
def test_over_spread_pre_activations_the_surrogate_is_the_true_derivative(surrogate):
    # E[pre H(pre - theta)] for pre uniform on [0, 1] is (1 - theta^2) / 2, of derivative -theta;
    # E[H] is 1 - theta, of derivative -1. The estimators are unbiased wherever K fits in [0, 1].
    pre = (np.arange(20000) + 0.5)[:, None] / 20000
    for theta in (0.3, 0.5):
        at = f32([theta])
        slope = jax.grad(lambda t: jump_relu(f32(pre), t, 0.1, surrogate).mean())(at)
        assert float(slope[0]) == pytest.approx(-theta, rel=2e-3)
        slope = jax.grad(lambda t: heaviside_ste(f32(pre), t, 0.1, surrogate).mean())(at)
        assert float(slope[0]) == pytest.approx(-1, rel=2e-3)


@pytest.mark.parametrize("kernel", [rectangle, bell])
def test_kernels_have_unit_area_and_height(kernel):
    u = np.linspace(-6, 6, 120001)
    assert np.asarray(kernel(f32(u)), np.float64).sum() * 1e-4 == pytest.approx(1, abs=1e-3)
    assert float(kernel(f32(0.0))) == 1


def test_the_activation_in_a_forward_pass_and_the_gradient_to_its_parameter():
    rng = np.random.default_rng(1)
    x, W, theta = rng.normal(size=(N, D)), rng.normal(size=(D, S)), rng.uniform(0.1, 1, S)
    spec = make_spec("untied", D, S, activation=JumpReLU())
    h = {"bandwidth": f32(0.5)}
    w = Weights(f32(W.T), None, {"W_enc": f32(W), "b_enc": jnp.zeros(S)})

    def run(log_threshold):
        act = {"log_threshold": log_threshold}
        return forward(spec, w.replace(act=act), {"progress": f32(1)}, h, f32(x))

    pre = x @ W
    z = pre * (pre > theta)
    f = run(f32(np.log(theta)))
    np.testing.assert_allclose(f.z, z, atol=1e-5)
    np.testing.assert_allclose(f.x_hat, z @ W.T, atol=1e-4)
    grad = jax.grad(lambda t: jnp.sum(run(t).z))(f32(np.log(theta)))
    # The chain rule through exp gives theta once more.
    by_theta = -(theta / 0.5 * (np.abs((pre - theta) / 0.5) < 0.5)).sum(0)
    np.testing.assert_allclose(grad, theta * by_theta, rtol=1e-4)


def test_it_starts_at_threshold_init_and_declares_what_it_reads():
    act = JumpReLU().init(4, {"threshold_init": f32(0.07)})
    np.testing.assert_allclose(np.exp(act["log_threshold"]), np.full(4, 0.07), rtol=1e-6)
    assert ReLU().init(4, {}) == {}
    spec = make_spec("untied", D, S, activation=JumpReLU("tanh"))
    assert {"bandwidth", "threshold_init"} <= set(spec.hypers())
    assert spec.hypers()["bandwidth"].default == spec.hypers()["threshold_init"].default == 1e-3
    assert spec.at_inference().activation == spec.activation
    with pytest.raises(ToysaeError, match=r"unknown surrogate 'tan': did you mean 'tanh'"):
        JumpReLU("tan")  # type: ignore[arg-type]


def test_it_trains_with_a_bandwidth_for_each_member_in_one_program():
    world = make_world("sphere", 0, d_in=16, n_features=32, l0=2.0)
    spec = make_spec("untied", 16, 32, activation=JumpReLU(), penalty=Sum((L1(),)))
    sizes, states = [], []
    for widths in ([0.1, 0.1, 0.3], [0.01, 0.2, 0.4]):
        h = {"l1_coeff": 0.05, "lr": 3e-3, "bandwidth": widths, "threshold_init": 0.1}
        group = make_ensemble([world], [0], spec, h, [0], 64)
        state = start(group)
        group = group.once_started()
        first = np.asarray(state.members.params.act["log_threshold"])
        np.testing.assert_allclose(first, np.log(0.1), rtol=1e-5)
        state = advance(state, group, jnp.int32(1), jnp.float32(150))
        before = np.asarray(state.loss)
        state = advance(state, group, jnp.int32(150), jnp.float32(150))
        sizes.append(advance._cache_size())
        assert (np.asarray(state.loss) < 0.8 * before).all()
        states.append(np.exp(np.asarray(state.members.params.act["log_threshold"]))[0])
    assert len(set(sizes)) == 1
    same = np.abs(states[0][0] - states[0][1]).max()
    assert same == 0 and np.abs(states[0][0] - states[0][2]).max() > 1e-2
    assert np.abs(states[0] - 0.1).mean() > 5e-3  # thresholds are learned
    sae = trained(state, group)
    assert sae.weights.act["log_threshold"].shape == (1, 3, 32)
