"""Each penalty and its gradient against float64 NumPy, and the running statistics they read."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.sae import (
    AnnealedLp,
    AnnealedTopK,
    AuxK,
    DecoderCoherence,
    EncDecSimilarity,
    Forward,
    FrequencyAware,
    FrequencyTopK,
    GhostGradients,
    L0Step,
    Lp,
    PreAct,
    SAESpec,
    Tanh,
    ToL0,
    Weights,
    forward,
    make_spec,
)
from toysae.sae.activations import TopK
from toysae.sae.decoders import Free, UnitNorm
from toysae.sae.encoders import Gated, Tied
from toysae.sae.jumprelu import JumpReLU
from toysae.sae.l0_control import L0Multiplier
from toysae.sae.lp import LEAST_SCALE, LpScale
from toysae.sae.penalties import L1, GatedAux, L1DecoderNorm, Sum
from toysae.sae.running import RelativeFrequency, StepsSinceFired, next_stats, restarted
from toysae.training import advance, start
from toysae.training.members import make_ensemble
from toysae.worlds import make_world

D, S, N = 6, 10, 40
SPEC = SAESpec(D, S, decoder=UnitNorm("none"))
RNG = np.random.default_rng(0)
PARAMS = {"W_dec": RNG.normal(size=(S, D)), "W_enc": RNG.normal(size=(D, S)),
          "b_enc": 0.3 * RNG.normal(size=S)}  # fmt: skip
X = RNG.normal(size=(N, D))
AGES = np.array([0, 3, 500, 7, 900, 0, 1, 499, 2, 0])
RELATIVE = np.array([3.0, 1.0, 0.5, 0.02, 1e-7, 1.2, 0.9, 0.1, 5.0, 1e-4])


def f32(a):
    return jnp.asarray(a, jnp.float32)


def np_pass(p):
    pre = X @ p["W_enc"] + p["b_enc"]
    z = np.maximum(pre, 0)
    return pre, z, z @ p["W_dec"]


ERROR = X - np_pass(PARAMS)[2]  # a target without a gradient: fixed where the others move
DEAD = AGES >= 500


def norms(W):
    return np.linalg.norm(W, axis=1)


def power(z, p):
    return (z + LEAST_SCALE) ** p - LEAST_SCALE**p


def top(z, k):
    """z with only the k largest of each row."""
    return np.where(z >= np.sort(z, 1)[:, -k][:, None], z, 0)


def auxk(p):
    pre, _, _ = np_pass(p)
    z = top(np.maximum(np.where(DEAD, pre, 0), 0), 2)
    return 0.25 * ((ERROR - z @ p["W_dec"]) ** 2).sum(1).mean()


def raw_auxk(k_aux):
    """SAELens 6.54: the k_aux largest pre-activations of the dead, whatever their sign; scaled by
    n_dead / k_aux where these are fewer."""

    def cost(p):
        pre, _, _ = np_pass(p)
        k = min(k_aux, DEAD.sum())
        order = np.where(DEAD, pre, -np.inf)
        z = np.where(order >= np.sort(order, 1)[:, -k][:, None], pre, 0)
        share = min(DEAD.sum() / k_aux, 1)
        return 0.25 * share * ((ERROR - z @ p["W_dec"]) ** 2).sum(1).mean()

    return cost


def _ghost(p):
    return np.where(DEAD, np.exp(np_pass(p)[0]), 0) @ p["W_dec"]


HALF = 0.5 * norms(ERROR) / norms(_ghost(PARAMS))
SIZE = (ERROR**2).sum(1).mean() / ((ERROR - HALF[:, None] * _ghost(PARAMS)) ** 2).sum(1).mean()


def cosines_of(A, B):
    return A @ B.T / np.outer(norms(A), norms(B))


def annealed(p):
    _, z, _ = np_pass(p)
    _, z0, _ = np_pass(PARAMS)  # the factor has no gradient
    now = 1 + (0.2 - 1) * (0.6 - 0.2) / (1 - 0.2)
    factor = np.exp(0.3) * power(z0, 0.7).sum() / power(z0, now).sum()
    return 0.1 * factor * power(z, now).sum(1).mean()


RARITY = np.log(np.maximum(D, 1 / np.maximum(RELATIVE / D, 1e-3 / D)))


@dataclass
class Case:
    penalty: object
    hypers: dict
    cost: object
    run: dict = field(default_factory=dict)


CASES = {
    "lp": Case(Lp(), {"l1_coeff": 0.1, "p": 0.5},
               lambda p: 0.1 * power(np_pass(p)[1], 0.5).sum(1).mean()),
    "l1 as p = 1": Case(Lp(), {"l1_coeff": 0.1, "p": 1.0},
                        lambda p: 0.1 * np_pass(p)[1].sum(1).mean()),
    "warm-up": Case(Lp(), {"l1_coeff": 0.1, "l1_warmup": 0.8, "p": 2.0},
                    lambda p: 0.1 * 0.75 * power(np_pass(p)[1], 2).sum(1).mean()),
    "annealed": Case(AnnealedLp(), {"l1_coeff": 0.1, "p_end": 0.2, "p_start": 0.2}, annealed,
                     {"lp_scale": np.array([0.7, 0.3])}),
    "tanh": Case(Tanh(), {"l0_coeff": 0.1, "tanh_scale": 4.0},
                 lambda p: 0.1 * np.tanh(4 * np_pass(p)[1] * norms(p["W_dec"])).sum(1).mean()),
    "pre-act": Case(PreAct(), {"pre_act_coeff": 0.1},
                    lambda p: 0.1 * (np.maximum(-np_pass(p)[0], 0)
                                     * norms(p["W_dec"])).sum(1).mean()),
    "auxk": Case(AuxK(), {"aux_coeff": 0.25, "aux_fraction": 1 / 3, "dead_window": 500.0}, auxk,
                 {"steps_since_fired": AGES}),
    "raw auxk, one": Case(
        AuxK(raw=True), {"aux_coeff": 0.25, "aux_fraction": 1.9 / D, "dead_window": 500.0},
        raw_auxk(1), {"steps_since_fired": AGES}),
    "raw auxk, too few dead": Case(
        AuxK(raw=True), {"aux_coeff": 0.25, "aux_fraction": 0.5, "dead_window": 500.0},
        raw_auxk(3), {"steps_since_fired": AGES}),
    "ghost": Case(GhostGradients(), {"dead_window": 500.0},
                  lambda p: SIZE * ((ERROR - HALF[:, None] * _ghost(p)) ** 2).sum(1).mean(),
                  {"steps_since_fired": AGES}),
    "frequency": Case(FrequencyAware(L1()), {"l1_coeff": 0.1, "freq_floor": 1e-3},
                      lambda p: 0.1 * (RARITY * np_pass(p)[1]).sum(1).mean(),
                      {"relative_frequency": RELATIVE}),
    "enc-dec": Case(EncDecSimilarity(), {"similarity_coeff": 0.1},
                    lambda p: 0.1 * (1 - np.diag(cosines_of(p["W_enc"].T, p["W_dec"]))).sum()),
    "coherence": Case(DecoderCoherence(), {"coherence_coeff": 0.1},
                      lambda p: 0.1 * (cosines_of(p["W_dec"], p["W_dec"])
                                       [~np.eye(S, dtype=bool)] ** 2).mean()),
    "to l0": Case(ToL0(L1DecoderNorm()), {"l1_coeff": 0.1, "l0_target": 2.0},
                  lambda p: 0.1 * np.e * (np_pass(p)[1] * norms(p["W_dec"])).sum(1).mean(),
                  {"l0_multiplier": np.array([1.0, 0, 0])}),
    "sum": Case(Sum((Tanh(), EncDecSimilarity())),
                {"l0_coeff": 0.1, "tanh_scale": 1.0, "similarity_coeff": 0.2},
                lambda p: 0.1 * np.tanh(np_pass(p)[1] * norms(p["W_dec"])).sum(1).mean()
                + 0.2 * (1 - np.diag(cosines_of(p["W_enc"].T, p["W_dec"]))).sum()),
}  # fmt: skip


def numbers(penalty, hypers):
    """The hypers with the spec's own defaults filled in."""
    spec = SAESpec(D, S, penalty=penalty)
    return {name: f32(hypers.get(name, h.default)) for name, h in spec.hypers().items()
            if name in hypers or h.default is not None}  # fmt: skip


