"""TiedGain, MLP, LISTA, the pursuits and AbsTopK against NumPy, SciPy and scikit-learn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import nnls
from scipy.special import erf
from sklearn.linear_model import orthogonal_mp

from toysae.errors import ToysaeError
from toysae.sae import (
    Params,
    SAESpec,
    Weights,
    forward,
    make_spec,
    resolve,
    resolve_hypers,
)
from toysae.sae.activations import AbsTopK
from toysae.sae.amortised import LISTA, MLP
from toysae.sae.decoders import Free
from toysae.sae.encoders import TiedGain
from toysae.sae.penalties import L1, L1DecoderNorm, Sum
from toysae.sae.pursuit import (
    LEAST_GAIN,
    OMP,
    MatchingPursuit,
    matching_pursuit,
    orthogonal_matching_pursuit,
)

D, S, N = 6, 10, 40
KEY = jax.random.key(0)
RUN = {"progress": jnp.float32(1)}
PURSUITS = {
    "mp": jax.jit(matching_pursuit, static_argnums=3),
    "omp": jax.jit(orthogonal_matching_pursuit, static_argnums=(3, 4)),
}


def f32(a):
    return jnp.asarray(a, jnp.float32)


def f64(a):
    return np.asarray(a, np.float64)


def relu(a):
    return np.maximum(a, 0)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def encode(encoder, enc, x, W_dec=None, shift=None, h=None):
    W_dec = jnp.zeros((S, D)) if W_dec is None else f32(W_dec)
    w = Weights(W_dec, None, {k: f32(v) for k, v in enc.items()})
    shift = None if shift is None else f32(shift)
    return f64(encoder.encode(w, f32(x), shift, h or {}).pre_acts)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    rows, x, shift = unit(rng.normal(size=(S, D))), rng.normal(size=(N, D)), rng.normal(size=D)
    return rows, x, shift


# Tied directions with a gain, MLP


def test_tied_gain(arrays):
    rows, x, shift = arrays
    enc = TiedGain().init(KEY, f32(rows), {})
    np.testing.assert_allclose(encode(TiedGain(), enc, x, rows), x @ rows.T, atol=1e-5)
    gain, bias = np.linspace(0.5, 2, S), np.linspace(-1, 1, S)
    found = encode(TiedGain(), {"log_gain": np.log(gain), "b_enc": bias}, x, rows, shift)
    np.testing.assert_allclose(found, gain * ((x - shift) @ rows.T) + bias, atol=1e-5)


def test_tied_gain_wants_a_decoder_whose_scale_is_held():
    with pytest.raises(ToysaeError, match=r"TiedGain .*Free.*UnitNorm\(\)"):
        SAESpec(D, S, decoder=Free(), encoder=TiedGain(), penalty=Sum((L1DecoderNorm(),)))
    assert SAESpec(D, S, encoder=TiedGain())


def gelu(y):
    return np.asarray(jax.nn.gelu(f32(y)), np.float64)


@pytest.mark.parametrize("n_hidden", [1, 3])
def test_mlp(arrays, n_hidden):
    rows, x, shift = arrays
    encoder = MLP(1.5, n_hidden)
    rng = np.random.default_rng(1)
    shapes = {k: v.shape for k, v in encoder.init(KEY, f32(rows), {}).items()}
    hidden = {f"W_hidden_{i}": (9, 9) for i in range(1, n_hidden)}
    biases = {f"b_hidden_{i}": (9,) for i in range(n_hidden)}
    assert shapes == {"W_enc": (D, S), "b_enc": (S,), "W_hidden_0": (D, 9), "W_out": (9, S),
                      **hidden, **biases}  # fmt: skip
    a = {name: rng.normal(size=shape) * 0.5 for name, shape in shapes.items()}
    y = x - shift
    for i in range(n_hidden):
        y = gelu(y @ a[f"W_hidden_{i}"] + a[f"b_hidden_{i}"])
    expected = (x - shift) @ a["W_enc"] + a["b_enc"] + y @ a["W_out"]
    np.testing.assert_allclose(encode(encoder, a, x, None, shift), expected, atol=1e-4)


def test_gelu_is_the_gelu():
    y = np.linspace(-4, 4, 101)
    np.testing.assert_allclose(gelu(y), y * (1 + erf(y / np.sqrt(2))) / 2, atol=1e-3)


@pytest.mark.parametrize("n_hidden", [1, 2])
def test_mlp_starts_as_the_linear_encoder_and_a_tenth(n_hidden):
    rng = np.random.default_rng(2)
    rows, x = unit(rng.normal(size=(200, 40))), unit(rng.normal(size=(300, 40)))
    enc = MLP(4.0, n_hidden).init(KEY, f32(rows), {})
    linear = x @ rows.T
    found = encode(MLP(4.0, n_hidden), enc, x, np.zeros((200, 40)))
    size = np.std(found - linear) / np.std(linear)
    assert 0.04 < size < 0.16
    other = MLP(4.0, n_hidden).init(jax.random.key(1), f32(rows), {})
    assert np.abs(f64(enc["W_out"]) - f64(other["W_out"])).max() > 1e-3


# LISTA


def ista(x, rows, l1, n_steps):
    """Pre-activations of the n-th step of ISTA from zero, in float64."""
    top = np.linalg.eigvalsh(rows @ rows.T)[-1]
    z = np.zeros((len(x), len(rows)))
    for _ in range(n_steps):
        pre = z + (x - z @ rows) @ rows.T / top - l1 / (2 * top)
        z = relu(pre)
    return pre


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_lista_starts_as_ista(arrays, n_steps, shared):
    rows, x, shift = arrays
    encoder = LISTA(n_steps, shared)
    enc = encoder.init(KEY, f32(1.3 * rows), {"lista_l1": f32(0.4)})
    assert ("S" in enc) == (n_steps > 1)
    lead = {k: () if shared else (n_steps - (k == "S"),) for k in enc}
    shapes = {"W_enc": (D, S), "b_enc": (S,), "S": (S, S)}
    assert {k: v.shape for k, v in enc.items()} == {k: lead[k] + shapes[k] for k in enc}
    expected = ista(x - shift, 1.3 * rows, 0.4, n_steps)
    found = encode(encoder, enc, x, None, shift)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0 < (expected > 0).mean() < 1


@pytest.mark.parametrize("shared", [True, False])
def test_lista_with_other_weights(arrays, shared):
    rows, x, _ = arrays
    rng = np.random.default_rng(3)
    enc = LISTA(3, shared).init(KEY, f32(rows), {"lista_l1": f32(0.1)})
    a = {k: rng.normal(size=v.shape) * 0.4 for k, v in enc.items()}
    W, b, M = (a[k] if not shared else [a[k]] * 3 for k in ("W_enc", "b_enc", "S"))
    pre = x @ W[0] + b[0]
    for t in (1, 2):
        pre = x @ W[t] + relu(pre) @ M[t - 1] + b[t]
    np.testing.assert_allclose(encode(LISTA(3, shared), a, x), pre, atol=1e-5)


# Pursuits


def numpy_mp(x, rows, k):
    z, r = np.zeros(len(rows)), x.copy()
    for _ in range(k):
        c = rows @ r
        j = c.argmax()
        gain = c[j] if c[j] > LEAST_GAIN * np.linalg.norm(x) else 0
        z[j] += gain
        r -= gain * rows[j]
    return z


def numpy_nn_omp(x, rows, k):
    """k outer steps of Lawson and Hanson's active set method."""
    z, support = np.zeros(len(rows)), []
    for _ in range(k):
        c = rows @ (x - z @ rows)
        c[support] = -np.inf
        if c.max() <= LEAST_GAIN * np.linalg.norm(x):
            break
        support.append(int(c.argmax()))
        while True:
            best = np.zeros(len(rows))
            best[support] = np.linalg.lstsq(rows[support].T, x, rcond=None)[0]
            if best.min() >= 0:
                break
            down = [j for j in support if best[j] < 0]
            steps = [z[j] / (z[j] - best[j]) for j in down]
            z = z + min(steps) * (best - z)
            gone = down[int(np.argmin(steps))]
            z[gone] = 0
            support.remove(gone)
        z = best
    return z


