"""Groups of features that fire by a joint law: exclusive groups, pairs, small trees.

A group has finitely many states, each a set of its features with a probability; the rest of the
probability is "nothing on". Which groups are on is drawn in O(active groups), then one state of
each from an alias table, so the cost does not grow with the number of features.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import draws, pytree
from ..errors import ToysaeError, require
from ..keys import named_key
from .firing import Active, Firing
from .independent import alias_table, independent
from .probabilities import checked_probabilities

State = tuple[int, ...]


@pytree.dataclass
class Groups(Firing):
    """Independent groups, each with finitely many joint states.

    Attributes:
        groups: firing of the groups: which are in a state other than "nothing on".
        accept: `[n_groups, n_states]` alias table of the states, given that the group is on.
        alias: the same shape.
        members: `[n_groups, n_states, width]` features on in a state, padded with -1.
        total: number of features.
    """

    groups: Firing
    accept: Float[Array, "n_groups n_states"]
    alias: Int[Array, "n_groups n_states"]
    members: Int[Array, "n_groups n_states width"]
    total: int = pytree.field(pytree_node=False)

    @property
    def n_features(self) -> int:
        return self.total

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        active = self.groups.sample(named_key(key, "groups"), n)
        state = pick(named_key(key, "state"), self.accept, self.alias, active.indices)
        members = self.members[active.indices, state]  # [n, slots, width]
        on = (active.on[..., None] & (members >= 0)).reshape(n, -1)
        return Active(jnp.maximum(members, 0).reshape(n, -1), on, dropped=active.dropped)


@pytree.dataclass
class Together(Firing):
    """Runs of `size` neighbouring features that always fire together, in neighbouring slots."""

    units: Firing
    size: int = pytree.field(pytree_node=False, default=2)

    @property
    def n_features(self) -> int:
        return self.units.n_features * self.size

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        active = self.units.sample(key, n)
        indices = active.indices[..., None] * self.size + jnp.arange(self.size, dtype=jnp.int32)
        on = jnp.broadcast_to(active.on[..., None], indices.shape)
        return Active(indices.reshape(n, -1), on.reshape(n, -1), dropped=active.dropped)


def pick(
    key: PRNGKeyArray,
    accept: Float[Array, "tables n_states"],
    alias: Int[Array, "tables n_states"],
    table: Int[Array, "n slots"],
) -> Int[Array, "n slots"]:
    """Draws once from the alias table that each slot names."""
    n_states = accept.shape[-1]
    place = draws.uniform(named_key(key, "place"), table.shape) * n_states
    column = jnp.minimum(place.astype(jnp.int32), n_states - 1)
    coin = draws.uniform(named_key(key, "coin"), table.shape)
    return jnp.where(coin < accept[table, column], column, alias[table, column])


def alias_tables(weights: Float[np.ndarray, "tables n_states"]) -> tuple[Array, Array]:
    """Returns an alias table for each row of weights, of any sum above 0."""
    tables = [alias_table(row / row.sum()) for row in np.asarray(weights, np.float64)]
    accept, alias = (np.stack(parts) for parts in zip(*tables, strict=True))
    return jnp.asarray(accept, jnp.float32), jnp.asarray(alias, jnp.int32)


def joint(groups: Sequence[Mapping[State, float]], n_features: int) -> Groups:
    """Returns independent groups with explicit joint states.

    Args:
        groups: for each group, the probability of each set of features:
            ``{(0,): 0.2, (0, 1): 0.05}`` fires 0 alone, or 0 and 1, or else nothing.
        n_features: how many features there are; each must be in exactly one group.

    Raises:
        ToysaeError: groups that do not partition the features, a probability outside [0, 1],
            a group whose probabilities pass 1.
    """
    require(len(groups) > 0, "no groups: give at least one")
    features_by_group = [sorted({f for state in group for f in state}) for group in groups]
    check_partition(list(chain.from_iterable(features_by_group)), n_features)
    for group, features in zip(groups, features_by_group, strict=True):
        for state, p in group.items():
            require(0 <= p <= 1, f"probability {p} of features {state} is outside [0, 1]")
            require(len(set(state)) == len(state), f"state {state} names a feature twice")
        total = sum(p for state, p in group.items() if state)
        require(
            total <= 1 + 1e-9,
            f"the states of features {features} have probability {total:.4g} together: scale "
            f"them by {1 / max(total, 1e-300):.3g} or less",
        )
    return _tabulate([{s: p for s, p in group.items() if s} for group in groups], n_features)


def exclusive(
    probs: Float[np.ndarray, " n_features"], group: Int[np.ndarray, " n_group_numbers"]
) -> Groups:
    """Returns mutually exclusive groups: at most one feature of each fires.

    Args:
        probs: marginal firing probabilities.
        group: the number of each feature's group, 0 to n_groups - 1.

    Raises:
        ToysaeError: a probability outside [0, 1], a group whose probabilities pass 1 or that has
            no feature.
    """
    probs, group = checked_probabilities(probs), np.asarray(group)
    fits = probs.shape == group.shape
    require(fits, f"{probs.size} probabilities but {group.size} group numbers")
    n_groups = int(group.max()) + 1
    sizes = np.bincount(group, minlength=n_groups)
    require(bool((sizes > 0).all()), f"group {int(sizes.argmin())} has no feature: number them on")
    totals = np.bincount(group, probs, n_groups)
    worst = int(totals.argmax())
    require(totals[worst] <= 1 + 1e-9, f"exclusive group {worst} has total probability "
            f"{totals[worst]:.4g}, over 1: lower l0 or make groups smaller")  # fmt: skip
    order = np.argsort(group, kind="stable")
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    weights = np.zeros((n_groups, sizes.max()))
    members = np.full((n_groups, sizes.max(), 1), -1)
    weights[group[order], within] = probs[order]
    members[group[order], within, 0] = order
    return _groups(weights, members, len(probs))


def paired_groups(probs: Float[np.ndarray, " n_features"], co_occurrence: float) -> Groups:
    """Returns independent pairs: features 2i and 2i + 1 fire by a joint law.

    Args:
        probs: marginal firing probabilities.
        co_occurrence: share of the rarer feature's firings that come with the other: 0 is
            mutually exclusive, 1 is implication (child only with parent); at the more frequent
            feature's probability the two are independent.

    Raises:
        ToysaeError: an odd number of features, a probability or co_occurrence outside [0, 1], or
            a pair whose states have a total probability above 1.
    """
    probs = checked_probabilities(probs)
    require(probs.size % 2 == 0, f"n_features {probs.size} must be even for pairs")
    require(0 <= co_occurrence <= 1, f"co_occurrence {co_occurrence} must be in [0, 1]")
    a, b = probs[::2], probs[1::2]
    both = co_occurrence * np.minimum(a, b)
    total = a + b - both
    worst = int(total.argmax())
    require(
        total[worst] <= 1 + 1e-9,
        f"features {2 * worst} and {2 * worst + 1} with probabilities {a[worst]:.3g} and "
        f"{b[worst]:.3g} cannot co-occur in only {co_occurrence:g} of the rarer's firings: lower "
        "l0 or raise co_occurrence",
    )
    first = np.arange(0, probs.size, 2)
    none = np.full_like(first, -1)
    states = [(first, none), (first + 1, none), (first, first + 1)]
    members = np.stack([np.stack(state, 1) for state in states], 1)
    return _groups(np.stack([a - both, b - both, both], 1), members, probs.size)


def check_partition(features: Sequence[int], n_features: int) -> None:
    """Raises :class:`ToysaeError` unless `features` names 0..n_features - 1 once each."""
    for feature in features:
        within = 0 <= feature < n_features
        require(within, f"feature {feature} is outside 0..{n_features - 1} in groups")
    counts = np.bincount(np.asarray(features, int), minlength=n_features)
    wrong = np.flatnonzero(counts != 1)
    if wrong.size:
        times = "in no group" if counts[wrong[0]] == 0 else f"in {counts[wrong[0]]} groups"
        raise ToysaeError(f"groups must partition the features: feature {wrong[0]} is {times}")


def _tabulate(groups: Sequence[Mapping[State, float]], n_features: int) -> Groups:
    n_states = max(max(len(group) for group in groups), 1)
    width = max((len(state) for group in groups for state in group), default=1)
    weights = np.zeros((len(groups), n_states))
    members = np.full((len(groups), n_states, width), -1)
    for g, group in enumerate(groups):
        for s, (state, p) in enumerate(group.items()):
            weights[g, s] = p
            members[g, s, : len(state)] = state
    return _groups(weights, members, n_features)


def _groups(weights: np.ndarray, members: np.ndarray, n_features: int) -> Groups:
    on = np.minimum(weights.sum(1), 1.0)
    # A group that is never on still needs a table; which one does not matter.
    accept, alias = alias_tables(np.where(on[:, None] > 0, weights, 1.0))
    return Groups(independent(on), accept, alias, jnp.asarray(members, jnp.int32), n_features)
