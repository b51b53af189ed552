"""Decoders' constraints, inits, biases, loss scales, and what a spec refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from toysae.errors import ToysaeError
from toysae.recovery import mmcs
from toysae.sae import (
    INITS,
    RECIPES,
    Hyper,
    InitData,
    SAESpec,
    Weights,
    forward,
    make_spec,
    resolve_hypers,
)
from toysae.sae.activations import ReLU, TopK
from toysae.sae.decoders import (
    Free,
    Normalised,
    Orthonormal,
    TightFrame,
    UnitNorm,
    newton_schulz,
)
from toysae.sae.encoders import Gated, Tied
from toysae.sae.inits import FromTruth, Orthogonal, RandomUnit, SvdData, SvdWeights, first_bias
from toysae.sae.loss_scale import CONVENTIONS, to_internal
from toysae.sae.objectives import Plain
from toysae.sae.penalties import L1, GatedAux, L1DecoderNorm, Sum

D, S = 8, 20
RNG = np.random.default_rng(0)
H = {"enc_scale": jnp.float32(1), "init_noise": jnp.float32(0), "truth_noise": jnp.float32(0),
     "sample_share": jnp.float32(0.8)}  # fmt: skip


def f32(a):
    return jnp.asarray(a, jnp.float32)


def random_rows(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.fixture(scope="module")
def data():
    directions = random_rows(12, D, 1)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    x = (RNG.random((500, 12)) * (RNG.random((500, 12)) < 0.2)) @ directions
    return InitData(f32(x), f32(random_rows(D, D, 2)), f32(directions))


# Decoders


def test_unit_norm_removes_the_parallel_part_and_nothing_else():
    W = random_rows(S, D)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    grad = random_rows(S, D, 1)
    found = np.asarray(UnitNorm().project(f32(W), f32(grad)))
    assert np.abs((found * W).sum(1)).max() < 1e-5
    expected = np.stack([(np.eye(D) - np.outer(w, w)) @ g for w, g in zip(W, grad, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(UnitNorm().retract(f32(3 * grad)), axis=1), 1,
                               atol=1e-6)  # fmt: skip


@pytest.mark.parametrize(("part", "n"), [(Orthonormal(), 5), (Orthonormal(), 8),
                                         (TightFrame(), 8), (TightFrame(), 20)])  # fmt: skip
def test_held_decoders_project_onto_the_tangent_and_retract_onto_the_constraint(part, n):
    W = np.asarray(part.start(f32(random_rows(n, D))), np.float64)
    scale = max(n / D, 1.0)
    square = W @ W.T if n <= D else W.T @ W
    np.testing.assert_allclose(square, scale * np.eye(min(n, D)), atol=1e-5)
    grad = np.asarray(part.project(f32(W), f32(random_rows(n, D, 1))), np.float64)
    inner = grad @ W.T if n <= D else W.T @ grad
    assert np.abs(inner).max() > 0.1 and np.abs(inner + inner.T).max() < 1e-4
    moved = np.asarray(part.retract(f32(W - 0.02 * grad)), np.float64)
    square = moved @ moved.T if n <= D else moved.T @ moved
    np.testing.assert_allclose(square, scale * np.eye(min(n, D)), atol=1e-5)
    assert 0.01 < np.linalg.norm(moved - W) < 0.02 * np.linalg.norm(grad) * 1.1
    # A second projection changes nothing.
    again = part.project(f32(W), f32(grad))
    np.testing.assert_allclose(again, grad, atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 8), (8, 8), (20, 8)])
def test_newton_schulz_equals_the_polar_factor(shape):
    U, _, Vt = np.linalg.svd(random_rows(*shape), full_matrices=False)
    W = U * np.linspace(0.85, 1.15, min(shape)) @ Vt
    np.testing.assert_allclose(newton_schulz(f32(W)), U @ Vt, atol=1e-5)


def test_normalised_leaves_the_parameters_and_normalises_the_dictionary():
    W = f32(random_rows(S, D))
    np.testing.assert_allclose(np.linalg.norm(Normalised().resolve(W), axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(Normalised().retract(W), W)
    np.testing.assert_array_equal(Free().resolve(W), W)
    # A zero row stays zero, with a finite gradient.
    zero = jnp.zeros((2, D))
    assert not np.asarray(Normalised().resolve(zero)).any()
    assert np.isfinite(jax.grad(lambda w: Normalised().resolve(w).sum())(zero)).all()


# Inits


@pytest.mark.rotation(3)
@pytest.mark.parametrize("d_sae", [3, 8, 20])
@pytest.mark.parametrize("name", INITS)
def test_inits_have_the_right_shape_and_unit_scale(data, name, d_sae):
    dec, enc = INITS[name].directions(jax.random.key(0), d_sae, data, H)
    for rows in (dec, enc):
        assert rows.shape == (d_sae, D) and np.isfinite(rows).all()
        if name != "kaiming":  # its scale is its point
            assert (np.asarray(rows) ** 2).sum(1).mean() == pytest.approx(1, abs=1e-4)
    same = np.allclose(dec, enc)
    assert same == (name != "random")
    again, _ = INITS[name].directions(jax.random.key(0), d_sae, data, H)
    np.testing.assert_array_equal(dec, again)


def test_independent_encoders_are_independent(data):
    dec, enc = RandomUnit("independent").directions(jax.random.key(0), 400, data, H)
    cos = (np.asarray(dec) * np.asarray(enc)).sum(1)
    assert abs(cos.mean()) < 5 / np.sqrt(400 * D)
    assert (cos**2).mean() == pytest.approx(1 / D, rel=0.3)


def test_enc_scale_scales_the_encoder_alone(data):
    dec, enc = RandomUnit().directions(jax.random.key(0), S, data, {**H, "enc_scale": f32(0.3)})
    np.testing.assert_allclose(enc, 0.3 * dec, atol=1e-7)


@pytest.mark.parametrize("d_sae", [5, 8, 20])
def test_orthogonal_is_orthonormal_or_a_tight_frame(data, d_sae):
    W = np.asarray(Orthogonal().directions(jax.random.key(0), d_sae, data, H)[0], np.float64)
    if d_sae <= D:
        np.testing.assert_allclose(W @ W.T, np.eye(d_sae), atol=1e-5)
    else:
        np.testing.assert_allclose(W.T @ W, d_sae / D * np.eye(D), atol=1e-5)


@pytest.mark.parametrize("part", [SvdWeights(), SvdData()])
def test_svd_inits_are_the_singular_vectors(data, part):
    W = np.asarray(part.directions(jax.random.key(0), S, data, H)[0], np.float64)
    if isinstance(part, SvdWeights):
        axes = np.linalg.svd(np.asarray(data.generating_matrix, np.float64))[0].T
    else:
        x = np.asarray(data.x, np.float64)
        axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2]
    np.testing.assert_allclose(np.abs((W[:D] * axes).sum(1)), 1, atol=1e-3)
    np.testing.assert_allclose(W[D : 2 * D], -W[:D], atol=1e-5)
    np.testing.assert_allclose(W[2 * D :], W[: S - 2 * D], atol=1e-5)
    noisy = np.asarray(
        part.directions(jax.random.key(0), S, data, {**H, "init_noise": f32(0.2)})[0]
    )
    cos = (noisy * W).sum(1)
    assert 1 / np.sqrt(1 + 0.2**2) - 0.03 < cos.min() and cos.max() < 1 - 1e-4
    assert np.abs(noisy[2 * D :] - noisy[: S - 2 * D]).max() > 0.01  # each copy has its own noise


@pytest.mark.parametrize("d_sae", [12, 20])
def test_the_truth_init_starts_at_the_truth(data, d_sae):
    W = FromTruth().directions(jax.random.key(0), d_sae, data, H)[0]
    assert float(mmcs(data.directions, W)) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(W[:12], data.directions, atol=1e-6)
    W = FromTruth().directions(jax.random.key(0), d_sae, data, {**H, "truth_noise": f32(1.0)})[0]
    cos = (np.asarray(W[:12]) * np.asarray(data.directions)).sum(1)
    assert cos.mean() == pytest.approx(np.sqrt(0.5), abs=0.15)


# Biases


def test_geometric_median_equals_scipy():
    x = random_rows(200, 5, 3)
    x[:30] += 20  # the mean is far from the median
    best = minimize(lambda m: np.linalg.norm(x - m, axis=1).sum(), np.median(x, 0), method="BFGS",
                    options={"gtol": 1e-8}).x  # fmt: skip
    found = np.asarray(first_bias("geometric_median", f32(x)))
    assert np.abs(x.mean(0) - best).min() > 1
    np.testing.assert_allclose(found, best, atol=2e-3)
    np.testing.assert_allclose(first_bias("mean", f32(x)), x.mean(0), atol=1e-5)
    np.testing.assert_array_equal(first_bias("zero", f32(x)), np.zeros(5))


def test_geometric_median_of_mostly_equal_samples_is_their_value():
    x = np.zeros((50, 3))
    x[:10] = 7
    np.testing.assert_allclose(first_bias("geometric_median", f32(x)), 0, atol=1e-3)


# Loss scales


def numpy_loss(convention, x, x_hat, z, alpha):
    """The paper's loss, and ours over it."""
    square, l1 = (x - x_hat) ** 2, np.abs(z).sum(1).mean()
    summed, averaged = square.sum(1).mean(), square.mean()
    if convention == "interim-report":
        return averaged + alpha * l1 / z.shape[1], x.shape[1]
    if convention in ("cunningham-code", "monosemanticity-mean"):
        return averaged + alpha * l1, x.shape[1]
    return summed + alpha * l1, 1


