"""The state of an ensemble before any step.

It is made by three small programs, each shared by all ensembles that can: the data of worlds that
inits read, the rows of an init, and the state around them, which does not depend on the init.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key, UInt32

from .. import hosts
from ..keys import label_bits, named_key, seed_key
from ..linalg import Axes
from ..sae import Hypers, InitData, SAESpec
from ..sae.component import components_of
from ..sae.decoders import BiasStart
from ..sae.forward import params_from
from ..sae.inits import Init, axes_for, first_bias
from ..worlds import Drawn
from .devices import ROWS, Layout, over_rows
from .ensemble import STATE, Ensemble, pinned, specs_of
from .state import Member, TrainState, member_from, member_key

INIT_SAMPLES = 4096

FirstRows = tuple[Float[Array, "*lead d_sae d_in"], Float[Array, "*lead d_sae d_in"]]
"""Rows of decoders and of encoders."""


def start(ensemble: Ensemble, layout: Layout | None = None) -> TrainState:
    """The state before any step. With a layout the ensemble must already be spread in it."""
    data, bias = data_of_worlds(ensemble, layout)
    return start_from(ensemble.once_started(), first_rows(ensemble, data, layout), bias, layout)


def first_rows(ensemble: Ensemble, data: InitData, layout: Layout | None = None) -> FirstRows:
    """The first decoder and encoder rows of every member, `[n_worlds, n_members, d_sae, d_in]`
    each, before the encoder's scale."""
    init = ensemble.spec.init
    read = {hyper.name for component in components_of(init) for hyper in component.hypers}
    h = {name: value for name, value in ensemble.hypers.items() if name in read}

    def rows_of(label: str) -> Array:
        seeds = ensemble.world_seeds, ensemble.sae_seeds
        keys = _init_keys(*seeds, label_bits(label), layout)
        drawn = replace(init, encoder="transpose")  # either way the same program draws
        return _rows(drawn, ensemble.spec.d_sae, keys, data, h, layout)

    dec = rows_of("decoder")
    return dec, dec if init.encoder == "transpose" else rows_of("encoder")


@partial(jax.jit, static_argnames="layout")
def _init_keys(
    world_seeds: Int[Array, " n_worlds"],
    sae_seeds: Int[Array, " n_members"],
    label: UInt32[Array, ""] | UInt32[np.ndarray, ""],
    layout: Layout | None,
) -> Key[Array, "n_worlds n_members"]:
    """The key of each member's rows under a label. By themselves, as the random numbers of a key
    take about as long to compile as those of an init."""

    def of_all(worlds: Array, saes: Array, label: Array) -> Array:
        def one(world_seed: Array, sae_seed: Array) -> Array:
            key = named_key(member_key(world_seed, sae_seed), "init")
            return jax.random.fold_in(key, label)

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(worlds, saes)

    specs = P("world"), P("member"), P()
    return over_rows(of_all, layout, specs, ROWS)(world_seeds, sae_seeds, label)


@partial(jax.jit, static_argnames=("init", "d_sae", "layout"))
def _rows(
    init: Init,
    d_sae: int,
    keys: Key[Array, "n_worlds n_members"],
    data: InitData,
    h: Hypers,
    layout: Layout | None,
) -> Float[Array, "n_worlds n_members d_sae d_in"]:
    """Rows of the decoders or of the encoders, as their keys say."""

    def of_all(keys: Array, data: InitData, h: Hypers) -> Array:
        def one(key: Array, data: InitData, h: Hypers) -> Array:
            return init.rows(key, d_sae, data, h)

        return jax.vmap(jax.vmap(one, (0, None, 0)), (0, 0, None))(keys, data, h)

    specs = ROWS, P("world"), P("member")
    return over_rows(of_all, layout, specs, ROWS)(keys, data, h)


@partial(jax.jit, static_argnames="layout")
def start_from(
    ensemble: Ensemble,
    rows: FirstRows,
    bias: Float[Array, "n_worlds d_in"],
    layout: Layout | None = None,
) -> TrainState:
    """The state before any step, from the rows of :func:`first_rows`."""
    specs = specs_of(ensemble), ROWS, P("world")
    state = over_rows(_start, layout, specs, STATE)(ensemble, rows, bias)
    return pinned(state, ensemble.spec, layout)


def _start(ensemble: Ensemble, rows: FirstRows, bias: Array) -> TrainState:
    spec = ensemble.spec

    def one(world_seed: Array, bias: Array, rows: FirstRows, sae_seed: Array, h: Hypers) -> Member:
        key, rows = member_key(world_seed, sae_seed), spec.init.scaled(*rows, h)
        return member_from(spec, params_from(spec, key, rows, bias, h), h)

    of_world = jax.vmap(one, (None, None, 0, 0, 0))
    members = jax.vmap(of_world, (0, 0, 0, None, None))(
        ensemble.world_seeds, bias, rows, ensemble.sae_seeds, ensemble.hypers
    )
    firings = jnp.zeros(ensemble.worlds.directions.shape[:2], jnp.int32)
    return TrainState(members, jnp.int32(0), firings, jnp.zeros_like(members.diverged, jnp.float32))


def data_of_worlds(
    ensemble: Ensemble, layout: Layout | None = None
) -> tuple[InitData, Float[Array, "n_worlds d_in"]]:
    """What the init may read of each world, leading axis `[n_worlds]`, and where biases start.
    Singular axes are computed outside of any program."""
    spec, worlds, n_worlds = ensemble.spec, ensemble.worlds, len(ensemble.world_seeds)

    def spread(tree: Any) -> Any:
        if layout is None:
            return jax.tree.map(jnp.asarray, tree)
        return layout.spread(tree, P("world"))

    def axes_of_all() -> Axes:
        each = [jax.device_get(axes_for(spec.init, array)) for array in np.asarray(read)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *each)

    none, zero = (np.zeros((n_worlds, *n, spec.d_in), np.float32) for n in ((0,), ()))
    no_x, bias = spread((none, zero))
    x = no_x
    if reads_samples(spec):
        x, bias = _samples(worlds, ensemble.world_seeds, spec.decoder.bias_start, layout)
    data = InitData(x, worlds.generating_matrix, worlds.target)
    if spec.init.axes_from:
        read = hosts.whole(getattr(data, spec.init.axes_from))
        data = replace(data, axes=spread(hosts.on_first(axes_of_all)))
    return data if spec.init.reads_x else replace(data, x=no_x), bias


def reads_samples(spec: SAESpec) -> bool:
    """Whether SAEs of a spec start from samples of their world."""
    init = spec.init
    return init.reads_x or init.axes_from == "x" or spec.decoder.bias_start != "zero"


def init_samples(world: Drawn, world_seed: Int[Array, ""]) -> Float[Array, "n d_in"]:
    """The data that inits may read, from the world's stream for that purpose."""
    return world.sample(seed_key(world_seed, "init data"), INIT_SAMPLES).x


@partial(jax.jit, static_argnames=("bias_start", "layout"))
def _samples(
    worlds: Drawn,
    world_seeds: Int[Array, " n_worlds"],
    bias_start: BiasStart,
    layout: Layout | None,
) -> tuple[Float[Array, "n_worlds n d_in"], Float[Array, "n_worlds d_in"]]:
    """The data of each world that inits may read, and where biases start."""

    def of_world(world: Drawn, seed: Array) -> tuple[Array, Array]:
        x = init_samples(world, seed)
        return x, first_bias(bias_start, x)

    by_world = P("world")
    return over_rows(jax.vmap(of_world), layout, by_world, by_world)(worlds, world_seeds)