def weights(p):
    return Weights(p["W_dec"], None, {"W_enc": p["W_enc"], "b_enc": p["b_enc"]})


def as_run(run):
    arrays = {name: jnp.asarray(v, jnp.int32 if v.dtype.kind == "i" else jnp.float32)
              for name, v in run.items()}  # fmt: skip
    return {"progress": f32(0.6), **arrays}


@pytest.mark.parametrize("name", CASES)
def test_cost_and_gradient_equal_numpys(name):
    case = CASES[name]
    h, run = numbers(case.penalty, case.hypers), as_run(case.run)

    def cost(p):
        return case.penalty.cost(forward(SPEC, weights(p), run, h, f32(X)), run, h)

    value, grad = jax.jit(jax.value_and_grad(cost))(jax.tree.map(f32, PARAMS))
    assert float(value) == pytest.approx(case.cost(PARAMS), rel=2e-5)
    moved = 0
    for array in PARAMS:
        for _ in range(3):
            way = RNG.normal(size=PARAMS[array].shape)
            step = 1e-6
            up, down = ({**PARAMS, array: PARAMS[array] + s * way} for s in (step, -step))
            slope = (case.cost(up) - case.cost(down)) / (2 * step)
            found = float((np.asarray(grad[array], np.float64) * way).sum())
            size = np.abs(np.asarray(grad[array]) * way).sum()
            assert found == pytest.approx(slope, rel=1e-3, abs=1e-4 * size + 1e-7), array
            moved += abs(slope)
    assert moved > 1e-3