@pytest.mark.parametrize("alpha", [0.01, 0.3])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_our_loss_is_proportional_to_the_papers(convention, alpha):
    W = random_rows(S, D)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    x = random_rows(30, D, 4)
    spec = make_spec("tied", D, S)
    w = Weights(f32(W), None, {"b_enc": jnp.zeros(S)})
    coeff = to_internal(convention, alpha, D, S)
    h, run = {"l1_coeff": f32(coeff), "l1_warmup": f32(0)}, {"progress": f32(1)}
    f = forward(spec, w, run, h, f32(x))
    ours = float(Plain().loss(jax.random.key(0), f32(x), f, h) + L1().cost(f, run, h))
    z = np.maximum(x @ W.T, 0)
    paper, factor = numpy_loss(convention, x, z @ W, z, alpha)
    assert ours == pytest.approx(factor * paper, rel=1e-5)


def test_an_unknown_convention_is_refused():
    with pytest.raises(ToysaeError, match="did you mean 'interim-report'"):
        to_internal("interim-reprt", 0.1, D, S)


# Specs


@pytest.mark.parametrize("recipe", RECIPES)
def test_specs_are_hashable_and_equal_by_value(recipe):
    one, two = (make_spec(recipe, D, S) for _ in range(2))
    assert one == two and hash(one) == hash(two) and len({one, two}) == 1
    assert one != make_spec(recipe, D, S + 1)
    assert hash(one.at_inference()) == hash(two.at_inference())
    small = make_spec(recipe, 8, 4)
    assert (small.d_in, small.d_sae) == (8, 4)


