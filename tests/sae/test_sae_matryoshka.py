"""Matryoshka and denoising objectives against losses computed prefix by prefix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from toysae.errors import ToysaeError
from toysae.keys import named_key
from toysae.sae import (
    Denoising,
    Matryoshka,
    MatryoshkaRandom,
    SAESpec,
    Weights,
    forward,
    make_spec,
)
from toysae.sae.objectives import Plain
from toysae.training import advance, start
from toysae.training.members import make_ensemble
from toysae.worlds import make_world

D, S, N = 6, 12, 30
WIDTHS = (2, 5, 12)
SPEC = make_spec("untied", D, S)
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
PARAMS = {"W_dec": RNG.normal(size=(S, D)), "W_enc": RNG.normal(size=(D, S)),
          "b_enc": 0.3 * RNG.normal(size=S), "b_dec": RNG.normal(size=D)}  # fmt: skip
X = RNG.normal(size=(N, D))
H = {"prefix_alpha": jnp.float32(0.5)}


def f32(a):
    return jnp.asarray(a, jnp.float32)


def passed(p):
    w = Weights(p["W_dec"], p["b_dec"], {"W_enc": p["W_enc"], "b_enc": p["b_enc"]})
    return forward(SPEC, w, {"progress": f32(1)}, {}, f32(X))


def prefix_losses(p, widths):
    """In float64 NumPy."""
    z = np.maximum((X - p["b_dec"]) @ p["W_enc"] + p["b_enc"], 0)
    return [((X - z[:, :m] @ p["W_dec"][:m] - p["b_dec"]) ** 2).sum(1).mean() for m in widths]


def loss_and_grad(objective, key=KEY):
    def loss(p):
        return objective.loss(key, f32(X), passed(p), H)

    return jax.jit(jax.value_and_grad(loss))(jax.tree.map(f32, PARAMS))


def plain_grad(width):
    """Of the loss of one prefix, every other latent absent."""

    def loss(p):
        w = p["W_dec"][:width]
        z = jax.nn.relu((f32(X) - p["b_dec"]) @ p["W_enc"] + p["b_enc"])[:, :width]
        return jnp.sum((f32(X) - z @ w - p["b_dec"]) ** 2, -1).mean()

    return jax.jit(jax.grad(loss))(jax.tree.map(f32, PARAMS))


def close(found, expected):
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0)])
def test_the_loss_is_the_sum_over_prefixes(weights):
    value, grad = loss_and_grad(Matryoshka(WIDTHS, weights))
    factors = weights or (1, 1, 1)
    expected = np.dot(factors, prefix_losses(PARAMS, WIDTHS))
    assert float(value) == pytest.approx(expected, rel=1e-5)
    parts = [plain_grad(m) for m in WIDTHS]
    close(grad, {n: sum(c * p[n] for c, p in zip(factors, parts, strict=True)) for n in grad})


def test_one_prefix_is_the_plain_loss():
    for objective in (Matryoshka((S,)), Matryoshka((S,), detach=True), MatryoshkaRandom(1)):
        value, grad = loss_and_grad(objective)
        plain, expected = loss_and_grad(Plain())
        assert float(value) == pytest.approx(float(plain), rel=1e-5)
        close(grad, expected)


def test_detached_prefixes_train_only_what_they_add():
    value, grad = loss_and_grad(Matryoshka(WIDTHS, detach=True))
    assert float(value) == pytest.approx(sum(prefix_losses(PARAMS, WIDTHS)), rel=1e-5)
    parts = [plain_grad(m) for m in WIDTHS]
    for (low, high), part in zip([(0, 2), (2, 5), (5, 12)], parts, strict=True):
        np.testing.assert_allclose(grad["W_dec"][low:high], part["W_dec"][low:high], rtol=1e-3,
                                   atol=1e-4)  # fmt: skip
        np.testing.assert_allclose(grad["W_enc"][:, low:high], part["W_enc"][:, low:high],
                                   rtol=1e-3, atol=1e-4)  # fmt: skip


def test_random_prefixes_sum_the_losses_of_their_widths():
    objective = MatryoshkaRandom(4)
    widths = np.asarray(objective.widths(KEY, S, H))
    assert widths.shape == (4,) and widths[-1] == S and 1 <= widths.min() <= widths.max() <= S
    assert (widths != objective.widths(jax.random.key(1), S, H)).any()
    value, grad = loss_and_grad(objective)
    assert float(value) == pytest.approx(sum(prefix_losses(PARAMS, widths)), rel=1e-5)
    parts = [plain_grad(int(m)) for m in widths]
    close(grad, {n: sum(p[n] for p in parts) for n in grad})


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_random_widths_follow_the_pareto_law(alpha):
    widths = MatryoshkaRandom(20_001).widths(KEY, S, {"prefix_alpha": f32(alpha)})
    law = np.arange(1, S + 1.0) ** -(1 + alpha)
    counts = np.bincount(np.asarray(widths)[:-1], minlength=S + 1)[1:]
    assert chisquare(counts, 20_000 * law / law.sum()).pvalue > 1e-3


def test_denoising_corrupts_what_the_encoder_sees_alone():
    objective = Denoising(Matryoshka(WIDTHS))
    x = jnp.zeros((20_000, 4))
    seen = np.asarray(objective.corrupt(KEY, x, {"noise": f32(0.3)}))
    assert seen.std() == pytest.approx(0.3, rel=0.02) and abs(seen.mean()) < 0.01
    np.testing.assert_array_equal(objective.corrupt(KEY, x, {"noise": f32(0.0)}), x)
    f = passed(jax.tree.map(f32, PARAMS))
    for one in (objective, Matryoshka(WIDTHS)):
        value = float(one.loss(KEY, f32(X), f, H))
        assert value == pytest.approx(sum(prefix_losses(PARAMS, WIDTHS)), rel=1e-5)


def test_the_corruption_is_not_the_worlds_own_noise():
    """Both are drawn from the step's key: with one label they would cancel or double."""
    world = make_world("sphere", 0, d_in=D, n_features=8).replace(noise_sd=f32(0.5))
    x = world.sample(KEY, 4000).x
    ours = Denoising().corrupt(KEY, jnp.zeros_like(x), {"noise": f32(1)})
    theirs = jax.random.normal(named_key(KEY, "noise"), x.shape)
    for other in (x, theirs):
        cos = np.corrcoef(np.ravel(ours), np.ravel(other))[0, 1]
        assert abs(cos) < 4 / np.sqrt(4000 * D)


