"""The training loop: every member of an ensemble, on every world, in one compiled program.

Data are drawn on the device inside the loop and never stored. All members of a world see the
same batches. A chunk ends where a point of the learning curves is due.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from .. import hosts, pytree
from ..keys import named_key
from ..programs import BRIEF
from ..sae import SAE, Hypers, finished
from ..sae.arithmetic import DENSE
from ..sae.resampling import AtTimes
from ..watch import doing
from ..worlds import World
from .chunks import CHUNK_SECONDS, Pace, Snapshot, placed_like
from .devices import ROWS, Layout, by_batch, layout_of, over_rows
from .ensemble import STATE, Ensemble, pinned, specs_of, spread_ensemble
from .resampling import due_steps, resample_member
from .starting import start
from .state import Member, TrainState, keys_of, member_step
from .ways import Ways, dense

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


@partial(jax.jit, static_argnames=("probe", "n_eval", "layout"), compiler_options=BRIEF)
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
        ways: the first step of each stretch of steps, and whether they were "dense" or "sparse".
    """

    saes: SAE
    diverged: np.ndarray
    firings: np.ndarray
    curve_steps: np.ndarray
    curves: dict[str, np.ndarray]
    ways: tuple[tuple[int, str], ...] = pytree.field(pytree_node=False, default=((0, DENSE),))


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
    training = _Training.begun(ensemble, n_steps, on_chunk, feed, resume)
    steps = curve_points(n_steps, n_points)
    for target in steps[len(training.points) :].tolist():
        training.go_to(target)
        training.measure(probe, n_eval)
    return training.result(steps)


@dataclass
class _Training:
    """An ensemble on its way through its steps.

    Attributes:
        ensemble: as the steps see it, spread in the layout.
        layout: of the devices.
        n_steps: of the whole training.
        on_chunk: see :func:`train_ensemble`.
        feed: see :func:`train_ensemble`.
        state: after `step` steps.
        step: steps taken.
        points: of the curves, so far.
        pace: of the chunks.
        ways: of the steps.
    """

    ensemble: Ensemble
    layout: Layout | None
    n_steps: int
    on_chunk: Callable[[Snapshot], None]
    feed: Feed | None
    state: TrainState
    step: int = 0
    points: list[dict[str, np.ndarray]] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    ways: Ways = field(default_factory=lambda: Ways(False))

    @classmethod
    def begun(
        cls,
        ensemble: Ensemble,
        n_steps: int,
        on_chunk: Callable[[Snapshot], None],
        feed: Feed | None,
        resume: Snapshot | None,
    ) -> "_Training":
        """Before any step, or where a snapshot was taken."""
        layout = layout_of(len(ensemble.world_seeds), len(ensemble.sae_seeds), ensemble.split)
        ensemble = spread_ensemble(ensemble, layout)
        doing("starting", phase="starting SAEs")
        ways = Ways.of(ensemble, n_steps)
        ensemble = replace(ensemble, spec=dense(ensemble.spec))
        state = start(ensemble, layout)
        new = cls(ensemble.once_started(), layout, n_steps, on_chunk, feed, state, ways=ways)
        if resume is not None:
            saved = resume.state if layout is None else layout.spread(resume.state, STATE)
            new.state, new.step = placed_like(saved, state), resume.step
            n_measured = len(next(iter(resume.points.values())))
            new.points = [{k: p[i] for k, p in resume.points.items()} for i in range(n_measured)]
            ways.taken[:] = resume.ways
            new.look()  # the last point was saved before it was looked at
        return new

    def go_to(self, target: int) -> None:
        """Takes the steps up to one, in chunks with a report between them."""
        while True:
            limit = target
            if self.feed is not None and self.step < self.n_steps:
                worlds, until = self.feed(self.step)
                worlds = worlds if self.layout is None else self.layout.spread(worlds, P("world"))
                self.ensemble, limit = replace(self.ensemble, worlds=worlds), min(target, until)
            before = self.step
            self.step = step = hosts.from_first(self.pace.next_stop(before, limit))
            if step > before:
                what = f"steps {before:,} to {step:,} of {self.n_steps:,}"
                doing(what, 2 * CHUNK_SECONDS, phase="training")
            else:
                doing("compiling its steps", phase="training")
            to, n_steps = np.int32(step), np.float32(self.n_steps)
            taking = self.ways.taking(self.ensemble)
            self.state = advance(self.state, taking, to, n_steps, self.layout)
            jax.block_until_ready(self.state.step)
            self.pace.took(step - before)
            if step == target:
                return
            self.report()

    def measure(self, probe: Probe, n_eval: int) -> None:
        """Adds a point to the curves."""
        doing("measuring a point of its curves", phase="learning curves")
        point = probe_all(self.state, self.ensemble, probe, n_eval, self.layout)
        point = jax.device_get(self.gathered({**point, "loss": self.state.loss}, ROWS))
        if self.step == 0:  # no step taken, no loss yet
            point["loss"] = np.full_like(point["loss"], np.nan)
        self.points.append(point)
        self.report()
        if self.look():
            self.go_to(self.step)  # compiles

    def look(self) -> bool:
        """Chooses the way of the next steps by the last point; whether it is another one."""
        l0 = self.points[-1].get("l0")
        if l0 is None or self.step == self.n_steps:
            return False
        return self.ways.look(self.step, l0, self.ensemble.spec.d_sae)

    def report(self) -> None:
        stacked = {name: np.stack([p[name] for p in self.points]) for name in self.points[0]}
        whole = self.state if self.layout is None else self.layout.gather(self.state, STATE)
        self.on_chunk(Snapshot(whole, stacked, self.step, tuple(self.ways.taken)))

    def gathered(self, tree: Any, specs: Any) -> Any:
        return hosts.whole(tree if self.layout is None else self.layout.gather(tree, specs))

    def result(self, steps: np.ndarray) -> Trained:
        """The trained ensemble; `steps` are those of its curves."""
        doing("taking the trained SAEs", phase="scoring")
        curves = {n: np.stack([p[n] for p in self.points], -1) for n in self.points[0]}
        saes = self.gathered(trained(self.state, self.ensemble, self.layout), ROWS)
        diverged = np.asarray(self.gathered(self.state.members.diverged, ROWS))
        firings = np.asarray(self.gathered(self.state.firings, P("world")))
        return Trained(saes, diverged, firings, steps, curves, self.ways.end())