def test_specs_that_differ_in_the_init_share_their_steps():
    first, second = (make_spec("untied", D, S, init) for init in ("random", "orthogonal"))
    assert first != second and first.once_started() == second.once_started()


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"decoder": Free()}, r"L1 .*Free.*(UnitNorm|L1DecoderNorm)"),
        ({"encoder": Gated()}, r"Gated .*GatedAux\(\)"),
        ({"penalty": Sum((L1(), GatedAux()))}, r"GatedAux .*Untied.*Gated\(\)"),
        ({"decoder": Orthonormal()}, r"Orthonormal .*d_sae 20.*d_in = 8.*TightFrame\(\)"),
        ({"decoder": TightFrame(), "d_sae": 4}, r"TightFrame .*d_sae 4.*Orthonormal\(\)"),
        ({"encoder": ReLU()}, "encoder=ReLU.*Encoder"),
        ({"activation": Tied()}, "activation=Tied.*Activation"),
        ({"d_in": 0}, "d_in 0"),
        ({"d_sae": -3}, "d_sae -3"),
        ({"d_sae": 2.5}, "d_sae 2.5"),
    ],
)
def test_illegal_specs_name_both_sides_and_a_remedy(axes, message):
    with pytest.raises(ToysaeError, match=message):
        SAESpec(**{"d_in": D, "d_sae": S, **axes})


def test_the_remedies_are_legal():
    SAESpec(D, S, decoder=Free(), penalty=Sum((L1DecoderNorm(),)))
    SAESpec(D, S, decoder=UnitNorm())
    SAESpec(D, S, encoder=Gated(), penalty=Sum((L1(), GatedAux())))
    SAESpec(D, S, decoder=TightFrame())
    SAESpec(D, 4, decoder=Orthonormal())


@pytest.mark.parametrize(
    ("recipe", "init", "message"),
    [
        ("untid", None, "unknown recipe 'untid': did you mean 'untied'"),
        ("untied", "orthogonl", "unknown init 'orthogonl': did you mean 'orthogonal'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(recipe, init, message):
    with pytest.raises(ToysaeError, match=message):
        make_spec(recipe, D, S, init)


def test_resolve_hypers_fills_in_defaults_and_refuses_the_rest():
    declared = {
        h.name: h for h in (Hyper("k", low=1.0, high=9.0), Hyper("lr", default=0.1, low=0.0))
    }
    assert resolve_hypers(declared, {"k": 4.0}) == {"k": 4.0, "lr": 0.1}
    assert resolve_hypers(declared, {"k": 9.0, "lr": 0.0}) == {"k": 9.0, "lr": 0.0}
    for given, message in [
        ({}, "k is required"),
        ({"k": 0.0}, r"k 0 is outside \[1, 9\]"),
        ({"k": 10.0}, "k 10 is outside"),
        ({"k": 2.0, "lr": -1.0}, r"lr -1 is outside \[0, inf\]"),
        ({"k": float("nan")}, "nan is not finite"),
        ({"k": 2.0, "l1_coef": 1.0}, "unknown hyperparameter 'l1_coef'.*known: k, lr"),
    ]:
        with pytest.raises(ToysaeError, match=message):
            resolve_hypers(declared, given)


def test_a_k_above_d_sae_is_refused():
    spec = make_spec("topk", D, S)
    spec.check_hypers({"k": float(S)})
    with pytest.raises(ToysaeError, match=r"TopK: k 21 .*d_sae = 20"):
        spec.check_hypers({"k": S + 1.0})
    assert isinstance(spec.activation, TopK)
