"""Greedy sparse coding in W_dec: Matching Pursuit and Orthogonal Matching Pursuit.

Nothing is learned in these encoders. They read the dictionary's directions; rows may have any
length, by which codes are divided. The codes are returned as pre-activations, so that a ReLU leaves
them as they are. k may differ by member: later steps are masked. Every member pays for the largest
k of its ensemble with OMP, and for `n_steps` with Matching Pursuit, which the gradient runs
through.
"""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ..checked import integer
from .activations import check_k
from .component import Encoding, Hyper, Hypers, Spec, Weights
from .encoders import Encoder, Shift

_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

LEAST_GAIN = 1e-5
"""A direction is not chosen for less than this times ||x||: it would fire on rounding errors."""
_INDEPENDENT = 1e-5  # least squared distance of a new direction from the span of the chosen ones


def _directions(D: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """Unit rows and the rows' lengths; a zero row stays zero, with length 1."""
    square = jnp.sum(D * D, axis=-1)
    lengths = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return D / lengths[:, None], lengths


def _floor(x: Float[Array, "n d"]) -> Float[Array, " n"]:
    x = jax.lax.stop_gradient(x)
    return LEAST_GAIN * jnp.sqrt(jnp.sum(x * x, axis=-1))


def matching_pursuit(
    x: Float[Array, "*batch d_in"],
    D: Float[Array, "n d_in"],
    k: Float[Array, ""] | float,
    n_steps: int,
) -> Float[Array, "*batch n"]:
    """Non-negative Matching Pursuit codes (Mallat and Zhang 1993), differentiable.

    Each step takes the direction with the largest positive correlation to the residual and takes
    out the projection; a direction may be taken again.

    Args:
        x: inputs.
        D: dictionary rows.
        k: steps taken, at most `n_steps`; it may be traced.
        n_steps: steps computed (static).
    """
    rows, lengths = _directions(D)
    flat = x.reshape(-1, x.shape[-1])
    floor = _floor(flat)

    def step(residual, t):
        # The choice has no gradient, so only the chosen correlations need one.
        chosen = _matmul(*jax.lax.stop_gradient((residual, rows.T))).argmax(-1)
        atoms = rows[chosen]
        gain = jnp.sum(residual * atoms, axis=-1)
        gain = jnp.where((t < k) & (gain > floor), gain, 0.0)
        return residual - gain[:, None] * atoms, (chosen, gain)

    _, (chosen, gains) = jax.lax.scan(step, flat, jnp.arange(n_steps))
    codes = jnp.zeros((flat.shape[0], D.shape[0]), x.dtype)
    codes = codes.at[jnp.arange(flat.shape[0]), chosen].add(gains)
    return (codes / lengths).reshape(*x.shape[:-1], -1)


def orthogonal_matching_pursuit(
    x: Float[Array, "*batch d_in"],
    D: Float[Array, "n d_in"],
    k: Float[Array, ""] | float,
    n_steps: int,
    positive: bool = True,
) -> Float[Array, "*batch n"]:
    """Orthogonal Matching Pursuit codes (Pati et al. 1993).

    Each step adds the direction with the largest correlation to the residual and solves least
    squares on all that were added. Where `positive`, only positive correlations count and
    directions whose coefficient would turn negative leave again: the first k steps of Lawson and
    Hanson's (1974) non-negative least squares, to whose solution it comes if k suffices.

    Args:
        x: inputs.
        D: dictionary rows.
        k: steps taken, at most `n_steps`; it may be traced.
        n_steps: the most steps there can be (static).
        positive: non-negative codes, or any sign.
    """
    rows, lengths = _directions(D)
    flat = x.reshape(-1, x.shape[-1])
    floor = _floor(flat)
    n_samples, n_rows = flat.shape[0], D.shape[0]
    samples = jnp.arange(n_samples)

    def step(t, carry):
        # atoms: chosen directions, one slot a step, zero where none. inverse: of their Gram
        # matrix, zero in rows and columns of empty slots. z: their coefficients.
        atoms, inverse, z, slots = carry
        correlation = _matmul(flat - _einsum("nt,ntd->nd", z, atoms), rows.T)
        score = correlation if positive else jnp.abs(correlation)
        taken = jnp.zeros((n_samples, n_rows), bool).at[samples[:, None], slots].max(z != 0)
        score = jnp.where(taken, -jnp.inf, score)
        chosen = score.argmax(-1)
        new = rows[chosen]
        overlap = _einsum("ntd,nd->nt", atoms, new)
        weights = _einsum("nts,ns->nt", inverse, overlap)
        distance = 1 - jnp.sum(overlap * weights, axis=-1)
        add = (t < k) & (score[samples, chosen] > floor) & (distance > _INDEPENDENT)
        atoms = atoms.at[:, t].set(jnp.where(add[:, None], new, 0.0))
        grown = weights.at[:, t].add(-1.0)
        scale = jnp.where(add, 1 / jnp.where(add, distance, 1.0), 0.0)
        inverse = inverse + scale[:, None, None] * grown[:, :, None] * grown[:, None, :]
        target = _einsum("ntd,nd->nt", atoms, flat)
        best = _solve(inverse, target, atoms, flat)
        if positive:
            inverse, best = _drop_negative(inverse, target, z, best, atoms, flat)
        return atoms, inverse, best, slots.at[:, t].set(chosen)

    def empty(*shape: int) -> Array:
        return jnp.zeros((n_samples, *shape), x.dtype)

    slots = jnp.zeros((n_samples, n_steps), jnp.int32)
    carry = (empty(n_steps, x.shape[-1]), empty(n_steps, n_steps), empty(n_steps), slots)
    taken = jnp.clip(jnp.ceil(k), 0, n_steps).astype(jnp.int32)
    _, _, z, slots = jax.lax.fori_loop(0, taken, step, carry)
    codes = jnp.zeros((n_samples, n_rows), x.dtype).at[samples[:, None], slots].add(z)
    return (codes / lengths).reshape(*x.shape[:-1], -1)


def _solve(inverse: Array, target: Array, atoms: Array, x: Array) -> Float[Array, "n t"]:
    """Least squares coefficients from the running inverse, once refined by their residual."""
    z = _einsum("nts,ns->nt", inverse, target)
    left = x - _einsum("nt,ntd->nd", z, atoms)
    return z + _einsum("nts,ns->nt", inverse, _einsum("ntd,nd->nt", atoms, left))


def _drop_negative(
    inverse: Float[Array, "n t t"],
    target: Float[Array, "n t"],
    z: Float[Array, "n t"],
    best: Float[Array, "n t"],
    atoms: Float[Array, "n t d"],
    x: Float[Array, "n d"],
) -> tuple[Float[Array, "n t t"], Float[Array, "n t"]]:
    """Lawson and Hanson's inner loop, repeated until `best` is feasible: moves the feasible z
    towards the least squares `best` until a coefficient turns zero, and drops that coefficient."""

    def infeasible(best: Array) -> Bool[Array, " n"]:
        return (best < 0).any(-1)

    def drop(carry):
        inverse, z, best = carry
        way = jnp.where(best < 0, z / jnp.where(best < 0, z - best, 1.0), jnp.inf)
        first = way.argmin(-1)
        active = infeasible(best)
        share = jnp.where(active, way.min(-1), 1.0)[:, None]
        gone = (jnp.arange(z.shape[1]) == first[:, None]) & active[:, None]
        z = jnp.where(gone, 0.0, z + share * (best - z))
        column = jnp.where(gone[:, None, :], inverse, 0.0).sum(-1)
        pivot = jnp.where(gone, column, 0.0).sum(-1)
        scale = jnp.where(active, 1 / jnp.where(active, pivot, 1.0), 0.0)
        inverse = inverse - scale[:, None, None] * column[:, :, None] * column[:, None, :]
        # Exact zeros, so that a slot once emptied stays so.
        inverse = jnp.where(gone[:, :, None] | gone[:, None, :], 0.0, inverse)
        again = _solve(inverse, target, atoms, x)
        return inverse, z, jnp.where(active[:, None], again, best)

    inverse, _, best = jax.lax.while_loop(
        lambda carry: infeasible(carry[2]).any(), drop, (inverse, z, best)
    )
    return inverse, best


@dataclass(frozen=True)
class Pursuit(Encoder, ABC):
    """Base of the greedy encoders.

    Attributes:
        n_steps: the most steps there can be, at least every member's k.
    """

    n_steps: int = 16
    hypers: ClassVar = (Hyper("k", low=1),)

    def __post_init__(self) -> None:
        integer(f"{type(self).__name__} n_steps", self.n_steps, 1, 10_000)

    def init(self, key: PRNGKeyArray, enc_rows: Array, h: Hypers) -> dict[str, Array]:
        return {}

    def check_steps(self, k: float) -> None:
        """Refuses a k of more steps than are computed.

        Raises:
            ToysaeError: naming both.
        """
        reason = f"k {k:g} is more than n_steps = {self.n_steps}: give more n_steps"
        self.demand(k <= self.n_steps, reason)


@dataclass(frozen=True)
class MatchingPursuit(Pursuit):
    """k steps of non-negative Matching Pursuit (MP-SAE, Costa et al. 2025, arXiv 2506.03093).

    r = x; k times: j = argmax_j r . d_j, a = r . d_j, z_j += a, r -= a d_j. The gradient runs
    back through the residuals. Latents firing: at most k.
    """

    def check_numbers(self, d_sae: int, h: Mapping[str, float]) -> None:
        self.check_steps(h["k"])

    def encode(self, w: Weights, x: Array, shift: Shift, h: Hypers) -> Encoding:
        x = x if shift is None else x - shift
        return Encoding(matching_pursuit(x, w.W_dec, h["k"], self.n_steps))

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        # Every step's residual and direction, for the way back.
        return batch * (2 * self.n_steps * d_in + d_sae)


@dataclass(frozen=True)
class OMP(Pursuit):
    """k steps of Orthogonal Matching Pursuit, see :func:`orthogonal_matching_pursuit`. The codes
    carry no gradient: the dictionary learns from the reconstruction alone, as with FISTA.

    Attributes:
        positive: non-negative codes; or any sign, which a ReLU would cut: with
            activation=AbsTopK().
    """

    positive: bool = True

    def check(self, spec: Spec) -> None:
        remedy = "use activation=AbsTopK(), or OMP(positive=True): this one would cut the signs"
        if not self.positive:
            self.needs("signed", remedy, spec)

    def check_numbers(self, d_sae: int, h: Mapping[str, float]) -> None:
        check_k(self, d_sae, h["k"])
        self.check_steps(h["k"])

    def encode(self, w: Weights, x: Array, shift: Shift, h: Hypers) -> Encoding:
        D, x = jax.lax.stop_gradient((w.W_dec, x if shift is None else x - shift))
        return Encoding(orthogonal_matching_pursuit(x, D, h["k"], self.n_steps, self.positive))

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        # Copies of the chosen directions in the loops, and the inverse of their Gram matrix.
        return batch * self.n_steps * (2 * d_in + self.n_steps)
