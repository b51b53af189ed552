"""The forward pass of every encoder and activation against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.sae import SAE, Weights, forward, make_spec
from toysae.sae.activations import AbsTopK, BatchTopK, Threshold, TopK, largest
from toysae.sae.encoders import FISTA, Gated, Tied, Untied
from toysae.sae.fista import exact_lipschitz, fista, quick_lipschitz
from toysae.sae.penalties import L1, GatedAux, L1DecoderNorm

D, S, N = 6, 10, 40
RUN = {"progress": jnp.float32(1), "threshold": jnp.array([0.3, 0.5])}


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    W_dec = rng.normal(size=(S, D))
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    own = {name: rng.normal(size=S) * 0.3 for name in ("b_enc", "b_gate", "b_mag", "r_mag")}
    return {"x": rng.normal(size=(N, D)), "W_dec": W_dec, "b_dec": rng.normal(size=D) * 0.2,
            "W_enc": rng.normal(size=(D, S)), **own}  # fmt: skip


def relu(a):
    return np.maximum(a, 0)


def run(recipe, a, hypers=(), names=("W_enc", "b_enc"), bias=True, **axes):
    spec = make_spec(recipe, D, S, **axes)
    f32 = {k: jnp.asarray(v, jnp.float32) for k, v in a.items()}
    w = Weights(f32["W_dec"], f32["b_dec"] if bias else None, {n: f32[n] for n in names})
    h = {k: jnp.float32(v) for k, v in dict(hypers).items()}
    return forward(spec, w, RUN, h, f32["x"]), h


def check(f, z, x_hat):
    assert 0 < (z > 0).mean() < 1
    np.testing.assert_array_equal(np.asarray(f.z) > 0, z > 1e-7)
    np.testing.assert_allclose(f.z, z, atol=1e-5)
    np.testing.assert_allclose(f.x_hat, x_hat, atol=1e-5)
    np.testing.assert_allclose(f.fire_rate, (z > 0).mean(0), atol=1e-6)


def test_untied(arrays):
    a = arrays
    f, _ = run("untied", a)
    z = relu((a["x"] - a["b_dec"]) @ a["W_enc"] + a["b_enc"])
    check(f, z, z @ a["W_dec"] + a["b_dec"])


def test_a_post_bias_is_only_added(arrays):
    from toysae.sae.decoders import UnitNorm

    a = arrays
    f, _ = run("untied", a, decoder=UnitNorm("post"))
    z = relu(a["x"] @ a["W_enc"] + a["b_enc"])
    check(f, z, z @ a["W_dec"] + a["b_dec"])


def test_tied(arrays):
    a = arrays
    f, _ = run("tied", a, names=("b_enc",), bias=False)
    z = relu(a["x"] @ a["W_dec"].T + a["b_enc"])
    check(f, z, z @ a["W_dec"])


def test_gated_and_its_auxiliary_loss(arrays):
    a = arrays
    f, h = run("gated", a, {"l1_coeff": 0.7, "l1_warmup": 0.0},
               names=("W_enc", "b_gate", "b_mag", "r_mag"))  # fmt: skip
    shared = (a["x"] - a["b_dec"]) @ a["W_enc"]
    gate = shared + a["b_gate"]
    z = (gate > 0) * relu(np.exp(a["r_mag"]) * shared + a["b_mag"])
    check(f, z, z @ a["W_dec"] + a["b_dec"])
    through = relu(gate) @ a["W_dec"] + a["b_dec"]
    aux = ((a["x"] - through) ** 2).sum(1).mean()
    assert float(GatedAux().cost(f, RUN, h)) == pytest.approx(aux, rel=1e-5)
    # The sparsity cost of a gated SAE is that of its rectified gate.
    assert float(L1().cost(f, RUN, h)) == pytest.approx(0.7 * relu(gate).sum(1).mean(), rel=1e-5)


def test_gated_aux_stops_the_decoders_gradient(arrays):
    f, h = run("gated", arrays, {"l1_coeff": 0.7}, names=("W_enc", "b_gate", "b_mag", "r_mag"))
    grad = jax.grad(lambda w: GatedAux().cost(f.replace(w=w), RUN, h))(f.w)
    assert not np.asarray(grad.W_dec).any() and not np.asarray(grad.b_dec).any()


def test_penalties_against_numpy(arrays):
    a = arrays
    f, _ = run("untied", {**a, "W_dec": a["W_dec"] * np.arange(1, S + 1)[:, None]})
    z = relu((a["x"] - a["b_dec"]) @ a["W_enc"] + a["b_enc"])
    h = {"l1_coeff": jnp.float32(0.4), "l1_warmup": jnp.float32(0.5)}
    for progress, factor in ((0.1, 0.2), (0.5, 1.0), (0.9, 1.0)):
        stats = {"progress": jnp.float32(progress)}
        l1 = 0.4 * factor * z.sum(1).mean()
        assert float(L1().cost(f, stats, h)) == pytest.approx(l1, rel=1e-5)
        normed = 0.4 * factor * (z * np.arange(1, S + 1)).sum(1).mean()
        assert float(L1DecoderNorm().cost(f, stats, h)) == pytest.approx(normed, rel=1e-5)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_topk(arrays, k):
    a = arrays
    f, _ = run("topk", a, {"k": k})
    z = relu((a["x"] - a["b_dec"]) @ a["W_enc"] + a["b_enc"])
    order = np.argsort(-z, axis=1)
    for row, best in zip(z, order, strict=True):
        row[best[k:]] = 0
    check(f, z, z @ a["W_dec"] + a["b_dec"])


@pytest.mark.parametrize("k", [1, 2.5, 4])
def test_batchtopk_in_training(arrays, k):
    a = arrays
    f, _ = run("batchtopk", a, {"k": k})
    z = relu((a["x"] - a["b_dec"]) @ a["W_enc"] + a["b_enc"])
    kept = np.sort(z.ravel())[::-1][: int(k * N)]
    z = np.where(z >= kept[-1], z, 0)
    assert (z > 0).sum() == int(k * N)
    check(f, z, z @ a["W_dec"] + a["b_dec"])


def test_batchtopk_outside_training_keeps_what_passes_the_recorded_threshold(arrays):
    a = arrays
    spec = make_spec("batchtopk", D, S)
    assert isinstance(spec.at_inference().activation, Threshold)
    f32 = {k: jnp.asarray(v, jnp.float32) for k, v in a.items()}
    w = Weights(f32["W_dec"], f32["b_dec"], {n: f32[n] for n in ("W_enc", "b_enc")})
    sae = SAE(w, RUN, {"k": jnp.float32(2)}, spec.at_inference())
    z = relu((a["x"] - a["b_dec"]) @ a["W_enc"] + a["b_enc"])
    z = np.where(z >= 0.6, z, 0)  # 0.3 of weight 0.5, bias-corrected
    check(sae(f32["x"]), z, z @ a["W_dec"] + a["b_dec"])
    # One sample alone is coded as in the batch.
    np.testing.assert_allclose(sae.encode(f32["x"][3]), z[3], atol=1e-5)
    np.testing.assert_allclose(sae.decode(sae.encode(f32["x"])), sae(f32["x"]).x_hat, atol=1e-6)


def test_the_threshold_is_a_bias_corrected_mean_of_the_smallest_kept(arrays):
    f, _ = run("batchtopk", arrays, {"k": 2})
    (stat,) = BatchTopK.stats
    smallest, state, mean = [], stat.init(S), 0.0
    for scale in (1.0, 2.0, 5.0):
        state = stat.step(state, f.replace(z=f.z * scale), {}, {})
        smallest.append(scale * float(f.z[f.z > 0].min()))
        mean = 0.99 * mean + 0.01 * smallest[-1]
    weight = 1 - 0.99**3
    assert float(state[0] / state[1]) == pytest.approx(mean / weight, rel=1e-5)


@pytest.mark.parametrize("shape", [(D, S), (D, 4)])
@pytest.mark.parametrize("l1_coeff", [0.01, 0.3])
def test_fista_meets_the_kkt_conditions(shape, l1_coeff):
    d, s = shape
    rng = np.random.default_rng(s)
    dictionary = rng.normal(size=(s, d))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    x = rng.normal(size=(30, d))
    rows = jnp.asarray(dictionary, jnp.float32)
    z = fista(jnp.asarray(x, jnp.float32), rows, l1_coeff, quick_lipschitz(rows), 1000)
    z = np.asarray(z, np.float64)
    gradient = 2 * (z @ dictionary - x) @ dictionary.T + l1_coeff
    assert z.min() >= 0 and (z > 0).any() and (z == 0).any()
    assert np.abs(gradient[z > 1e-4]).max() < 2e-3
    assert gradient[z == 0].min() > -2e-3


def test_thirty_fista_iterations_come_near_the_optimum(arrays):
    a = arrays
    f, _ = run("fista", a, {"l1_coeff": 0.3}, names=(), bias=False)
    x, W = a["x"], a["W_dec"]

    def cost(z):
        return (((x - z @ W) ** 2).sum(1) + 0.3 * z.sum(1)).mean()

    rows = jnp.asarray(W, jnp.float32)
    best = fista(jnp.asarray(x, jnp.float32), rows, 0.3, exact_lipschitz(rows), 3000)
    assert cost(np.asarray(f.z, np.float64)) <= cost(np.asarray(best, np.float64)) * 1.01
    np.testing.assert_allclose(f.x_hat, np.asarray(f.z) @ W, atol=1e-5)


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_fista_codes_antipodal_dictionaries(pairs):
    # The vector of ones is in the null space of D D^T here.
    D_half = np.eye(2 * pairs)[:pairs]
    D = jnp.asarray(np.stack([D_half, -D_half], 1).reshape(2 * pairs, -1), jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2 * pairs)), jnp.float32)
    z = np.asarray(fista(x, D, 0.2, quick_lipschitz(D), 200))
    np.testing.assert_allclose(z, relu(np.asarray(x @ D.T) - 0.1), atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 9), (9, 9), (20, 9)])
def test_lipschitz_bounds_the_largest_eigenvalue(shape):
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    top = np.linalg.eigvalsh(rows.astype(np.float64) @ rows.T)[-1]
    exact = float(exact_lipschitz(jnp.asarray(rows)))
    assert exact == pytest.approx(top, rel=1e-4) and exact >= top
    assert top <= float(quick_lipschitz(jnp.asarray(rows))) <= 1.03 * top


def test_encoders_declare_arrays_of_the_right_shape():
    rows = jnp.ones((S, D))
    shapes = {e: {k: v.shape for k, v in e.init(jax.random.key(0), rows, {}).items()}
              for e in (Untied(), Tied(), Gated(), FISTA())}  # fmt: skip
    assert shapes[Untied()] == {"W_enc": (D, S), "b_enc": (S,)}
    assert shapes[Tied()] == {"b_enc": (S,)}
    assert shapes[Gated()] == {"W_enc": (D, S), "b_gate": (S,), "b_mag": (S,), "r_mag": (S,)}
    assert shapes[FISTA()] == {}


@pytest.mark.parametrize("k", [1, 2, 5, 9, 16])
def test_the_largest_are_those_of_a_sort(k):
    z = np.random.default_rng(k).random((7, 3, 16)).astype(np.float32) * 1e3
    found = np.asarray(largest(jnp.asarray(z), float(k)))
    np.testing.assert_array_equal(found, z >= -np.sort(-z, axis=-1)[..., k - 1 : k])


def test_the_largest_with_a_k_for_each_member():
    z = np.random.default_rng(0).random((4, 16)).astype(np.float32)
    found = jax.vmap(largest)(jnp.asarray(z), jnp.array([1.0, 3.0, 7.0, 16.0]))
    least = [np.sort(row)[-k] for row, k in zip(z, (1, 3, 7, 16), strict=True)]
    np.testing.assert_array_equal(found, z >= np.array(least)[:, None])


@pytest.mark.parametrize("k", [1, 3, 4.5, 8, 20])
def test_the_largest_of_few_values_over_many_octaves(k):
    """Against a stable sort, with zeros, equals and subnormal numbers among them."""
    values = np.array([0, 0, 1e-42, 1e-38, 1e-20, 1, 2, 3e38], np.float32)
    z = np.random.default_rng(3).choice(values, (500, 12))
    order = np.argsort(-z.view(np.int32).astype(np.int64), axis=1, kind="stable")
    expected = np.zeros(z.shape, bool)
    np.put_along_axis(expected, order[:, : int(np.ceil(k))], True, axis=1)
    found = np.asarray(jax.jit(largest)(jnp.asarray(z), float(k)))
    np.testing.assert_array_equal(found, expected & (z.view(np.int32) > 0))


@pytest.mark.parametrize(
    ("z", "k", "kept"),
    [
        ([3, 2, 2, 1], 2, [0, 1]),  # of equal ones the first
        ([2, 2, 2, 2], 3, [0, 1, 2]),
        ([1, 2, 2, 2], 2, [1, 2]),
        ([0, 0, 5, 0], 2, [2]),  # zeros never
        ([0, 0, 0, 0], 1, []),
        ([4, 3, 3, 1], 1.5, [0, 1]),
        ([3, 2, 0, 0], 3, [0, 1]),
        ([4, 3, 2, 1], 2.5, [0, 1, 2]),
        ([4, 3, 2, 1], 0.5, [0]),
        ([5, 5, 5, 5], 1, [0]),
        ([1e-38, 1e38, 1, 0], 2, [1, 2]),
    ],
)
def test_just_k_are_kept_even_of_equal_ones(z, k, kept):
    found = np.asarray(jax.jit(largest)(jnp.array([z, [9, 8, 7, 6]], jnp.float32), float(k)))
    assert np.flatnonzero(found[0]).tolist() == kept
    assert found[1].sum() == int(np.ceil(k))  # a row without equals beside it


def test_activations_keep_just_k_of_equal_ones():
    z = jnp.ones((3, 8)).at[:, 0].set(-2.0)
    h = {"k": jnp.float32(2)}
    assert (np.asarray(TopK().apply(z, {}, {}, h) != 0).sum(1) == 2).all()
    assert (np.asarray(AbsTopK().apply(z, {}, {}, h) != 0).sum(1) == 2).all()
    assert int((BatchTopK().apply(z, {}, {}, h) != 0).sum()) == 6
    each = jax.vmap(lambda k: TopK().apply(z, {}, {}, {"k": k}))(jnp.array([1.0, 3.0]))
    assert (np.asarray(each != 0).sum(-1) == [[1] * 3, [3] * 3]).all()
