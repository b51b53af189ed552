"""Resampling: who, when, from which inputs, and that nothing else moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from toysae.errors import ToysaeError
from toysae.sae import (
    OMP,
    AuxK,
    InitData,
    MatchingPursuit,
    ResampleDead,
    ResampleRare,
    SAESpec,
    SoftFrozen,
    init_params,
    make_spec,
)
from toysae.sae.activations import BatchTopK, ReLU
from toysae.sae.amortised import LISTA, MLP
from toysae.sae.component import Encoding
from toysae.sae.decoders import Normalised, Orthonormal, UnitNorm
from toysae.sae.encoders import FISTA, Encoder, Gated, Tied, TiedGain, Untied
from toysae.sae.jumprelu import JumpReLU
from toysae.sae.l0_penalties import L0Step
from toysae.sae.objectives import Denoising
from toysae.sae.penalties import L1, GatedAux, Sum
from toysae.training import advance, start
from toysae.training.loop import _resample
from toysae.training.members import make_ensemble
from toysae.training.resampling import draw_indices, due_steps, resample_member, sample_losses
from toysae.training.state import member_from, member_latent_axes, member_loss
from toysae.worlds import make_world

D, S, BATCH, N = 6, 10, 32, 500
DEAD = np.isin(np.arange(S), [1, 4, 8])
X = make_world("sphere", 7, d_in=D, n_features=8, l0=1.5).sample(jax.random.key(0), N).x
AXES = {
    "untied": {},
    "tied": {"encoder": Tied(), "decoder": Normalised("none")},
    "gain": {"encoder": TiedGain()},
    "gated": {"encoder": Gated(), "penalty": Sum((L1(), GatedAux()))},
    "jumprelu": {"activation": JumpReLU(), "penalty": L0Step()},
    "mlp": {"encoder": MLP(2.0)},
}
GIVEN = {"l1_coeff": 0.1, "l0_coeff": 0.1, "k": 2.0}


def group_of(hypers=(), sae_seeds=(0,), n_worlds=1, **axes):
    spec = SAESpec(D, S, **{"resample": ResampleDead(n_inputs=N), **axes})
    worlds = [make_world("sphere", s, d_in=D, n_features=8, l0=1.5) for s in range(n_worlds)]
    given = {k: v for k, v in GIVEN.items() if k in spec.hypers()}
    return make_ensemble(worlds, list(range(n_worlds)), spec, {**given, **dict(hypers)}, sae_seeds,
                      BATCH)  # fmt: skip


def go(ensemble, until, n_steps=None, state=None):
    state = start(ensemble) if state is None else state
    n_steps = jnp.float32(n_steps or until)
    return advance(state, ensemble.once_started(), jnp.int32(until), n_steps)


def one_member(axes):
    """A member away from its start, with three latents dead and moments everywhere."""
    ensemble = group_of(**axes)
    member = jax.tree.map(lambda leaf: leaf[0, 0], start(ensemble).members)
    keys = iter(jax.random.split(jax.random.key(1), 100))

    def moved(leaf):
        return leaf + 0.1 * jax.random.normal(next(keys), leaf.shape) if leaf.ndim else leaf

    ages = jnp.where(jnp.asarray(DEAD), 700, 3)
    member = member.replace(
        params=jax.tree.map(moved, member.params),
        opt=jax.tree.map(moved, member.opt),
        run={**member.run, "steps_since_fired": ages},
    )
    return ensemble, member, {k: v[0] for k, v in ensemble.once_started().hypers.items()}


def resampled(ensemble, member, h, key=0):
    spec = ensemble.spec
    return jax.jit(resample_member, static_argnums=0)(
        spec, member, h, jax.random.key(key), X, jnp.float32(0.25), jnp.float32(8000)
    )


def latents_last(name, leaf):
    """An array with its latents along the last axis."""
    return np.asarray(leaf).T if name == "W_dec" else np.asarray(leaf)


# What moves and what does not


@pytest.mark.parametrize("name", AXES)
def test_only_the_dead_latents_change(name):
    ensemble, before, h = one_member(AXES[name])
    after = resampled(ensemble, before, h)
    own = ensemble.spec.encoder.latent_axes()
    triples = [(before.params, after.params)]
    for moment in ("mu", "nu"):
        triples.append((getattr(before.opt, moment), getattr(after.opt, moment)))
    for i, (old, new) in enumerate(triples):
        arrays = {"W_dec": (old.W_dec, new.W_dec)}
        arrays |= {n: (old.enc[n], new.enc[n]) for n in old.enc if own[n]}
        arrays |= {n: (old.act[n], new.act[n]) for n in old.act}
        for array, pair in arrays.items():
            a, b = (latents_last(array, leaf) for leaf in pair)
            np.testing.assert_array_equal(a[..., ~DEAD], b[..., ~DEAD])
            assert (a[..., DEAD] != b[..., DEAD]).any(), array
            if i:
                assert not b[..., DEAD].any(), array
        for array in [n for n in old.enc if not own[n]]:
            np.testing.assert_array_equal(old.enc[array], new.enc[array])
        if old.b_dec is not None:
            np.testing.assert_array_equal(old.b_dec, new.b_dec)
    assert after.opt.count == before.opt.count
    assert (np.asarray(after.run["steps_since_fired"]) == np.where(DEAD, 0, 3)).all()


def test_new_latents_are_inputs_as_published():
    ensemble, before, h = one_member({})
    after = resampled(ensemble, before, h)
    unit = np.asarray(X, np.float64)
    lengths = np.linalg.norm(unit, axis=1)
    unit = unit[lengths > 0] / lengths[lengths > 0, None]
    rows = np.asarray(after.params.W_dec)[DEAD]
    np.testing.assert_allclose((rows @ unit.T).max(1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    W_enc = np.asarray(after.params.enc["W_enc"], np.float64)
    mean = np.linalg.norm(W_enc[:, ~DEAD], axis=0).mean()
    np.testing.assert_allclose(W_enc[:, DEAD].T, 0.2 * mean * rows, rtol=1e-4, atol=1e-6)
    assert not np.asarray(after.params.enc["b_enc"])[DEAD].any()


@pytest.mark.parametrize("name", ["gain", "gated", "jumprelu"])
def test_what_else_a_latent_has_starts_again(name):
    ensemble, before, h = one_member(AXES[name])
    params = resampled(ensemble, before, h).params
    for array in {"log_gain", "b_gate", "b_mag", "r_mag", "b_enc"} & set(params.enc):
        assert not np.asarray(params.enc[array])[DEAD].any()
    if params.act:
        np.testing.assert_allclose(np.asarray(params.act["log_threshold"])[DEAD], np.log(1e-3),
                                   rtol=1e-5)  # fmt: skip


def test_a_diverged_member_and_a_perfect_one_are_left_alone():
    ensemble, before, h = one_member({})
    ill = before.replace(diverged=jnp.array(True))
    broken = before.replace(params=before.params.replace(b_dec=before.params.b_dec * jnp.nan))
    for member in (ill, broken):
        after = resampled(ensemble, member, h)
        for a, b in zip(jax.tree.leaves(member), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(a, b)


def test_with_no_latent_living_the_encoder_still_has_a_length():
    ensemble, before, h = one_member({})
    none = before.replace(run={**before.run, "steps_since_fired": jnp.full(S, 700, jnp.int32)})
    params = resampled(ensemble, none, h).params
    np.testing.assert_allclose(np.linalg.norm(params.enc["W_enc"], axis=0), 0.2, rtol=1e-4)


# Which inputs


def test_draws_are_proportional_to_the_weights():
    weights = jnp.asarray(np.random.default_rng(0).exponential(size=40) ** 2, jnp.float32)
    weights = weights.at[jnp.array([0, 17, 39])].set(0)
    keys = jax.random.split(jax.random.key(1), 40_000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: draw_indices(key, weights, 1)))(keys))[:, 0]
    counts = np.bincount(drawn, minlength=40)
    positive = np.asarray(weights) > 0
    assert not counts[~positive].any()
    law = np.asarray(weights, np.float64)[positive]
    assert chisquare(counts[positive], 40_000 * law / law.sum()).pvalue > 1e-3


def test_no_input_is_drawn_twice_while_others_are_left():
    weights = jnp.arange(12.0).at[3].set(0)  # 0 and 3 are never drawn
    drawn = np.asarray(draw_indices(jax.random.key(1), weights, 25))
    assert sorted(drawn[:10]) == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert (drawn[10:20] == drawn[:10]).all()


def test_latents_that_start_at_one_input_part():
    """Without anything between them they had the same gradient, and stayed equal for good."""
    ensemble, before, h = one_member({})
    one = jnp.broadcast_to(X[jnp.argmax(jnp.abs(X).sum(1))], X.shape)  # all inputs are the same
    after = jax.jit(resample_member, static_argnums=0)(
        ensemble.spec, before, h, jax.random.key(0), one, jnp.float32(0.25), jnp.float32(8000)
    )
    rows = np.asarray(after.params.W_dec)[DEAD]
    assert len(np.unique(rows, axis=0)) == DEAD.sum()
    np.testing.assert_allclose(rows @ rows.T, 1, atol=1e-4)


def test_inputs_are_drawn_by_the_square_of_their_loss():
    """One dead latent, many keys: which input became its row."""
    ensemble, before, h = one_member({})
    few = np.random.default_rng(2).normal(size=(8, D)) * np.linspace(0.5, 1.5, 8)[:, None]
    few = np.concatenate([few, np.zeros((1, D))]).astype(np.float32)
    run = {**before.run, "progress": jnp.float32(0.25)}
    losses = sample_losses(
        ensemble.spec, before.params, run, h, jax.random.key(0), jnp.asarray(few)
    )

    def row(key):
        args = (before, h, key, jnp.asarray(few), jnp.float32(0.25), jnp.float32(8000))
        return resample_member(ensemble.spec, *args).params.W_dec[1]

    rows = np.asarray(jax.jit(jax.vmap(row))(jax.random.split(jax.random.key(5), 4000)))
    unit = few[:-1] / np.linalg.norm(few[:-1], axis=1, keepdims=True)
    which = (rows @ unit.T).argmax(1)
    assert ((rows @ unit.T).max(1) > 1 - 1e-5).all()
    law = np.asarray(losses, np.float64)[:-1] ** 2
    expected = 4000 * law / law.sum()
    assert expected.max() > 2 * expected.min()
    assert chisquare(np.bincount(which, minlength=8), expected).pvalue > 1e-3


@pytest.mark.parametrize(
    "axes",
    [{}, AXES["gated"], {"penalty": Sum((L1(), AuxK()))}, {"activation": BatchTopK()}],
    ids=["untied", "gated", "auxk", "batchtopk"],
)
def test_sample_losses_average_to_the_loss(axes):
    ensemble, member, h = one_member(axes)
    run = {**member.run, "progress": jnp.float32(1)}
    args = (ensemble.spec, member.params, run, h, jax.random.key(0), X)
    losses = jax.jit(sample_losses, static_argnums=0)(*args)
    loss, _ = jax.jit(member_loss, static_argnums=0)(*args)
    assert losses.shape == (N,)
    assert float(losses.mean()) == pytest.approx(float(loss), rel=1e-4)


# When, and in the loop


def test_due_steps():
    assert due_steps(ResampleDead(), jnp.float32(200_000)).tolist() == [25000, 50000, 75000, 100000]


ENSEMBLE = {"sae_seeds": (0, 1), "n_worlds": 2}


def with_dead(ensemble):
    """The first state, with four latents of each member killed for good by a bias of -5."""
    state = start(ensemble)
    params = state.members.params
    b_enc = params.enc["b_enc"].at[..., :4].set(-5.0)
    params = params.replace(enc={**params.enc, "b_enc": b_enc})
    return state.replace(members=state.members.replace(params=params))


def test_the_loop_resamples_at_its_times_in_any_chunks():
    ensemble = group_of({"lr": 3e-3, "l1_coeff": [0.05, 0.1]}, **ENSEMBLE)
    whole = go(ensemble, 80, 80, with_dead(ensemble))
    compiled = advance._cache_size()
    state = with_dead(ensemble)
    for until in (9, 10, 11, 40, 55, 80):
        state = go(ensemble, until, 80, state)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    # By hand: ten steps of a run so long that none is due, then the dead of every member.
    before = go(ensemble, 10, 1e6, with_dead(ensemble))
    dead = np.asarray(before.members.run["steps_since_fired"]) >= 5
    assert dead[..., :4].all() and not dead[..., 4:].all()
    hand = jax.jit(_resample)(before, ensemble.once_started(), jnp.float32(80))
    loop = go(ensemble, 10, 80, with_dead(ensemble))
    moved = (np.asarray(before.members.params.W_dec) != loop.members.params.W_dec).any(-1)
    np.testing.assert_array_equal(moved, dead)
    for a, b in zip(jax.tree.leaves(hand), jax.tree.leaves(loop), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    rows = np.asarray(loop.members.params.W_dec)[..., :4, :].reshape(-1, D)
    assert len(np.unique(rows.round(4), axis=0)) > 15  # of 16 for each seed: members draw theirs
    other = group_of({"lr": 1e-3, "l1_coeff": [0.1, 1.0], "resample_window": 0.2,
                      "resample_scale": 0.5}, sae_seeds=(2, 3), n_worlds=2)  # fmt: skip
    go(other, 7, 33)
    assert advance._cache_size() == compiled


def test_a_diverged_member_stands_still_in_the_loop():
    ensemble = group_of({"lr": [3e-3, 1e30], "l1_coeff": 0.1}, **ENSEMBLE)
    state = go(ensemble, 9, 80, with_dead(ensemble))
    assert state.members.diverged.tolist() == [[False, False, True, True]] * 2
    early = jax.device_get(state.members.params)
    late = jax.device_get(go(ensemble, 80, 80, state).members.params)
    for a, b in zip(jax.tree.leaves(early), jax.tree.leaves(late), strict=True):
        np.testing.assert_array_equal(a[:, 2:], b[:, 2:])
        assert np.isfinite(b).all()


def test_dead_latents_come_back():
    """After 2000 steps, of the latents that a bias of -5 killed in each of eight SAEs."""
    ensemble = group_of({"lr": 3e-3, "l1_coeff": [0.03, 0.05]}, **ENSEMBLE)
    fires = []
    for n_steps in (1e9, 2000):  # of so long a run the first resampling is never reached
        run = go(ensemble, 2000, n_steps, with_dead(ensemble)).members.run
        fires.append((np.asarray(run["steps_since_fired"])[..., :4] < 100).mean())
    assert fires[0] == 0 and fires[1] > 0.6


def test_the_rare_are_those_below_the_rate():
    run = {"relative_frequency": jnp.array([6.0, 1.0, 0.06, 0.059, 0.0])}
    chosen = ResampleRare().chosen(run, {"min_rate": jnp.float32(0.01)}, jnp.float32(10), D)
    assert chosen.tolist() == [False, False, False, True, True]


# Legality


ENCODERS = [Untied(), Tied(), TiedGain(), Gated(), MLP(2.0, 2), LISTA(1), LISTA(3), LISTA(3, False),
            FISTA(), OMP(), MatchingPursuit()]  # fmt: skip
DECODERS = [UnitNorm(), Normalised("none"), SoftFrozen()]
ACTIVATIONS = [ReLU(), BatchTopK(), JumpReLU()]


def member_of(d_sae, **axes):
    """The shapes of a member, without the legality of its spec."""
    spec = SAESpec(D, d_sae)
    for axis, component in axes.items():
        object.__setattr__(spec, axis, component)
    data = InitData(jnp.zeros((4, D)), jnp.eye(D), jnp.eye(D))
    h = {name: jnp.float32(0.5) for name in {**spec.hypers(), "beta1": 0, "beta2": 0}}
    return spec, jax.eval_shape(
        lambda: member_from(spec, init_params(spec, jax.random.key(0), data, h), h)
    )


@pytest.mark.parametrize(
    "axes",
    [*({"encoder": e} for e in ENCODERS), *({"decoder": d} for d in DECODERS[1:]),
     *({"activation": a} for a in ACTIVATIONS[1:]), {"resample": ResampleDead()}],
    ids=lambda axes: repr(*axes.values()),
)  # fmt: skip
def test_components_declare_the_axes_that_grow_with_the_latents(axes):
    """As two sizes show it; and a square SAE, whose shapes show nothing, has the same axes."""
    (spec, small), (_, large) = member_of(S, **axes), member_of(S + 1, **axes)
    declared = member_latent_axes(spec, small)

    def check(axis, one, two):
        grown = [i - one.ndim for i in range(one.ndim) if one.shape[i] + 1 == two.shape[i]]
        assert axis == (grown[0] if grown else 0)

    jax.tree.map(check, declared, small, large)
    encoder = spec.encoder.latent_axes()
    for name, over in encoder.items():
        grown = np.not_equal(small.params.enc[name].shape, large.params.enc[name].shape)
        assert tuple(np.flatnonzero(grown) - len(grown)) == over
    assert set(encoder) == set(small.params.enc)
    square_spec, square = member_of(D, **axes)
    assert jax.tree.leaves(member_latent_axes(square_spec, square)) == jax.tree.leaves(declared)


def test_an_array_without_declared_axes_is_named():
    class Silent(Encoder):
        def init(self, key, enc_rows, h):
            return {"V": enc_rows}

        def encode(self, w, x, shift, h):
            return Encoding(x @ w.enc["V"].T)

    with pytest.raises(ToysaeError, match="Silent does not say which axes of V run over latents"):
        member_of(S, encoder=Silent())


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"decoder": Orthonormal(), "d_sae": 4}, r"resample ResampleDead .*Orthonormal.*UnitNorm"),
        ({"encoder": LISTA(2)}, r"LISTA mixes latents in S.*Untied"),
        ({"resample": ResampleDead((0.0, 0.5))}, r"times \(0.0, 0.5\)"),
        ({"resample": ResampleDead(())}, r"times \(\)"),
        ({"resample": ResampleRare(n_inputs=0)}, "n_inputs 0"),
        ({"resample": UnitNorm()}, r"resample=UnitNorm.* is not a Resampling"),
    ],
)
def test_impossible_resampling_is_refused(axes, message):
    with pytest.raises(ToysaeError, match=message):
        SAESpec(**{"d_in": D, "d_sae": S, "resample": ResampleDead(), **axes})


def test_the_spec_declares_what_resampling_reads():
    spec = make_spec("untied", D, S, resample=ResampleDead(), objective=Denoising())
    assert {"resample_window", "resample_scale", "noise"} <= set(spec.hypers())
    assert set(spec.stats()) == {"steps_since_fired"}
    assert set(make_spec("untied", D, S, resample=ResampleRare()).stats()) == {"relative_frequency"}
    assert not make_spec("untied", D, S).stats()
