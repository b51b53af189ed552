"""Which parts go together: what is legal trains, what is not refuses in one line with a remedy."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.disk import subclasses
from toysae.sae import (
    AXES,
    LISTA,
    MLP,
    OMP,
    AbsTopK,
    AnnealedLp,
    AnnealedTopK,
    AuxK,
    ChunkedCoherence,
    DataSamples,
    DecoderCoherence,
    EncDecSimilarity,
    FrequencyAware,
    FrequencyTopK,
    GhostGradients,
    InitData,
    JumpReLU,
    L0Step,
    Lp,
    MatchingPursuit,
    Matryoshka,
    MatryoshkaRandom,
    PreAct,
    SAESpec,
    Tanh,
    TiedGain,
    ToL0,
    init_params,
    make_spec,
    resolve_hypers,
)
from toysae.sae.activations import Activation, BatchTopK, ReLU, Threshold, TopK
from toysae.sae.component import Component, is_abstract
from toysae.sae.decoders import Free, Orthonormal, UnitNorm
from toysae.sae.encoders import FISTA, Encoder, Gated, Tied, Untied
from toysae.sae.inits import Orthogonal, RandomUnit, SvdData
from toysae.sae.penalties import L1, CodesL1, GatedAux, L1DecoderNorm, Penalty, Sum
from toysae.training.optimiser import HYPERS
from toysae.training.state import member_from, member_step

D, S, N, STEPS = 4, 6, 8, 3
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
DATA = InitData(jnp.asarray(X), jnp.eye(D), jnp.eye(D))

ENCODERS = [Untied(), Tied(), TiedGain(), Gated(), MLP(), LISTA(), FISTA(3), MatchingPursuit(3),
            OMP(3), OMP(3, positive=False)]  # fmt: skip
ACTIVATIONS = [ReLU(), TopK(), AbsTopK(), BatchTopK(), JumpReLU(), FrequencyTopK(), AnnealedTopK()]
PENALTIES = [L1(), CodesL1(), L1DecoderNorm(), Lp(), AnnealedLp(), L0Step(), Tanh(), PreAct(),
             AuxK(), GhostGradients(), EncDecSimilarity(), DecoderCoherence(), ChunkedCoherence(2),
             FrequencyAware(L1()), ToL0(L1()), GatedAux(), Sum()]  # fmt: skip
INITS = [RandomUnit(), Orthogonal(), DataSamples(), SvdData()]


def name(part):
    return type(part).__name__


def refusals(encoder, activation, penalty):
    """Pairs that exclude each other, by hand: (who refuses, whom)."""
    pairs = []
    if isinstance(encoder, Gated) and not isinstance(activation, ReLU):
        pairs.append((encoder, activation))
    if encoder == OMP(3, positive=False) and not isinstance(activation, AbsTopK):
        pairs.append((encoder, activation))
    if isinstance(penalty, L0Step) and not isinstance(activation, JumpReLU):
        pairs.append((penalty, activation))
    sparse_coder = isinstance(encoder, FISTA | MatchingPursuit | OMP)
    if isinstance(penalty, PreAct | AuxK | GhostGradients) and sparse_coder:
        pairs.append((penalty, encoder))
    if isinstance(penalty, EncDecSimilarity) and not isinstance(encoder, Untied | Gated):
        pairs.append((penalty, encoder))
    if isinstance(penalty, GatedAux) and not isinstance(encoder, Gated):
        pairs.append((penalty, encoder))
    return pairs


def spec_of(encoder, activation, penalty, init=None):
    """A gated encoder gets the loss that its gate needs."""
    aux = (GatedAux(),) if isinstance(encoder, Gated) and penalty != GatedAux() else ()
    return SAESpec(D, S, UnitNorm(), encoder, activation, Sum((penalty, *aux)),
                   init=init or RandomUnit())  # fmt: skip


def test_every_triple_is_legal_or_refused_in_one_line():
    n_refused = 0
    for triple in itertools.product(ENCODERS, ACTIVATIONS, PENALTIES):
        pairs = refusals(*triple)
        if not pairs:
            spec_of(*triple).at_inference()
            continue
        n_refused += 1
        with pytest.raises(ToysaeError) as caught:
            spec_of(*triple)
        message = str(caught.value)
        assert "\n" not in message and ": use " in message and len(message) < 200
        said = message.split(": use ")[0]
        assert any(
            said.startswith(f"{name(one)} does not go with") and name(other) in said
            for one, other in pairs
        ), message
    assert 250 < n_refused < 700


def test_the_lists_hold_every_part():
    """A part added to the package has to be added here."""

    def parts(base):
        own = {c for c in subclasses(base) if c.__module__.startswith("toysae.")}
        return {c for c in own if not is_abstract(c)}

    assert {type(e) for e in ENCODERS} == parts(Encoder)
    assert {type(a) for a in ACTIVATIONS} == parts(Activation) - {Threshold}
    assert {type(p) for p in PENALTIES} == parts(Penalty)


def test_a_component_is_abstract_or_final():
    """Abstract ones refuse to be used; no final one is the base of another."""
    kinds = [c for c in (Component, *subclasses(Component)) if c.__module__.startswith("toysae.")]
    for kind in kinds:
        bases = [c for c in kind.__mro__[1:] if issubclass(c, Component)]
        assert all(is_abstract(base) for base in bases), kind
        if is_abstract(kind):
            with pytest.raises(ToysaeError, match=f"{kind.__name__} is abstract: give one of "):
                kind()
    assert {kind for kind in kinds if is_abstract(kind)} >= {Component, *AXES.values()}

    class Lacking(Encoder):
        def encode(self, w, x, shift, h):
            raise NotImplementedError

    with pytest.raises(ToysaeError, match="Lacking is abstract: define its init"):
        Lacking()


NUMBERS = {"k": [1.0, 2.0], "k_start": 3.0, "p": 0.5, "l0_target": 2.0, "freq_coeff": 0.1,
           "l0_gain": 0.1, "dead_window": 1.0, "bandwidth": 0.5, "threshold_init": 0.1}  # fmt: skip


def hypers_of(spec):
    """Two members' numbers; every coefficient is 0.05."""
    declared = {**spec.hypers(), **{hyper.name: hyper for hyper in HYPERS}}
    members = []
    for i in range(2):
        given = {n: np.broadcast_to(NUMBERS.get(n, 0.05), 2)[i] for n, hyper in declared.items()
                 if hyper.default is None or n in NUMBERS}  # fmt: skip
        members.append(resolve_hypers(declared, {n: float(v) for n, v in given.items()}))
        spec.check_hypers(members[-1])
    return {n: jnp.asarray([m[n] for m in members], jnp.float32) for n in declared}


