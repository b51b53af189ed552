"""Builds forests from a list of parents: checks, probabilities, tables.

A parent must have a smaller number than its children, as in breadth-first order; this also makes
cycles impossible.
"""

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Bool, Float, Int

from ..errors import ToysaeError, require, unknown
from .compensation import exact, first_order
from .copula import SMALL, LowRankCopula, checked_factors
from .firing import Firing
from .forest import DenseForest, Forest, Generation
from .given_factors import NEVER, THETA, chernoff, fewest_slots, linear_factors, parts, wide_draws
from .independent import independent
from .probabilities import checked_probabilities, rescale

COMPENSATIONS = ("exact", "first-order", "given")


def regular_forest(
    n_roots: int, branching: int, depth: int, n_features: int | None = None
) -> Int[np.ndarray, " n_features"]:
    """Returns the parents of equal trees, numbered breadth-first over the whole forest.

    Args:
        n_roots: number of trees.
        branching: children of every node that is not a leaf.
        depth: generations below the roots; 0 for none.
        n_features: length at which the list is cut, or to which it is filled with features
            without parents.

    Raises:
        ToysaeError: a number below 1 (depth: below 0).
    """
    for name, value, least in (("n_roots", n_roots, 1), ("branching", branching, 1)):
        require(value >= least, f"{name} {value} must be at least {least}")
    require(depth >= 0, f"depth {depth} must be at least 0")
    layers, start, size = [np.full(n_roots, -1)], 0, n_roots
    for _ in range(depth):
        layers.append(np.repeat(np.arange(start, start + size), branching))
        start, size = start + size, size * branching
    parents = np.concatenate(layers)
    if n_features is None:
        return parents
    return np.concatenate([parents, np.full(max(0, n_features - len(parents)), -1)])[:n_features]


def forest(
    parents: Int[np.ndarray, " n_features"],
    probs: Float[np.ndarray, " _"],
    exclusive: Bool[np.ndarray, " n_features"] | bool = False,
    factors: Float[np.ndarray, "_ rank"] | None = None,
    compensate: str = "exact",
    dense: bool | None = None,
) -> Forest | DenseForest:
    """Builds a forest of features.

    Args:
        parents: the number of each feature's parent, smaller than its own; -1 for none.
        probs: marginals in (0, 1]; with compensate="given", those of children are conditional on
            the parent (and before exclusion).
        exclusive: for each parent, whether at most one of its children fires; or one bool for all.
        factors: loadings of a Gaussian copula over all events, rows shorter than 1, see
            :mod:`toysae.worlds.copula`; None for independent events.
        compensate: how the children's conditional probabilities come from the marginals:
            "exact" solves for them (with factors to about 1e-3, the error of 4,096 quasi-random
            draws), "first-order" takes SAELens' formula, whose marginals come out lower where
            siblings compete, and "given" takes `probs` as they are.
        dense: whether to draw an event for every feature, not only for those needed; by default for
            at most 256 features.

    Raises:
        ToysaeError: parents out of range, after their children or in a cycle; probabilities
            outside (0, 1]; marginals that no forest has; factors that do not fit.
    """
    parents = checked_parents(parents)
    n = len(parents)
    probs = checked_probabilities(probs, "(0, 1]")
    require(probs.shape == (n,), f"probs of shape {probs.shape} must be [n_features = {n}]")
    exclusive = np.broadcast_to(np.asarray(exclusive, bool), (n,))
    loadings = np.zeros((n, 0)) if factors is None else checked_factors(factors, n)
    if compensate == "exact":
        q = exact(parents, probs, exclusive, loadings)
    elif compensate == "first-order":
        q = first_order(parents, probs, exclusive)
    elif compensate == "given":
        q = probs
    else:
        raise unknown("compensation", compensate, COMPENSATIONS)
    small = n <= SMALL if dense is None else dense
    return (_dense if small else _sparse)(parents, q, exclusive, loadings)


def fitted_below(
    parents: Int[np.ndarray, " n"], probs: Float[np.ndarray, " n"], exclusive: bool
) -> Float[np.ndarray, " n"]:
    """Returns marginals of the same sum that a forest can have.

    Children that do not fit into their parent's firings (together, where siblings exclude each
    other) fill nine tenths of these; then all are scaled up to the old sum.
    """
    fitted = np.array(probs, np.float64)
    for parent in np.unique(parents[parents >= 0]):  # parents come before their children
        children = np.flatnonzero(parents == parent)
        own = fitted[children]
        needed = own.sum() if exclusive else own
        too_much = needed > fitted[parent]
        fitted[children] = np.where(too_much, own * 0.9 * fitted[parent] / needed, own)
    return rescale(fitted, float(np.sum(probs)))


def checked_parents(parents: np.ndarray) -> np.ndarray:
    """Returns parents as int64, or refuses them unless each is -1 or smaller than its child."""
    parents = np.asarray(parents)
    integers = np.issubdtype(parents.dtype, np.integer)
    fits = integers and parents.ndim == 1 and parents.size > 0
    require(fits, "parents must be a non-empty vector of integers, -1 for none")
    n = len(parents)
    bad = np.flatnonzero((parents < -1) | (parents >= n))
    require(
        bad.size == 0,
        f"parent {parents[bad[:1]]} of feature {bad[:1]} is out of range: "
        f"use -1 for none, or 0..{n - 1}",
    )
    late = np.flatnonzero(parents >= np.arange(n))
    if late.size:
        node, seen = int(late[0]), set()
        while node >= 0 and node not in seen:
            seen.add(node)
            node = int(parents[node])
        trouble = "they form a cycle" if node >= 0 else "number the features breadth-first"
        raise ToysaeError(
            f"parent {parents[late[0]]} of feature {late[0]} must have a smaller number: {trouble}"
        )
    return parents.astype(np.int64)