@pytest.mark.parametrize("name", ["tanh", "enc-dec", "coherence", "ghost"])
def test_a_zero_row_has_a_finite_gradient(name):
    p = {**jax.tree.map(f32, PARAMS), "W_dec": f32(PARAMS["W_dec"]).at[2].set(0)}
    p["W_enc"] = p["W_enc"].at[:, 3].set(0)
    case = CASES[name]
    h, run = numbers(case.penalty, case.hypers), as_run(case.run)

    def cost(p):
        return case.penalty.cost(forward(SPEC, weights(p), run, h, f32(X)), run, h)

    for leaf in jax.tree.leaves(jax.jit(jax.grad(cost))(p)):
        assert np.isfinite(leaf).all()


# The L0 step


@pytest.mark.parametrize("aware", [False, True])
def test_the_l0_step_counts_and_pulls_the_threshold_alone(aware):
    theta, epsilon, coeff = np.linspace(0.2, 1.5, S), 0.6, 0.1
    penalty = FrequencyAware(L0Step()) if aware else L0Step()
    weight = RARITY if aware else np.ones(S)
    h = {k: f32(v) for k, v in {"l0_coeff": coeff, "l0_warmup": 0, "bandwidth": epsilon,
                                "threshold_init": 0.001, "freq_floor": 1e-3}.items()}  # fmt: skip
    run = as_run({"relative_frequency": RELATIVE})
    spec = SAESpec(D, S, decoder=UnitNorm("none"), activation=JumpReLU(), penalty=penalty)

    def cost(p, log_threshold):
        w = weights(p).replace(act={"log_threshold": log_threshold})
        return penalty.cost(forward(spec, w, run, h, f32(X)), run, h)

    value, (by_p, by_log) = jax.value_and_grad(cost, (0, 1))(
        jax.tree.map(f32, PARAMS), f32(np.log(theta))
    )
    pre = np_pass(PARAMS)[0]
    assert float(value) == pytest.approx(coeff * ((pre > theta) * weight).sum(1).mean(), rel=1e-5)
    kernel = np.abs((pre - theta) / epsilon) < 0.5
    expected = -coeff / epsilon * weight * kernel.mean(0) * theta
    assert (expected != 0).sum() > 5
    np.testing.assert_allclose(by_log, expected, rtol=1e-4, atol=1e-7)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(by_p))


