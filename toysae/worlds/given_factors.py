"""Features that fire independently once a few shared Gaussian factors are known.

Feature i fires where a_i . u + s_i eps_i > t_i, with u and eps standard normal and
s_i = sqrt(1 - |a_i|^2). Given u it fires with probability Phi(x_i), x_i = slope_i . u + offset_i,
slope_i = a_i / s_i, offset_i = -t_i / s_i, whatever the others do. Two exact ways to draw that:

`OneByOne` compares a uniform with each Phi(x_i). `ByArrival` is for many rare features: Poisson
arrivals with hazards h(x) = -log(1 - Phi(x)) hit feature i at least once with probability Phi(x_i).
They are drawn from a bound on h that costs a few multiplications, and kept with probability
h / bound (thinning, Lewis and Shedler 1979), so that Phi is evaluated only for the few that arrive.
"""

from collections.abc import Callable, Iterator
from math import log

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import draws, pytree
from ..keys import named_key
from .firing import Active, FiringPart, compact

FACTOR_TAIL = 2e-10  # probability that a sample would need more slots than it has
NEVER = 1e6  # |offset| of a feature that always or never fires: Phi is 1 or 0 in float32
_LEAF = 16  # features in a block, and blocks in a section, of the search for an arrival


@pytree.dataclass
class OneByOne(FiringPart):
    """One uniform for each of `m` features; those that fire are gathered into `slots`."""

    ids: Int[Array, " m"]
    slope: Float[Array, "rank m"]
    offset: Float[Array, " m"]
    slots: int = pytree.field(pytree_node=False)

    def fire(self, key: PRNGKeyArray, u: Float[Array, "n rank"]) -> Active:
        """Draws which features fire, given the factors."""
        chance = jax.scipy.special.ndtr(scores(u, self.slope, self.offset))
        on = draws.uniform(key, chance.shape) < chance
        if self.slots == self.ids.shape[0]:
            return Active(jnp.broadcast_to(self.ids, on.shape), on)
        place, in_slots = compact(on, self.slots)
        dropped = on.sum(1, dtype=jnp.int32) - in_slots.sum(1, dtype=jnp.int32)
        return Active(self.ids[place], in_slots, dropped)


@pytree.dataclass
class ByArrival(FiringPart):
    """Thinned arrivals on `m` rare features, `m` a multiple of 256 (padded with NEVER).

    `dropped` is 1 where an arrival found no slot, however many more there were.
    """

    ids: Int[Array, " m"]
    slope: Float[Array, "rank m"]
    offset: Float[Array, " m"]
    slots: int = pytree.field(pytree_node=False)

    def fire(self, key: PRNGKeyArray, u: Float[Array, "n rank"]) -> Active:
        """Draws which features fire, given the factors."""
        n, slots = u.shape[0], self.slots
        x = scores(u, self.slope, self.offset).reshape(n, -1, _LEAF)
        blocks = hazard_bound(x).sum(-1).reshape(n, -1, _LEAF)
        edges = running_sum(blocks.sum(-1))  # of sections of blocks, on the axis of arrivals
        gaps = draws.exponential(named_key(key, "gaps"), (n, slots + 1))
        at = running_sum(gaps)
        arrived = at[:, :slots] < edges[:, -1:]
        section = (at[:, :slots, None] >= edges[:, None, :-1]).sum(-1, dtype=jnp.int32)
        section = jnp.where(arrived, section, 0)
        # Fresh uniforms inside a section: what is left of `at` has too few bits for rare features.
        uniform = draws.uniform(named_key(key, "search"), (n, 3, slots))
        block = section * _LEAF + _pick(_rows(blocks, section), uniform[:, 0])
        leaf_x = _rows(x, block)
        leaf = _pick(hazard_bound(leaf_x), uniform[:, 1])
        feature = block * _LEAF + leaf
        x_hit = jnp.take_along_axis(leaf_x, leaf[..., None], 2)[..., 0]
        hazard = -jnp.log1p(-jax.scipy.special.ndtr(x_hit))
        on = arrived & (uniform[:, 2] * hazard_bound(x_hit) < hazard)
        earlier = jnp.tril(jnp.ones((slots, slots), bool), -1)
        same = (feature[:, :, None] == feature[:, None, :]) & earlier & on[:, None, :]
        dropped = (at[:, slots] < edges[:, -1]).astype(jnp.int32)
        return Active(self.ids[feature], on & ~same.any(-1), dropped)