def depths(parents: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Number of steps from each feature up to its root."""
    depth, above = np.zeros(len(parents), np.int64), parents.copy()
    while (above >= 0).any():
        depth += above >= 0
        above = np.where(above >= 0, parents[above], -1)
    return depth


def families(
    parents: Int[np.ndarray, " n"], members: Int[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, "rows width"]]:
    """Returns the distinct parents of `members`, and their children in rows padded with -1."""
    order = members[np.argsort(parents[members], kind="stable")]
    heads, start, count = np.unique(parents[order], return_index=True, return_counts=True)
    table = np.full((len(heads), count.max()), -1)
    row = np.repeat(np.arange(len(heads)), count)
    table[row, np.arange(len(order)) - start[row]] = order
    return heads, table


def _dense(parents, q, exclusive, loadings) -> DenseForest:
    slope, offset = linear_factors(q, loadings)
    depth = depths(parents)
    by_depth = [families(parents, np.flatnonzero(depth == d)) for d in range(1, depth.max() + 1)]
    tables = [np.where(table < 0, len(parents), table) for _, table in by_depth]
    return DenseForest(
        jnp.asarray(slope.T, jnp.float32),
        jnp.asarray(offset, jnp.float32),
        jnp.asarray(parents, jnp.int32),
        tuple(jnp.asarray(table, jnp.int32) for table in tables),
        tuple(jnp.asarray(heads, jnp.int32) for heads, _ in by_depth),
        tuple(jnp.asarray(exclusive[heads]) for heads, _ in by_depth),
    )


def _sparse(parents, q, exclusive, loadings) -> Forest:
    n, rank = loadings.shape
    slope, offset = linear_factors(q, loadings)
    depth = depths(parents)
    has_child = np.bincount(parents[parents >= 0], minlength=n) > 0
    root = (parents < 0) & (has_child | ~has_child.any())  # without children, all are roots
    free = (parents < 0) & ~root
    tables = [families(parents, np.flatnonzero(depth == d)) for d in range(1, depth.max() + 1)]
    row = np.zeros(n, np.int64)  # each feature's row in the table of its children
    for heads, _ in tables:
        row[heads] = np.arange(1, len(heads) + 1)
    generations = []
    for d, (heads, table) in enumerate(tables, 1):
        table = np.concatenate([np.full((1, table.shape[1]), -1), table])
        real = table >= 0
        safe = np.maximum(table, 0)
        single = (real.sum(1)[1:] <= 1) | exclusive[heads]
        slots = None
        if not single.all():
            slots = _generation_slots(parents, slope, offset, exclusive, depth, d)
        generations.append(
            Generation(
                jnp.asarray(safe.T, jnp.int32),
                jnp.asarray((row[safe] * real).T, jnp.int32),
                jnp.asarray((slope[safe] * real[..., None]).transpose(1, 2, 0), jnp.float32),
                jnp.asarray(np.where(real, offset[safe], -NEVER).T, jnp.float32),
                jnp.asarray(np.concatenate([[False], exclusive[heads]])),
                slots,
            )
        )
    return Forest(
        _top(q[root], loadings[root]),
        jnp.asarray(np.flatnonzero(root), jnp.int32),
        _top(q[free], loadings[free]) if free.any() else None,
        jnp.asarray(np.flatnonzero(free), jnp.int32),
        tuple(generations),
        rank,
        n,
    )


def _top(probs, loadings) -> Firing:
    if loadings.shape[1] == 0:
        return independent(probs)
    return LowRankCopula(parts(probs, loadings), len(probs))


def _generation_slots(parents, slope, offset, exclusive, depth, d: int) -> int:
    """Slots for generation d, by Chernoff's bound with cumulants by recursion up the trees."""
    u, log_weight = wide_draws(slope.shape[1], 40)
    theta = THETA[::3]
    log_mgf = np.zeros((len(theta), len(u), len(parents)))
    chance = scipy.special.ndtr(u @ slope.T + offset)  # [n_u, n_features]
    for level in range(d, -1, -1):
        nodes = np.flatnonzero(depth == level)
        inner = log_mgf[:, :, nodes] if level < d else theta[:, None, None]
        gain = np.expm1(inner) * chance[:, nodes]  # E[exp(theta count)] - 1, event or not
        if level == 0:
            bound = chernoff(np.log1p(gain).sum(-1), theta)
            return fewest_slots(bound, log_weight, int((depth == d).sum()))
        heads, table = families(parents, nodes)
        place = np.searchsorted(nodes, np.maximum(table, 0))
        each = np.where(table >= 0, gain[:, :, place], 0.0)
        # An exclusive parent keeps at most one, so its mgf - 1 is at most the sum of gains.
        together = np.log1p(each).sum(-1)
        one = np.log1p(np.minimum(each.sum(-1), np.expm1(_largest(inner, place, table))))
        log_mgf[:, :, heads] = np.where(exclusive[heads], one, together)
    raise AssertionError("the loop ends at level 0")


def _largest(inner: np.ndarray, place: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Log of the largest mgf among each family's children."""
    if inner.shape[2] == 1:
        return np.broadcast_to(inner[..., 0:1], (*inner.shape[:2], len(table)))
    return np.where(table >= 0, inner[:, :, place], 0.0).max(-1)