@pytest.mark.parametrize("k", [1, 3, 8])
def test_matching_pursuit_against_numpy(arrays, k):
    rows, x, _ = arrays
    found = f64(PURSUITS["mp"](f32(x), f32(rows), f32(k), 8))
    expected = np.stack([numpy_mp(v, rows, k) for v in x])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found != 0).sum(1).max() <= k and found.min() >= 0
    if k == 8:
        assert ((expected > 0).sum(1) < 8).any()  # some direction was taken twice


@pytest.mark.parametrize("k", [1, 2, 4, 6])
@pytest.mark.parametrize("shape", [(S, D), (24, 12)])
def test_positive_omp_against_numpy(shape, k):
    rng = np.random.default_rng(k)
    rows, x = unit(rng.normal(size=shape)), rng.normal(size=(N, shape[1]))
    found = f64(PURSUITS["omp"](f32(x), f32(rows), f32(k), 8))
    expected = np.stack([numpy_nn_omp(v, rows, k) for v in x])
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert (found != 0).sum(1).max() <= k and found.min() >= 0


def test_directions_do_leave_in_those_cases():
    rng = np.random.default_rng(6)
    rows, x = unit(rng.normal(size=(S, D))), rng.normal(size=(N, D))
    plain = PURSUITS["omp"](f32(x), f32(rows), f32(6), 8)
    assert (f64(plain) != 0).sum(1).min() < 6


