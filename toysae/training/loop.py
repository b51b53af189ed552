"""The training loop: every member of an ensemble, on every world, in one compiled program.

Data are drawn on the device inside the loop and never stored. All members of a world see the
same batches. A chunk ends where a point of the learning curves is due.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from .. import hosts, pytree
from ..keys import named_key
from ..sae import SAE, Hypers, finished
from ..sae.resampling import AtTimes
from ..watch import doing
from ..worlds import World
from .chunks import CHUNK_SECONDS, Pace, Snapshot, placed_like
from .devices import ROWS, Layout, by_batch, layout_of, over_rows
from .ensemble import STATE, Ensemble, pinned, specs_of, spread_ensemble
from .resampling import due_steps, resample_member
from .starting import start
from .state import Member, TrainState, keys_of, member_step

PROBE_SAMPLES = 1024

Probe = Callable[[SAE, World, Float[Array, "n d_in"]], dict[str, Array]]
"""Scores one SAE on one evaluation batch: scalars or vectors by name, a point of the curves."""

Feed = Callable[[int], tuple[Any, int]]
"""Takes a step, and returns stacked worlds that hold its data and those of the steps after it, and
the first step whose data they do not hold. All have the same shapes, so that nothing is compiled
again."""


@partial(jax.jit, donate_argnums=0, static_argnames="layout")
def advance(
    state: TrainState,
    ensemble: Ensemble,
    until: Array,
    n_steps: Array,
    layout: Layout | None = None,
) -> TrainState:
    """Trains until step `until` of `n_steps`. Both are traced, so that one program serves any
    number of steps. `state` is donated."""
    specs = (STATE, specs_of(ensemble), P(), P())
    state = over_rows(_advance, layout, specs, STATE)(state, ensemble, until, n_steps)
    return pinned(state, ensemble.spec, layout)


def _advance(state: TrainState, ensemble: Ensemble, until: Array, n_steps: Array) -> TrainState:
    data_keys = keys_of(ensemble.world_seeds, "train")

    def in_world(world, key, step, members: Member, firings, progress):
        batch = world.batch(key, step, ensemble.batch_size)
        x = by_batch(batch.x)

        def one(member, h):
            return member_step(ensemble.spec, member, h, key, x, progress)

        members, loss = jax.vmap(one)(members, ensemble.hypers)
        return members, loss, firings + batch.feature_counts()

    def step(state: TrainState) -> TrainState:
        keys = jax.vmap(jax.random.fold_in, (0, None))(data_keys, state.step)
        progress = (state.step + 1) / n_steps
        members, loss, firings = jax.vmap(in_world, (0, 0, None, 0, 0, None))(
            ensemble.worlds, keys, state.step, state.members, state.firings, progress
        )
        return TrainState(members, state.step + 1, firings, loss)

    def steps_to(state: TrainState, stop: Array) -> TrainState:
        return jax.lax.while_loop(lambda s: s.step < stop, step, state)

    rule = ensemble.spec.resample
    if not isinstance(rule, AtTimes):
        return steps_to(state, until)
    due = due_steps(rule, n_steps)

    def stretch(state: TrainState) -> TrainState:
        """Trains to the next resampling or to the end: the cond is not evaluated at each step."""
        ahead = jnp.where(due > state.step, due, until).min()
        state = steps_to(state, jnp.minimum(ahead, until))
        return jax.lax.cond(
            (due == state.step).any(), lambda s: _resample(s, ensemble, n_steps), lambda s: s, state
        )

    return jax.lax.while_loop(lambda s: s.step < until, stretch, state)


def _resample(state: TrainState, ensemble: Ensemble, n_steps: Array) -> TrainState:
    """Restarts latents by the spec's rule, one member at a time: all at once would need
    `n_inputs * d_sae` numbers for each member."""
    rule = ensemble.spec.resample
    assert isinstance(rule, AtTimes)
    keys = keys_of(ensemble.world_seeds, "resampling")
    progress = state.step / n_steps

    def in_world(of_world):
        world, key, members = of_world
        key = jax.random.fold_in(key, state.step)
        x = world.sample(named_key(key, "inputs"), rule.n_inputs).x

        def one(of_member):
            member, h, seed = of_member
            own = jax.random.fold_in(named_key(key, "member"), seed)
            return resample_member(ensemble.spec, member, h, own, x, progress, n_steps)

        return jax.lax.map(one, (members, ensemble.hypers, ensemble.sae_seeds))

    return replace(state, members=jax.lax.map(in_world, (ensemble.worlds, keys, state.members)))


@partial(jax.jit, static_argnames="layout")
def trained(state: TrainState, ensemble: Ensemble, layout: Layout | None = None) -> SAE:
    """The SAEs of a state, leading axes `[n_worlds, n_members]`."""
    return over_rows(_trained, layout, (STATE, specs_of(ensemble)), ROWS)(state, ensemble)


def _trained(state: TrainState, ensemble: Ensemble) -> SAE:
    def one(member: Member, h: Hypers) -> SAE:
        return finished(ensemble.spec, member.params, member.run, h)

    return jax.vmap(jax.vmap(one), (0, None))(state.members, ensemble.hypers)


@partial(jax.jit, static_argnames=("probe", "n_eval", "layout"))
def probe_all(
    state: TrainState, ensemble: Ensemble, probe: Probe, n_eval: int, layout: Layout | None = None
) -> dict[str, Array]:
    """Applies `probe` to every member, on the same evaluation batch at every call."""

    def in_world(world, key, saes):
        x = world.sample(key, n_eval).x
        return jax.vmap(probe, (0, None, None))(saes, world, x)

    def measure(state: TrainState, ensemble: Ensemble) -> dict[str, Array]:
        keys = keys_of(ensemble.world_seeds, "curve")
        return jax.vmap(in_world)(ensemble.worlds, keys, _trained(state, ensemble))

    return over_rows(measure, layout, (STATE, specs_of(ensemble)), ROWS)(state, ensemble)


def curve_points(n_steps: int, n_points: int) -> np.ndarray:
    """Steps at which curves are measured: 0, then half of them evenly and half geometrically
    spaced, so that both the first hundred steps and the plateau are seen."""
    even = np.linspace(0, n_steps, max(n_points // 2, 1) + 1)
    early = np.geomspace(min(100, n_steps), n_steps, max(n_points - n_points // 2, 1))
    return np.unique(np.concatenate([even, early]).round().astype(int))


@pytree.dataclass
class Trained:
    """A trained ensemble.

    Attributes:
        saes: leading axes `[n_worlds, n_members]`.
        diverged: `[n_worlds, n_members]`; a diverged member has stood still since.
        firings: `[n_worlds, n_features]` how often each feature fired in training.
        curve_steps: `[points]`, the first is 0.
        curves: each `[n_worlds, n_members, points]`, those of vectors `[..., length, points]`.
    """

    saes: SAE
    diverged: np.ndarray
    firings: np.ndarray
    curve_steps: np.ndarray
    curves: dict[str, np.ndarray]


def train_ensemble(
    ensemble: Ensemble,
    n_steps: int,
    probe: Probe,
    n_points: int = 40,
    n_eval: int = PROBE_SAMPLES,
    on_chunk: Callable[[Snapshot], None] = lambda snapshot: None,
    resume: Snapshot | None = None,
    feed: Feed | None = None,
) -> Trained:
    """Trains an ensemble to the end.

    Args:
        ensemble: worlds x members.
        n_steps: Adam steps of every member.
        probe: what the learning curves hold.
        n_points: about how many points they have, besides step 0.
        n_eval: samples that each point is measured on.
        on_chunk: called with a snapshot after each chunk of at most about
            :data:`~toysae.training.chunks.CHUNK_SECONDS`; training stops there if it raises. It
            must copy what it keeps of the state before it returns.
        resume: a snapshot of the same training to go on from; the result has the same bits.
        feed: the data of each step, if the ensemble's worlds do not draw them.
    """
    layout = layout_of(len(ensemble.world_seeds), len(ensemble.sae_seeds), ensemble.split)
    ensemble = spread_ensemble(ensemble, layout)
    doing("starting")
    state, ensemble = start(ensemble, layout), ensemble.once_started()
    step, points = 0, []
    if resume is not None:
        saved = resume.state if layout is None else layout.spread(resume.state, STATE)
        state, step = placed_like(saved, state), resume.step
        n_measured = len(next(iter(resume.points.values())))
        points = [{name: p[i] for name, p in resume.points.items()} for i in range(n_measured)]
    steps, pace = curve_points(n_steps, n_points), Pace()

    def report() -> None:
        stacked = {name: np.stack([p[name] for p in points]) for name in points[0]}
        whole = state if layout is None else layout.gather(state, STATE)
        on_chunk(Snapshot(whole, stacked, step))

    def gathered(tree: Any, specs: Any) -> Any:
        return hosts.whole(tree if layout is None else layout.gather(tree, specs))

    for target in steps[len(points) :].tolist():
        while True:
            limit = target
            if feed is not None and step < n_steps:
                worlds, until = feed(step)
                worlds = worlds if layout is None else layout.spread(worlds, P("world"))
                ensemble, limit = replace(ensemble, worlds=worlds), min(target, until)
            before, step = step, hosts.from_first(pace.next_stop(step, limit))
            if step > before:
                doing(f"steps {before:,} to {step:,} of {n_steps:,}", 2 * CHUNK_SECONDS)
            else:
                doing("compiling its steps")
            state = advance(state, ensemble, jnp.int32(step), jnp.float32(n_steps), layout)
            jax.block_until_ready(state.step)
            pace.took(step - before)
            if step == target:
                break
            report()
        doing("measuring a point of its curves")
        point = {**probe_all(state, ensemble, probe, n_eval, layout), "loss": state.loss}
        point = jax.device_get(gathered(point, ROWS))
        if step == 0:  # no step taken, no loss yet
            point["loss"] = np.full_like(point["loss"], np.nan)
        points.append(point)
        report()
    doing("taking the trained SAEs")
    curves = {name: np.stack([p[name] for p in points], -1) for name in points[0]}
    saes = gathered(trained(state, ensemble, layout), ROWS)
    diverged = np.asarray(gathered(state.members.diverged, ROWS))
    firings = np.asarray(gathered(state.firings, P("world")))
    return Trained(saes, diverged, firings, steps, curves)