@pytest.mark.parametrize("objective", [MatryoshkaRandom(4), Denoising(Matryoshka(WIDTHS))])
def test_they_train_and_numbers_do_not_recompile(objective):
    world = make_world("sphere", 0, d_in=D, n_features=8, l0=2.0)
    spec = make_spec("topk", D, S, objective=objective)
    (dial,) = {"prefix_alpha", "noise"} & set(spec.hypers())
    sizes, finals = [], []
    for value in (0.1, 0.4):
        given = {"k": [2.0, 4.0], "lr": 0.01, dial: value}
        group = make_ensemble([world], [0], spec, given, [0], 32)
        state = advance(start(group), group.once_started(), jnp.int32(1), jnp.float32(300))
        first = np.asarray(state.loss)
        state = advance(state, group.once_started(), jnp.int32(300), jnp.float32(300))
        assert (np.asarray(state.loss) < 0.6 * first).all()
        sizes.append(advance._cache_size())
        finals.append(np.asarray(state.loss))
    assert sizes[0] == sizes[1]
    assert np.abs(finals[0] - finals[1]).max() > 1e-4


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Matryoshka((2, 5)), r"objective Matryoshka .*\(2, 5\) must end at d_sae = 12"),
        (Matryoshka(()), "must end at d_sae"),
        (Matryoshka((5, 2, 12)), "increase"),
        (Matryoshka((2, 2, 12)), "increase"),
        (Matryoshka((0, 12)), "positive"),
        (Matryoshka((2, 12), (1.0,)), "1 weights for 2 widths"),
        (Denoising(Matryoshka((2, 5))), "must end at d_sae"),
        (MatryoshkaRandom(0), "n_prefixes 0"),
    ],
)
def test_impossible_widths_are_refused(objective, message):
    with pytest.raises(ToysaeError, match=message):
        SAESpec(D, S, objective=objective)