def test_positive_omp_ends_at_the_non_negative_least_squares():
    rng = np.random.default_rng(3)
    rows, x = unit(rng.normal(size=(9, 12))), rng.normal(size=(50, 12))
    found = f64(PURSUITS["omp"](f32(x), f32(rows), f32(16), 16))
    expected = np.stack([nnls(rows.T, v)[0] for v in x])
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_signed_omp_against_scikit_learn(k):
    rng = np.random.default_rng(4)
    rows, x = unit(rng.normal(size=(20, 12))), rng.normal(size=(50, 12))
    found = f64(PURSUITS["omp"](f32(x), f32(rows), f32(k), 6, False))
    expected = orthogonal_mp(rows.T, x.T, n_nonzero_coefs=k).reshape(20, -1).T
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert ((found != 0).sum(1) == k).all() and found.min() < 0


@pytest.mark.parametrize("pursuit", PURSUITS.values(), ids=PURSUITS)
def test_orthonormal_dictionaries_are_solved_in_closed_form(pursuit):
    rng = np.random.default_rng(5)
    rows = np.linalg.qr(rng.normal(size=(12, 12)))[0][:8]
    z = rng.uniform(0.1, 2, (50, 8)) * (rng.random((50, 8)) < 0.4)
    n_active = (z > 0).sum(1)
    # The noise is orthogonal to the rows; with more steps than needed no more latents fire.
    x = z @ rows + rng.normal(size=(50, 12)) @ (np.eye(12) - rows.T @ rows)
    found = f64(pursuit(f32(x), f32(rows), f32(8), 8))
    np.testing.assert_allclose(found, z, atol=1e-5)
    np.testing.assert_array_equal((found != 0).sum(1), n_active)
    for k in (1, 3):
        kept = np.where(np.argsort(np.argsort(-z, axis=1), axis=1) < k, z, 0)
        np.testing.assert_allclose(pursuit(f32(x), f32(rows), f32(k), 8), kept, atol=1e-5)


@pytest.mark.parametrize("pursuit", PURSUITS.values(), ids=PURSUITS)
def test_rows_of_any_length_and_any_batch_shape(arrays, pursuit):
    rows, x, _ = arrays
    lengths = np.linspace(0.3, 3, S)
    plain = f64(pursuit(f32(x), f32(rows), f32(4), 8))
    scaled = f64(pursuit(f32(x), f32(rows * lengths[:, None]), f32(4), 8))
    np.testing.assert_allclose(scaled * lengths, plain, atol=1e-4)
    # Zero rows and the twins of rows are not used; zero inputs have zero codes.
    rows, x = np.concatenate([rows, rows[:2], np.zeros((1, D))]), x.copy()
    x[7], plain[7] = 0, 0
    found = f64(pursuit(f32(x.reshape(4, 10, D)), f32(rows), f32(4), 8)).reshape(N, S + 3)
    found[:, :2] += found[:, S : S + 2]  # of twins, rounding may choose either
    np.testing.assert_allclose(found[:, :S], plain, atol=1e-4)
    assert not found[:, -1].any()