def compiled(function, *args):
    """Compilation costs more than these tiny programs: let it be quick, not good."""
    lowered = jax.jit(function).lower(*args)
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return lowered.compile(compiler_options=options if jax.default_backend() == "cpu" else None)


def trains(spec):
    h = hypers_of(spec)
    keys = jax.random.split(jax.random.key(1), 2)

    def three_steps(keys, h):
        members = jax.vmap(lambda key, h: member_from(spec, init_params(spec, key, DATA, h), h))(
            keys, h
        )

        def step(i, carry):
            members, losses = carry
            key = jax.random.fold_in(jax.random.key(0), i)
            one = lambda m, h: member_step(spec, m, h, key, DATA.x, (i + 1) / STEPS)  # noqa: E731
            members, loss = jax.vmap(one)(members, h)
            return members, losses.at[i].set(loss)

        return jax.lax.fori_loop(0, STEPS, step, (members, jnp.zeros((STEPS, 2))))

    members, losses = compiled(three_steps, keys, h)(keys, h)
    assert np.isfinite(losses).all() and not members.diverged.any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((members.params, members.run)))


@cache
def all_legal(encoder, activation):
    """Every penalty that goes with these two, in one sum: one program says it of all."""
    parts = tuple(p for p in PENALTIES if not refusals(encoder, activation, p))
    return SAESpec(D, S, UnitNorm(), encoder, activation, Sum(parts))


LEGAL = [(e, a) for e, a in itertools.product(ENCODERS, ACTIVATIONS)
         if not [p for p in refusals(e, a, Sum())]]  # fmt: skip
ALWAYS = [  # each encoder, each activation, each penalty, each init
    (Untied(), JumpReLU(), SvdData()), (Tied(), FrequencyTopK(), Orthogonal()),
    (TiedGain(), BatchTopK(), DataSamples()), (Gated(), ReLU(), DataSamples()),
    (MLP(), AnnealedTopK(), SvdData()), (LISTA(), TopK(), RandomUnit()),
    (FISTA(3), JumpReLU(), Orthogonal()), (MatchingPursuit(3), ReLU(), RandomUnit()),
    (OMP(3), TopK(), SvdData()), (OMP(3, positive=False), AbsTopK(), DataSamples()),
]  # fmt: skip


