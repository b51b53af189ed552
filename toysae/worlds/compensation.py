"""Conditional probabilities of children that lead to given marginals.

A child fires where its parent fires, its own event happens (probability q) and, if the parent is
exclusive, a uniform choice among the siblings whose events happened falls on it. Given the shared
factors u, and with r_P(u) the parent's chance,

    r_i(u) = r_P(u) q_i(u) E[1 / (1 + number of other siblings' events)]
           = r_P(u) q_i(u) int_0^1 prod_{j != i} (1 - q_j(u) (1 - s)) ds,

and the marginal is E_u r_i(u). `first_order` is SAELens' formula, `exact` solves for q.
"""

from math import ceil

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int

from ..errors import ToysaeError, require

_DRAWS = 4096  # of the factors, quasi-random
_CEILING = 8.0  # offset at which an event is certain in float64


def first_order(
    parents: Int[np.ndarray, " n"],
    probs: Float[np.ndarray, " n"],
    exclusive: Bool[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Returns q_i = min(1, p_i / p_P (1 + sum of exclusive siblings' p_j / p_P)), as SAELens does.

    The bracket is one plus the expected number of rivals before any compensation for exclusion;
    marginals fall short where that number is not small or where q is cut at 1.
    """
    child = parents >= 0
    above = parents[child]
    family = np.bincount(above, probs[child], minlength=len(parents))
    rivals = np.where(exclusive[above], np.maximum(family[above] - probs[child], 0), 0.0)
    q = probs.copy()
    q[child] = probs[child] / probs[above] * (1 + rivals / probs[above])
    return np.minimum(q, 1.0)


def exact(
    parents: Int[np.ndarray, " n"],
    probs: Float[np.ndarray, " n"],
    exclusive: Bool[np.ndarray, " n"],
    factors: Float[np.ndarray, "n rank"],
) -> Float[np.ndarray, " n"]:
    """Solves for the q whose marginals are `probs`, by Newton's method, family by family.

    The result is exact to 1e-9 without factors (rank 0); with them the mean over u is taken over at
    most 4,096 Sobol points.

    Raises:
        ToysaeError: a child, or exclusive children together, more frequent than their parent; the
            message names the feature and the largest probability it could have.
    """
    _require_feasible(parents, probs, exclusive)
    u = _factor_draws(factors.shape[1], len(parents))
    s = np.sqrt(1 - (factors**2).sum(1))
    slope = factors / s[:, None]
    offset = np.clip(scipy.special.ndtri(probs) / s, -1e6, 1e6)
    reach: dict[int, np.ndarray] = {}  # r_i(u) of the features that have children
    heads = set(parents[parents >= 0].tolist())
    for root in np.flatnonzero(parents < 0):
        if int(root) in heads:
            reach[int(root)] = scipy.special.ndtr(u @ slope[root] + offset[root])
    order = np.argsort(parents, kind="stable")
    starts = np.searchsorted(parents[order], np.arange(len(parents) + 1))
    for head in sorted(heads):  # parents come before their children
        children = order[starts[head] : starts[head + 1]]
        chance = u @ slope[children].T
        offset[children], fires = _solve(
            chance, reach.pop(head), probs[children], bool(exclusive[head])
        )
        reach |= {int(c): fires[:, i] for i, c in enumerate(children) if int(c) in heads}
    return scipy.special.ndtr(offset * s)


def _solve(
    score: Float[np.ndarray, "draws width"],
    reach: Float[np.ndarray, " draws"],
    wanted: Float[np.ndarray, " width"],
    exclusive: bool,
) -> tuple[Float[np.ndarray, " width"], Float[np.ndarray, "draws width"]]:
    """Returns the offsets at which one family has the wanted marginals, and r_i(u)."""
    width = len(wanted)
    nodes, weights = np.polynomial.legendre.leggauss(min(ceil(width / 2), 24))
    away, weights = (1 - nodes) / 2, weights / 2  # 1 - s and ds on [0, 1]
    offset = scipy.special.ndtri(np.minimum(wanted / reach.mean(), 1 - 1e-6))
    for _ in range(200):
        q = scipy.special.ndtr(score + offset)
        density = reach[:, None] * np.exp(-((score + offset) ** 2) / 2) / np.sqrt(2 * np.pi)
        if exclusive:
            keep = 1 - q[:, :, None] * away  # [draws, width, nodes]
            every = keep.prod(1, keepdims=True) * weights / keep
            share = every.sum(-1)
            # d r_i / d q_j = - r_P q_i int (1 - s) prod_{k != i, j} ds
            slope = -np.einsum(
                "ui,uis,ujs->ij", reach[:, None] * q, every * away, density[:, :, None] / keep
            ) / len(reach)
        else:
            share, slope = np.ones_like(q), np.zeros((width, width))
        fires = reach[:, None] * q * share
        np.fill_diagonal(slope, (density * share).mean(0))
        error = fires.mean(0) / wanted - 1
        if np.abs(error).max() < 1e-9:
            break
        scaled = slope / wanted[:, None]
        step = np.linalg.solve(scaled + 1e-13 * np.eye(width), error)
        offset = np.minimum(offset - np.clip(step, -1, 1), _CEILING)
    worst = np.abs(error).max()
    require(
        worst < 1e-4,
        f"children with probabilities {wanted.round(6).tolist()} of a parent with "
        f"{reach.mean():.6g} could not be met under this copula (off by {worst:.1%}): lower "
        "these probs",
    )
    return offset, fires


def _require_feasible(parents: np.ndarray, probs: np.ndarray, exclusive: np.ndarray) -> None:
    """Raises :class:`ToysaeError` if a child does not fit into the firings of its parent."""
    child = np.flatnonzero(parents >= 0)
    above = parents[child]
    family = np.bincount(above, probs[child], minlength=len(parents))
    room = probs[above] - np.where(exclusive[above], family[above] - probs[child], 0.0)
    over = np.flatnonzero(probs[child] > room * (1 + 1e-9))
    if over.size:
        first = over[0]
        node, parent = child[first], above[first]
        siblings = " less its exclusive siblings'" if exclusive[parent] else ""
        raise ToysaeError(
            f"feature {node} cannot have probability {probs[node]:.6g}: at most "
            f"{max(room[first], 0):.6g}, that of its parent {parent}{siblings}; lower it, or "
            "compensate by 'first-order'",
        )


def _factor_draws(rank: int, n_features: int) -> Float[np.ndarray, "draws rank"]:
    """Quasi-random factors u, fewer for many features; one empty draw at rank 0."""
    if rank == 0:
        return np.zeros((1, 0))
    fewer = 2 ** int(np.log2(np.clip(2e7 / n_features, 256, _DRAWS)))
    return scipy.special.ndtri(
        scipy.stats.qmc.Sobol(rank, rng=0).random(fewer).clip(1e-12, 1 - 1e-12)
    )