@pytest.mark.parametrize("pursuit", PURSUITS.values(), ids=PURSUITS)
def test_a_k_for_each_member_in_one_program(arrays, pursuit):
    rows, x, _ = arrays
    traces = 0

    def code(k):
        nonlocal traces
        traces += 1
        return pursuit(f32(x), f32(rows), k, 8)

    program = jax.jit(jax.vmap(code))
    for ks in ([1.0, 3.0, 6.0], [2.0, 2.0, 5.0]):
        found = program(f32(ks))
        for k, codes in zip(ks, found, strict=True):
            np.testing.assert_allclose(codes, pursuit(f32(x), f32(rows), f32(k), 8), atol=1e-5)
            assert (f64(codes) != 0).sum(1).max() <= k
    assert traces == 1


def test_matching_pursuits_gradient_equals_finite_differences(arrays):
    rows, x, _ = arrays
    out = np.random.default_rng(7).normal(size=(N, S))
    weight = np.random.default_rng(8).normal(size=(S, D))

    def loss(x, rows):
        z = matching_pursuit(x, rows, 3.0, 4)
        return jnp.sum(z * f32(out))

    by_x, by_rows = jax.jit(jax.grad(loss, (0, 1)))(f32(x), f32(rows))

    def numpy_loss(x, rows):
        lengths = np.linalg.norm(rows, axis=1)
        z = np.stack([numpy_mp(v, rows / lengths[:, None], 3) for v in x]) / lengths
        return (z * out).sum()

    e, way = 1e-6, np.random.default_rng(9).normal(size=(N, D))
    slope = (numpy_loss(x + e * way, rows) - numpy_loss(x - e * way, rows)) / (2 * e)
    assert (f64(by_x) * way).sum() == pytest.approx(slope, rel=1e-3)
    slope = (numpy_loss(x, rows + e * weight) - numpy_loss(x, rows - e * weight)) / (2 * e)
    assert (f64(by_rows) * weight).sum() == pytest.approx(slope, rel=1e-3)


def test_omps_codes_carry_no_gradient(arrays):
    rows, x, _ = arrays
    spec = make_spec("untied", D, S, encoder=OMP(4), penalty=Sum())

    def loss(W, b):
        f = forward(spec, Weights(W, b, {}), RUN, {"k": f32(3)}, f32(x))
        return jnp.sum(f.x_hat), f.z

    gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (by_W, by_b), z = gradient(f32(rows), f32(np.linspace(-1, 1, D)))
    np.testing.assert_allclose(by_W, np.tile(f64(z).sum(0)[:, None], D), rtol=1e-4)
    np.testing.assert_allclose(by_b, N, rtol=1e-5)


def test_k_beyond_n_steps_and_impossible_sizes_have_a_reason():
    for encoder in (MatchingPursuit(4), OMP(4)):
        with pytest.raises(ToysaeError, match=r"k 5 .*n_steps = 4"):
            encoder.check_numbers(S, {"k": 5.0})
        encoder.check_numbers(S, {"k": 4.0})
    for part, message in [(lambda: OMP(0), "OMP n_steps 0"), (lambda: LISTA(0), "LISTA n_steps 0"),
                          (lambda: MLP(0.0), "width_factor 0"),
                          (lambda: MLP(n_hidden=0), r"n_hidden 0.*Untied\(\)")]:  # fmt: skip
        with pytest.raises(ToysaeError, match=message):
            part()


# AbsTopK