def test_pre_act_pulls_from_the_learned_threshold():
    theta = np.linspace(0.2, 1.5, S)
    h, run = {"pre_act_coeff": f32(0.1)}, as_run({})
    w = weights(jax.tree.map(f32, PARAMS)).replace(act={"log_threshold": f32(np.log(theta))})
    f = forward(SPEC, w, run, h, f32(X))
    expected = 0.1 * (np.maximum(theta - np_pass(PARAMS)[0], 0) * norms(PARAMS["W_dec"])).sum(1)
    assert float(PreAct().cost(f, run, h)) == pytest.approx(expected.mean(), rel=1e-5)


# Annealing, dead latents


def test_annealing_keeps_the_penaltys_size():
    """On one batch, over and over, with p from 1 to 0.2: the cost stays what it was."""
    h = numbers(AnnealedLp(), {"l1_coeff": 0.1, "p_end": 0.2, "p_start": 0.1})
    f = forward(SPEC, weights(jax.tree.map(f32, PARAMS)), as_run({}), h, f32(X))
    stat, state, costs, ps = LpScale(), LpScale().init(S), [], []
    for progress in np.linspace(0.02, 1, 50):
        run = {"progress": f32(progress), "lp_scale": state}
        costs.append(float(AnnealedLp().cost(f, run, h)))
        state = stat.step(state, f, run, h)
        ps.append(float(state[0]))
    np.testing.assert_allclose(costs, 0.1 * np_pass(PARAMS)[1].sum(1).mean(), rtol=1e-4)
    expected = 1 - 0.8 * np.clip((np.linspace(0.02, 1, 50) - 0.1) / 0.9, 0, 1)
    np.testing.assert_allclose(ps, expected, atol=1e-5)
    silent = f.replace(z=jnp.zeros_like(f.z))
    assert np.isfinite(stat.step(state, silent, {"progress": f32(0.5)}, h)).all()


@pytest.mark.parametrize("penalty", [AuxK(), GhostGradients()])
def test_without_dead_latents_reviving_costs_nothing(penalty):
    h = numbers(penalty, {"dead_window": 1000.0})
    run = as_run({"steps_since_fired": AGES})

    def cost(p):
        return penalty.cost(forward(SPEC, weights(p), run, h, f32(X)), run, h)

    value, grad = jax.value_and_grad(cost)(jax.tree.map(f32, PARAMS))
    assert float(value) == 0 and not any(np.asarray(g).any() for g in jax.tree.leaves(grad))


@pytest.mark.parametrize("penalty", [AuxK(), GhostGradients()])
def test_reviving_moves_dead_latents_alone(penalty):
    h = numbers(penalty, {"dead_window": 500.0})
    run = as_run({"steps_since_fired": AGES})

    def cost(p):
        return penalty.cost(forward(SPEC, weights(p), run, h, f32(X)), run, h)

    grad = jax.grad(cost)(jax.tree.map(f32, PARAMS))
    for rows in (grad["W_dec"], grad["W_enc"].T, grad["b_enc"][:, None]):
        np.testing.assert_array_equal(np.abs(rows).sum(1) > 0, DEAD)


# Statistics


def forward_of(z):
    w = Weights(jnp.zeros((z.shape[1], D)), None, {})
    return Forward(jnp.zeros((z.shape[0], D)), jnp.zeros((z.shape[0], D)), f32(z), f32(z), None, w)