def scores(
    u: Float[Array, "n rank"], slope: Float[Array, "rank m"], offset: Float[Array, " m"]
) -> Float[Array, "n m"]:
    """Returns u @ slope + offset in full float32: TF32 is too coarse for the tails of Phi."""
    u = jnp.concatenate([u, jnp.ones_like(u, shape=(len(u), 1))], 1)
    slope = jnp.concatenate([slope, offset[None]])
    return jnp.matmul(u, slope, precision=jax.lax.Precision.HIGHEST)


def hazard_bound(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """A bound on h(x) = -log(1 - Phi(x)): at most 6.5 % above it on [-5, 0], 2e-19 below -9.

    log2 h is concave, so above 0 two of its tangents bound it; below, a quartic found by a linear
    programme does. 2^e lies under the chord between powers of two, which is what a float's bits
    mean when e is added to its exponent (Schraudolph 1999).
    """
    low, high = jnp.clip(x, -9.0, 0.0), jnp.maximum(x, 0.0)
    e = 0.00456839 * low + 0.07114568
    e = (e * low - 0.27478901) * low + 1.65864414
    e = jnp.minimum(e * low + 1.66070 * high - 0.52874, 0.5 * (low + high) + 1.4133)
    return jax.lax.bitcast_convert_type(((e + 127.0) * 2.0**23).astype(jnp.int32), jnp.float32)


def running_sum(x: Float[Array, "*any m"]) -> Float[Array, "*any m"]:
    """Running sums along a short last axis, as one matrix product."""
    size = x.shape[-1]
    return jnp.matmul(x, jnp.triu(jnp.ones((size, size))), precision=jax.lax.Precision.HIGHEST)


def _rows(table: Float[Array, "n rows _"], row: Int[Array, "n slots"]) -> Array:
    return jnp.take_along_axis(table, row[:, :, None], 1)


def _pick(weights: Float[Array, "n slots _"], uniform: Float[Array, "n slots"]) -> Array:
    """Draws indices `[n, slots]` in proportion to the weights."""
    edges = running_sum(weights)
    return (uniform[..., None] * edges[..., -1:] >= edges[..., :-1]).sum(-1, dtype=jnp.int32)


def parts(
    probs: Float[np.ndarray, " m"],
    factors: Float[np.ndarray, "m rank"],
    everything: bool = False,
) -> tuple[OneByOne | ByArrival, ...]:
    """Splits `m` features into the common, drawn one by one, and the rare, drawn by arrival.

    Args:
        probs: marginal probabilities in [0, 1].
        factors: loadings a_i, of length below 1.
        everything: whether to give each feature a slot of its own, in order.
    """
    slope, offset = linear_factors(probs, factors)
    ids = np.arange(len(probs), dtype=np.int32)
    if everything:
        return (_part(OneByOne, ids, slope, offset, len(ids)),)
    rare = probs <= 0.05
    rare_slots = arrival_slots(slope[rare], offset[rare]) if rare.any() else 0
    if rare.sum() < 512 or rare_slots > rare.sum() / 16:
        rare[:] = False
    out = []
    if not rare.all():
        slots = firing_slots(slope[~rare], offset[~rare])
        out.append(_part(OneByOne, ids[~rare], slope[~rare], offset[~rare], slots))
    if rare.any():
        pad = -rare.sum() % _LEAF**2
        slope = np.concatenate([slope[rare], np.zeros((pad, slope.shape[1]))])
        offset = np.concatenate([offset[rare], np.full(pad, -NEVER)])
        padded = np.concatenate([ids[rare], np.zeros(pad, np.int32)])
        out.append(_part(ByArrival, padded, slope, offset, rare_slots))
    return tuple(out)


def _part(kind, ids: np.ndarray, slope: np.ndarray, offset: np.ndarray, slots: int):
    tables = jnp.asarray(slope.T, jnp.float32), jnp.asarray(offset, jnp.float32)
    return kind(jnp.asarray(ids, jnp.int32), *tables, slots)


def linear_factors(probs: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns slope `[m, rank]` and offset `[m]` in float64, for probabilities in [0, 1]."""
    s = np.sqrt(1 - (factors**2).sum(1))
    offset = np.clip(scipy.special.ndtri(probs) / s, -NEVER, NEVER)
    return factors / s[:, None], offset


def arrival_slots(slope: Float[np.ndarray, "m rank"], offset: Float[np.ndarray, " m"]) -> int:
    """Returns the slots for arrivals on these features, which are Poisson given the factors."""
    u, log_weight = wide_draws(slope.shape[1])
    total = np.zeros(len(u))
    for x in _score_chunks(u, slope, offset):
        total += np.asarray(hazard_bound(jnp.asarray(x, jnp.float32)), np.float64).sum(1)
    return fewest_slots(
        lambda slots: scipy.stats.poisson.logsf(slots, total), log_weight, len(offset)
    )


def firing_slots(slope: Float[np.ndarray, "m rank"], offset: Float[np.ndarray, " m"]) -> int:
    """Returns the slots for those of these features that fire, by Chernoff's bound given u."""
    u, log_weight = wide_draws(slope.shape[1])
    cumulant = np.zeros((len(THETA), len(u)))
    for x in _score_chunks(u, slope, offset):
        chance = scipy.special.ndtr(x)
        cumulant += np.stack([np.log1p(grow * chance).sum(1) for grow in np.expm1(THETA)])
    return fewest_slots(chernoff(cumulant), log_weight, len(offset))


def _score_chunks(u: np.ndarray, slope: np.ndarray, offset: np.ndarray) -> Iterator[np.ndarray]:
    """Yields u . slope + offset, `[draws, at most 2048]` features at a time."""
    for start in range(0, len(offset), 2048):
        yield u @ slope[start : start + 2048].T + offset[start : start + 2048]


THETA = np.linspace(0.1, 4.0, 24)


def chernoff(
    cumulant: Float[np.ndarray, "n_theta n_u"], theta: Float[np.ndarray, " n_theta"] = THETA
) -> Callable[[int], np.ndarray]:
    """Returns the log of a bound on P(count > slots | u), from log E[exp(theta count) | u]."""
    return lambda slots: np.minimum((cumulant - theta[:, None] * (slots + 1)).min(0), 0)


def wide_draws(rank: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Draws factors from a mixture of wide normals, with the log weights that undo the widening.

    The number of firings has a heavy tail through |u| that plain draws would not see.
    """
    if rank == 0:
        return np.zeros((1, 0)), np.zeros(1)
    widths = np.array([1.0, 1.3, 1.7])
    u = np.random.default_rng(0).normal(size=(3, n, rank)) * widths[:, None, None]
    u = u.reshape(-1, rank)
    square = (u**2).sum(1, keepdims=True)
    mixture = scipy.special.logsumexp(-square / (2 * widths**2) - rank * np.log(widths), 1) - log(3)
    return u, -square[:, 0] / 2 - mixture - log(len(u))


def fewest_slots(log_tail: Callable[[int], np.ndarray], log_weight: np.ndarray, most: int) -> int:
    """Returns the fewest slots with E_u P(more are needed | u) <= FACTOR_TAIL, by bisection."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if np.exp(log_tail(middle) + log_weight).sum() <= FACTOR_TAIL:
            high = middle
        else:
            low = middle + 1
    return low