@pytest.mark.parametrize("k", [1, 3, 10])
def test_abstopk_keeps_the_largest_sizes_with_their_signs(arrays, k):
    rows, x, _ = arrays
    spec = make_spec("topk", D, S, activation=AbsTopK())
    w = Weights(f32(rows), None, {"W_enc": f32(rows.T), "b_enc": jnp.zeros(S)})
    f = forward(spec, w, RUN, {"k": f32(k)}, f32(x))
    z = x @ rows.T
    z[np.argsort(np.argsort(-np.abs(z), axis=1), axis=1) >= k] = 0
    assert (z < 0).any() and ((z != 0).sum(1) == k).all()
    np.testing.assert_allclose(f.z, z, atol=1e-5)
    np.testing.assert_allclose(f.fire_rate, (z != 0).mean(0), atol=1e-6)
    AbsTopK().check_numbers(S, {"k": S})
    with pytest.raises(ToysaeError, match=f"k {S + 1} is more than d_sae"):
        AbsTopK().check_numbers(S, {"k": S + 1.0})


# Training


SPARSE = Sum((L1(),))
CASES = {
    "tied gain": ({"encoder": TiedGain(), "penalty": SPARSE}, "l1_coeff", (0.05, 0.2)),
    "mlp": ({"encoder": MLP(1.0, 2), "penalty": SPARSE}, "l1_coeff", (0.05, 0.2)),
    "lista": ({"encoder": LISTA(3), "penalty": SPARSE}, "l1_coeff", (0.05, 0.2)),
    "mp": ({"encoder": MatchingPursuit(4), "penalty": Sum()}, "k", (2, 4)),
    "omp": ({"encoder": OMP(4), "penalty": Sum()}, "k", (2, 4)),
    "abstopk": ({"activation": AbsTopK(), "penalty": Sum()}, "k", (2, 4)),
}


@partial(jax.jit, static_argnums=0)
def train(spec, h, keys, rows, x):
    """Losses `[members, steps]`, first and last parameters: 150 steps of Adam on one batch."""
    adam = optax.adam(3e-3)

    def member(h, key):
        first = Params(rows, None, spec.encoder.init(key, rows, h))

        def loss(params):
            f = forward(spec, resolve(spec, params), RUN, h, x)
            return spec.objective.loss(key, x, f, h) + spec.penalty.cost(f, RUN, h)

        def step(carry, _):
            params, opt = carry
            value, grad = jax.value_and_grad(loss)(params)
            move, opt = adam.update(grad, opt)
            return (optax.apply_updates(params, move), opt), value

        (last, _), losses = jax.lax.scan(step, (first, adam.init(first)), length=150)
        return losses, first, last

    return jax.vmap(member)(h, keys)


@pytest.mark.parametrize("case", CASES)
def test_they_train_with_a_number_for_each_member_in_one_program(case):
    axes, name, numbers = CASES[case]
    spec = make_spec("untied" if "encoder" in axes else "tied", 16, 32, **axes)
    rng = np.random.default_rng(0)
    acts = rng.random((64, 32)) * (rng.random((64, 32)) < 0.06)
    x = f32(acts @ unit(rng.normal(size=(32, 16))))
    rows, keys = f32(unit(rng.normal(size=(32, 16)))), jnp.stack([KEY, KEY])
    ends, sizes = [], []
    for grid in (numbers, numbers[::-1]):
        point = resolve_hypers(spec.hypers(), {name: float(numbers[0])})
        h = {n: jnp.full(2, v, jnp.float32) for n, v in point.items()} | {name: f32(grid)}
        losses, first, last = train(spec, h, keys, rows, x)
        sizes.append(train._cache_size())
        losses = f64(losses)
        assert (losses[:, -1] < 0.7 * losses[:, 0]).all()
        ends.append(losses[:, -1])
        for old, new in zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True):
            moved = np.abs(f64(new) - f64(old)).reshape(2, -1).max(1)
            assert np.isfinite(f64(new)).all() and (moved > 1e-3).all()  # every array learns
    assert sizes[0] == sizes[1]
    assert abs(ends[0][0] / ends[0][1] - 1) > 0.03
    np.testing.assert_allclose(ends[1][::-1], ends[0], rtol=1e-3)