def test_running_statistics_by_hand():
    fires = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, -2, 0]])  # of each batch, two samples
    age, freq = StepsSinceFired(), RelativeFrequency()
    state = {"steps_since_fired": age.init(3), "relative_frequency": freq.init(3)}
    stats = {stat.name: stat for stat in (age, freq)}
    expected = np.ones(3)
    for row in fires:
        z = np.stack([row, np.zeros(3)])
        state = next_stats(stats, forward_of(z), state, {})
        expected += 0.003 * (D * 0.5 * (row != 0) - expected)
    assert state["steps_since_fired"].tolist() == [2, 0, 4]
    assert state["steps_since_fired"].dtype == jnp.int32
    np.testing.assert_allclose(state["relative_frequency"], expected, rtol=1e-5)
    again = restarted(stats, {**state, "progress": f32(0.5)}, jnp.array([True, False, False]))
    assert again["steps_since_fired"].tolist() == [0, 0, 4]
    np.testing.assert_allclose(again["relative_frequency"], [1, *expected[1:]], rtol=1e-5)
    assert float(again["progress"]) == 0.5


def test_the_l0_multiplier_by_hand():
    h = {"l0_target": f32(2.0), "l0_gain": f32(0.1)}
    stat = L0Multiplier()
    state = stat.init(4)
    log_m, mean, weight = 0.0, 0.0, 0.0
    for n_active in (4, 4, 1, 2, 0, 0):
        z = np.tile([1.0] * n_active + [0.0] * (4 - n_active), (3, 1))
        state = stat.step(state, forward_of(z), {}, h)
        mean, weight = mean + 0.05 * (n_active - mean), weight + 0.05 * (1 - weight)
        log_m += 0.1 * np.clip(np.log(mean / weight / 2), -0.5, 0.5)
        np.testing.assert_allclose(state, [log_m, mean, weight], rtol=1e-4, atol=1e-6)
    for n_active, limit in ((4, 6.0), (0, -6.0)):
        z = np.tile([1.0] * n_active + [0.0] * (4 - n_active), (3, 1))
        for _ in range(400):
            state = stat.step(state, forward_of(z), {}, h)
        assert float(state[0]) == limit


# Frequency


def test_frequency_aware_is_inert_where_all_fire_often():
    run = as_run({"relative_frequency": np.linspace(1, 6, S)})
    h = {k: f32(v) for k, v in {"l1_coeff": 0.1, "l1_warmup": 0, "freq_floor": 1e-3}.items()}
    f = forward(SPEC, weights(jax.tree.map(f32, PARAMS)), run, h, f32(X))
    plain = float(L1().cost(f, run, h))
    assert float(FrequencyAware(L1()).cost(f, run, h)) == pytest.approx(np.log(D) * plain, rel=1e-6)
    rare = {**run, "relative_frequency": run["relative_frequency"].at[0].set(0.0)}
    dead = float(FrequencyAware(L1()).per_latent(f, rare, h)[0] / L1().per_latent(f, rare, h)[0])
    assert dead == pytest.approx(np.log(1000 * D), rel=1e-5)  # not infinite


def test_frequency_topk_keeps_the_largest_after_their_cost():
    pre = RNG.normal(size=(N, S)) + 0.5
    h = {"k": f32(3), "freq_coeff": f32(0.2), "freq_floor": f32(1e-3)}
    run = as_run({"relative_frequency": RELATIVE})
    cost = 0.2 * RARITY
    expected = np.zeros_like(pre)
    for row, out in zip(pre, expected, strict=True):
        order = [i for i in np.argsort(-(row - cost)) if row[i] > 0]
        out[order[:3]] = row[order[:3]]
    found = np.asarray(FrequencyTopK().apply(f32(pre), {}, run, h))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    plain = np.asarray(TopK().apply(f32(pre), {}, run, h))
    assert ((found != 0) != (plain != 0)).any()
    often = as_run({"relative_frequency": np.linspace(1, 6, S)})
    np.testing.assert_array_equal(FrequencyTopK().apply(f32(pre), {}, often, h), plain)


