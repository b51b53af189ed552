"""Features in trees: a child fires only where its parent does; siblings may exclude each other.

The law is that of SAELens' generator. Every feature has its own event of probability `q`; a child's
is conditional on its parent firing, before its siblings are considered. A feature without a parent
fires when its event happens. From the roots down, a child fires if its parent fires and its event
happens; of several such children of an exclusive parent, one chosen uniformly fires. Under a copula
all events share its factors, so that children correlate with other trees too.

Sampling goes top-down and draws events only for the children of parents that fire: the same law in
O(active), where dense sampling of a deep forest draws hundreds of events for each one that counts.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .. import draws, pytree
from ..errors import require
from ..keys import named_key
from .copula import LowRankCopula, concatenated
from .firing import Active, Firing, FiringPart, all_in_order, compact
from .given_factors import scores
from .magnitudes import Magnitude

_UNROLL = 32  # up to this many factors one fused expression is faster than a loop


class Places(NamedTuple):
    """One generation in its slots: features, their rows in the next table, and whether on."""

    ids: Int[Array, "n slots"]
    row: Int[Array, "n slots"]
    on: Bool[Array, "n slots"]


@pytree.dataclass
class Generation(FiringPart):
    """The children of one depth: a row for each parent of the depth above; row 0 is empty.

    Attributes:
        children: `[width, rows]` feature numbers, 0 where a row has fewer children.
        child_row: `[width, rows]` the children's own rows in the next generation's table.
        slope: `[width, rank, rows]`, see :mod:`toysae.worlds.given_factors`.
        offset: `[width, rows]`, -NEVER where there is no child.
        exclusive: `[rows]` at most one child fires.
        slots: of this generation; None where no parent ever has two children on: each child then
            takes its parent's slot.
    """

    children: Int[Array, "width rows"]
    child_row: Int[Array, "width rows"]
    slope: Float[Array, "width rank rows"]
    offset: Float[Array, "width rows"]
    exclusive: Bool[Array, " rows"]
    slots: int | None = pytree.field(pytree_node=False)

    def fire(
        self, key: PRNGKeyArray, u: Float[Array, "n rank"], parents: Places
    ) -> tuple[Places, Int[Array, "n slots"], Int[Array, " n"] | None]:
        """Draws the next generation; also returns each parent's slot and the firings without one.

        Each child has one uniform: the event happens if it is below p, and then its place in
        [0, p) is a fresh uniform, by which the child takes over from those before it with
        probability 1 / (events so far). The last to take over is thus a uniform choice.
        """
        width, row = self.offset.shape[0], parents.row

        def child(state, each):
            number, slope, offset = each
            # A loop with a packed state: otherwise XLA would compute all this anew for every use
            # of the count and of the choice.
            count, last = state >> 16, state & 0xFFFF
            p = jax.scipy.special.ndtr(_scores(u, slope, offset, row))
            uniform = draws.uniform(jax.random.fold_in(key, number), row.shape)
            happens = parents.on & (uniform < p)
            count = count + happens
            last = jnp.where(happens & (uniform * count < p), number, last)
            return (count << 16) | last, None if self.slots is None else happens

        numbers = jnp.arange(width, dtype=jnp.int32)
        state, happens = jax.lax.scan(
            child, jnp.zeros(row.shape, jnp.int32), (numbers, self.slope, self.offset)
        )
        number, on = state & 0xFFFF, state >> 16 > 0
        if happens is None:
            place = jnp.broadcast_to(jnp.arange(row.shape[1], dtype=jnp.int32), row.shape)
            return Places(self.children[number, row], self.child_row[number, row], on), place, None
        happens = jnp.moveaxis(happens, 0, -1)
        allowed = ~self.exclusive[row][..., None] | (numbers == number[..., None])
        keep = (happens & allowed).reshape(len(u), -1)
        position, on = compact(keep, min(self.slots or 0, keep.shape[1]))
        place, number = position // width, position % width
        row = jnp.take_along_axis(row, place, 1)
        dropped = keep.sum(1, dtype=jnp.int32) - on.sum(1, dtype=jnp.int32)
        places = Places(self.children[number, row], self.child_row[number, row], on)
        return places, place, dropped


def _scores(u: Array, slope: Array, offset: Array, row: Array) -> Array:
    """Returns slope[:, row] . u + offset[row] for each slot, `[n, slots]`."""
    x = offset[row]
    if len(slope) <= _UNROLL:
        for factor, each in zip(u.T, slope, strict=True):
            x = x + factor[:, None] * each[row]
        return x

    def add(x, factor):
        return x + factor[0][:, None] * factor[1][row], None

    return jax.lax.scan(add, x, (u.T, slope))[0]


@pytree.dataclass
class Forest(Firing):
    """A forest sampled in O(active); build it by :func:`toysae.worlds.plant.forest`.

    Attributes:
        roots: firing of the features that have children but no parent.
        root_ids: `[n_roots]` their numbers.
        free: firing of the features that have neither; None if there are none.
        free_ids: `[n_free]` their numbers.
        generations: children of the roots, grandchildren, ...
        rank: of the copula; 0 without one.
    """

    roots: Firing
    root_ids: Int[Array, " n_roots"]
    free: Firing | None
    free_ids: Int[Array, " n_free"]
    generations: tuple[Generation, ...]
    rank: int = pytree.field(pytree_node=False)
    total: int = pytree.field(pytree_node=False)

    @property
    def n_features(self) -> int:
        return self.total

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        u = draws.normal(named_key(key, "factors"), (n, self.rank))
        top = _fire(self.roots, named_key(key, "roots"), u)
        places = Places(self.root_ids[top.indices], top.indices + 1, top.on)
        none = jnp.full(top.on.shape, -1, jnp.int32)
        drawn, parent, start = [replace(top, indices=places.ids)], [none], 0
        for depth, generation in enumerate(self.generations, 1):
            above = places.on.shape[1]
            branch = named_key(key, f"depth {depth}")
            places, place, dropped = generation.fire(branch, u, places)
            drawn.append(Active(places.ids, places.on, dropped))
            parent.append(jnp.where(places.on, place + start, -1))
            start += above
        if self.free is not None:
            free = _fire(self.free, named_key(key, "free"), u)
            drawn.append(replace(free, indices=self.free_ids[free.indices]))
        active = concatenated(drawn)
        if not self.generations:
            return active
        parents = jnp.concatenate(parent, 1)
        rest = active.on.shape[1] - parents.shape[1]
        parents = jnp.pad(parents, ((0, 0), (0, rest)), constant_values=-1)
        return replace(active, parent=parents, depth=len(self.generations))


def _fire(firing: Firing, key: PRNGKeyArray, u: Array) -> Active:
    """Draws with the factors `u` where the firing has factors."""
    return firing.fire(key, u) if isinstance(firing, LowRankCopula) else firing.sample(key, len(u))


@pytree.dataclass
class DenseForest(Firing):
    """The same law for small worlds: an event for every feature, each in its own slot.

    Attributes:
        slope: `[rank, n_features]`.
        offset: `[n_features]`.
        parents: `[n_features]`, -1 for none.
        children: for each depth from 1: `[n_parents, width]`, padded with n_features.
        above: for each depth: `[n_parents]` the parents.
        exclusive: for each depth: `[n_parents]`.
    """

    slope: Float[Array, "rank n_features"]
    offset: Float[Array, " n_features"]
    parents: Int[Array, " n_features"]
    children: tuple[Int[Array, "_ _"], ...]
    above: tuple[Int[Array, " _"], ...]
    exclusive: tuple[Bool[Array, " _"], ...]

    @property
    def n_features(self) -> int:
        return self.offset.shape[-1]

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        u = draws.normal(named_key(key, "factors"), (n, self.slope.shape[0]))
        chance = jax.scipy.special.ndtr(scores(u, self.slope, self.offset))
        on = draws.uniform(named_key(key, "fire"), chance.shape) < chance
        choice = draws.uniform(named_key(key, "choose"), chance.shape)
        for children, above, exclusive in zip(
            self.children, self.above, self.exclusive, strict=True
        ):
            fires = jnp.take(on, children, 1, mode="fill", fill_value=False)
            fires &= on[:, above, None]
            order = jnp.cumsum(fires, -1, dtype=jnp.int32)
            count = order[..., -1]
            one = jnp.minimum((choice[:, above] * count).astype(jnp.int32) + 1, count)
            keep = fires & ((order == one[..., None]) | ~exclusive[:, None])
            on = on.at[:, children].set(keep, mode="drop")
        depth = len(self.children)
        parent = jnp.broadcast_to(self.parents, on.shape) if depth else None
        return replace(all_in_order(on), parent=parent, depth=depth)


@pytree.dataclass
class ScaledByParent(Magnitude):
    """Another law's coefficient times the parent's (scaled) coefficient over the parent's mean.

    As in SAELens, a parent drawn at twice its mean doubles its children, and so on down; a parent
    rectified to 0 silences them.

    Attributes:
        law: of the coefficients before scaling.
        mean: `[n_features]` mean coefficient of each feature as a parent.
    """

    law: Magnitude
    mean: Float[Array, " n_features"]

    def sample(self, key: PRNGKeyArray, active: Active) -> Array:
        own = jnp.where(active.on, self.law.sample(key, active), 0.0)
        if active.parent is None:
            return own
        require(active.depth > 0, "the firing gives parents but no depth: set it in its Active")
        relative = own / self.mean[active.indices]
        has_parent, place = active.parent >= 0, jnp.maximum(active.parent, 0)

        def below(_, scale):
            above = jnp.take_along_axis(relative * scale, place, 1)
            return jnp.where(has_parent, above, 1.0)

        return own * jax.lax.fori_loop(0, active.depth, below, jnp.ones_like(own))