def test_what_always_runs_covers_every_part():
    for parts, place in ((ENCODERS, 0), (ACTIVATIONS, 1), (INITS, 2)):
        assert {row[place] for row in ALWAYS} == set(parts)
    assert {p for e, a, _ in ALWAYS for p in all_legal(e, a).penalty.parts} == set(PENALTIES)


def ids(parts):
    return "-".join(map(name, parts))


@pytest.mark.parametrize("row", ALWAYS, ids=ids)
def test_legal_parts_train(row):
    encoder, activation, init = row
    trains(SAESpec(D, S, UnitNorm(), encoder, activation, all_legal(encoder, activation).penalty,
                   init=init))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("init", INITS, ids=name)
@pytest.mark.parametrize("pair", LEGAL, ids=ids)
def test_every_legal_combination_trains(pair, init):
    encoder, activation = pair
    trains(SAESpec(D, S, UnitNorm(), encoder, activation, all_legal(encoder, activation).penalty,
                   init=init))  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_spec("gated", D, S, activation=TopK()),
         r"Gated does not go with UnitNorm, TopK: use activation=ReLU\(\)"),
        (lambda: make_spec("tied", D, S, encoder=(Tied(), MLP())),
         r"encoder=\(Tied\(\), MLP\(.*\)\) is not an Encoder: give one of .*MLP.*Untied"),
        (lambda: make_spec("tied", D, S, encoder="tied"),
         r"encoder='tied' is not an Encoder: did you mean encoder=Tied\(\)\? give one of"),
        (lambda: make_spec("tied", D, S, penalty="l1"),
         r"penalty='l1' is not a Penalty: did you mean penalty=L1\(\)\? give one of AnnealedLp"),
        (lambda: make_spec("tied", D, S, activation=MLP()),
         r"activation=MLP\(.* is not an Activation"),
        (lambda: make_spec("mlp", D, S, penalty=EncDecSimilarity()),
         r"EncDecSimilarity does not go with UnitNorm, MLP, ReLU: use encoder=Untied\(\)"),
        (lambda: make_spec("fista", D, S, penalty=AuxK()),
         r"AuxK does not go with UnitNorm, FISTA, ReLU: use encoder=Untied\(\)"),
        (lambda: make_spec("omp", D, S, encoder=OMP(positive=False)),
         r"OMP does not go with UnitNorm, ReLU: use activation=AbsTopK\(\)"),
        (lambda: make_spec("untied", D, S, decoder=Free()),
         r"L1 does not go with Free, Untied, ReLU: use decoder=UnitNorm\(\)"),
        (lambda: make_spec("untied", D, S, decoder=Orthonormal()),
         r"Orthonormal with d_sae 6: at most d_in = 4 rows .*use decoder=TightFrame\(\)"),
        (lambda: make_spec("topk", D, S, objective=Matryoshka((2, 4))),
         r"Matryoshka with d_sae 6: widths \(2, 4\) must end at d_sae = 6: append it"),
        (lambda: make_spec("topk", D, S, objective=Matryoshka((4, 2, 6))),
         r"widths \(4, 2, 6\) must be positive and increase: sort them"),
        (lambda: make_spec("topk", D, S, objective=Matryoshka((3, 3, 6))), "must be .* increase"),
        (lambda: make_spec("topk", D, S, objective=Matryoshka(())), "must end at d_sae"),
        (lambda: make_spec("topk", D, S, objective=Matryoshka((2, 6), (1.0,))), "1 weights for 2"),
        (lambda: make_spec("topk", D, S, objective=MatryoshkaRandom(0)), "n_prefixes 0"),
        (lambda: make_spec("tpok", D, S), "unknown recipe 'tpok': did you mean 'topk'"),
        (lambda: make_spec("topk", D, S, "ortogonal"), "unknown init .*mean 'orthogonal'"),
        *((lambda r=r: make_spec(r, D, S).check_hypers({"k": 7.0}), r"k 7 is more than .*give a")
          for r in ("topk", "batchtopk", "abstopk", "omp")),
        (lambda: make_spec("omp", D, 20).check_hypers({"k": 17.0}), "more than n_steps = 16"),
    ],
)  # fmt: skip
def test_refusals_by_hand(make, message):
    with pytest.raises(ToysaeError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