# A k that falls


@pytest.mark.parametrize(("progress", "kept"), [(0.0, 8), (0.25, 5), (0.5, 2), (1.0, 2)])
def test_annealed_k(progress, kept):
    pre = RNG.random((N, S)) + 0.1
    h = {"k": f32(2), "k_start": f32(8), "k_anneal": f32(0.5)}
    z = np.asarray(AnnealedTopK().apply(f32(pre), {}, {"progress": f32(progress)}, h))
    np.testing.assert_allclose(z, top(pre, kept), atol=1e-6)


# In the loop


def test_all_of_them_train_in_one_ensemble_without_recompiling():
    steered = ToL0(FrequencyAware(AnnealedLp()))
    penalty = Sum((steered, Tanh(), PreAct(), AuxK(), GhostGradients(), EncDecSimilarity(),
                   DecoderCoherence()))  # fmt: skip
    spec = make_spec("untied", D, S, penalty=penalty)
    world = make_world("sphere", 0, d_in=D, n_features=8, l0=2.0)
    given = {"l1_coeff": 0.05, "l0_coeff": 0.01, "similarity_coeff": 0.01, "coherence_coeff": 0.1,
             "l0_target": [2.0, 4.0], "lr": 3e-3}  # fmt: skip
    sizes = []
    for more in ({}, {"p_end": 0.5, "dead_window": 20.0, "tanh_scale": 1.0, "freq_floor": 0.1}):
        group = make_ensemble([world], [0], spec, {**given, **more}, [0], 32)
        state = advance(start(group), group.once_started(), jnp.int32(1), jnp.float32(400))
        first = np.asarray(state.loss)
        state = advance(state, group.once_started(), jnp.int32(400), jnp.float32(400))
        assert (np.asarray(state.loss) < first).all() and not state.members.diverged.any()
        np.testing.assert_allclose(state.members.run["lp_scale"][0, :, 0], more.get("p_end", 0.2),
                                   atol=1e-5)  # fmt: skip
        sizes.append(advance._cache_size())
    assert sizes[0] == sizes[1]


# Legality


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            {"penalty": EncDecSimilarity(), "encoder": Tied()},
            r"EncDecSim.*Tied.*Untied\(\)",
        ),
        ({"penalty": L0Step()}, r"L0Step .*ReLU.*JumpReLU\(\)"),
        ({"penalty": FrequencyAware(L0Step())}, r"L0Step .*JumpReLU\(\)"),
        ({"penalty": ToL0(L1()), "decoder": Free()}, r"L1 .*Free"),
        ({"penalty": Lp(), "decoder": Free()}, r"Lp .*Free"),
        ({"penalty": AnnealedLp(), "decoder": Free()}, r"AnnealedLp .*Free"),
    ],
)
def test_illegal_pairs_name_both_sides(axes, message):
    with pytest.raises(ToysaeError, match=message):
        SAESpec(D, S, **axes)


def test_legal_pairs():
    SAESpec(D, S, penalty=L0Step(), activation=JumpReLU())
    SAESpec(D, S, penalty=Sum((L1(), EncDecSimilarity(), DecoderCoherence(), PreAct(), AuxK())))
    gated = Sum((FrequencyAware(L1()), GatedAux(), EncDecSimilarity()))
    spec = make_spec("gated", D, S, encoder=Gated(), penalty=ToL0(gated))
    assert {"relative_frequency", "l0_multiplier"} == set(spec.stats())
    assert {"l1_coeff", "l0_target", "freq_floor", "similarity_coeff"} <= set(spec.hypers())
    with pytest.raises(ToysaeError, match="k_start 11 is more than d_sae"):
        make_spec("topk", D, S, activation=AnnealedTopK()).check_hypers({"k": 2, "k_start": 11})
