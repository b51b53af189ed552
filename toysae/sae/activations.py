"""Activations: from pre-activations to z, both `[*batch, d_sae]`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .component import Component, Forward, Hyper, Hypers, RunningStat, Stats

Act = dict[str, Array]


@dataclass(frozen=True)
class Activation(Component, ABC):
    """Base of activations."""

    axis: ClassVar = "activation"
    selects: ClassVar[bool] = False
    """Whether z is pre_acts where a latent is on and exactly 0 elsewhere, and has the gradient of
    that: what sparse steps need, and what an activation must say of itself."""

    def init(self, d_sae: int, h: Hypers) -> Act:
        """The activation's own learned arrays by name."""
        return {}

    @abstractmethod
    def apply(
        self, pre_acts: Float[Array, "*batch d_sae"], act: Act, run: Stats, h: Hypers
    ) -> Array:
        """z; `act` holds the activation's own arrays."""

    def at_inference(self) -> "Activation":
        """The activation used outside training."""
        return self

    @property
    def flat_where_off(self) -> bool:
        """Whether z is exactly 0 where a latent is off, and has a gradient only where :meth:`live`
        says so."""
        return self.says("selects")

    def live(
        self, pre_acts: Float[Array, "*batch d_sae"], z: Array, act: Act, h: Hypers
    ) -> Array | None:
        """Not 0 where z has a gradient; None if that is where z is not 0."""
        return None


@dataclass(frozen=True)
class ReLU(Activation):
    """max(pre_acts, 0)."""

    provides: ClassVar = frozenset({"all_positive"})

    selects = True

    def apply(self, pre_acts: Array, act: Act, run: Stats, h: Hypers) -> Array:
        return jax.nn.relu(pre_acts)


def check_k(
    component: Component, d_sae: int, k: float, whole: bool = True, name: str = "k"
) -> None:
    """Refuses a k of which `component` cannot choose k of `d_sae` latents, or, if `whole`, not of
    each sample.

    Raises:
        ToysaeError: naming k by its `name`.
    """
    remedy, said = f"give {int(k)} or {int(k) + 1}", f"{name} {k:g}"
    component.demand(not whole or k == int(k), f"{said} of each sample cannot be kept: {remedy}")
    component.demand(k <= d_sae, f"{said} is more than d_sae = {d_sae}: give a smaller {name}")


@dataclass(frozen=True)
class TopK(Activation):
    """ReLU, then only the k largest of each sample (Gao et al. 2024). k may differ by member."""

    hypers: ClassVar = (Hyper("k", low=1),)

    selects = True

    def apply(self, pre_acts: Array, act: Act, run: Stats, h: Hypers) -> Array:
        z = jax.nn.relu(pre_acts)
        return jnp.where(largest(z, h["k"]), z, 0.0)

    def check_numbers(self, d_sae: int, h: Mapping[str, float]) -> None:
        check_k(self, d_sae, h["k"])


@dataclass(frozen=True)
class AbsTopK(Activation):
    """The k largest |pre_acts| of each sample, with their signs (Zhu et al. 2025, AbsTopK): one
    latent may stand for both ends of an axis. k may differ by member."""

    provides: ClassVar = frozenset({"signed"})
    hypers: ClassVar = (Hyper("k", low=1),)

    selects = True

    def apply(self, pre_acts: Array, act: Act, run: Stats, h: Hypers) -> Array:
        return jnp.where(largest(jnp.abs(pre_acts), h["k"]), pre_acts, 0.0)

    def check_numbers(self, d_sae: int, h: Mapping[str, float]) -> None:
        check_k(self, d_sae, h["k"])


@dataclass(frozen=True)
class RunningThreshold(RunningStat):
    """A running mean of BatchTopK's smallest kept activation, bias-corrected (rate 0.01)."""

    name: ClassVar[str] = "threshold"

    def init(self, d_sae: int) -> Array:
        return jnp.zeros(2)

    def step(self, old: Array, f: Forward, run: Stats, h: Hypers) -> Array:
        # old = (biased mean, weight so far); their ratio is the corrected mean.
        kept = jnp.where(f.z > 0, f.z, jnp.inf).min()
        new = jnp.stack([jnp.where(jnp.isfinite(kept), kept, 0.0), jnp.float32(1)])
        return old + 0.01 * (new - old)


@dataclass(frozen=True)
class BatchTopK(Activation):
    """ReLU, then the k * batch largest of the whole batch (Bussmann et al. 2024); k may be a
    fraction. Outside training: a fixed threshold, the running mean of the smallest kept."""

    hypers: ClassVar = (Hyper("k", low=0.0),)
    stats: ClassVar = (RunningThreshold(),)

    selects = True

    def apply(self, pre_acts: Array, act: Act, run: Stats, h: Hypers) -> Array:
        z = jax.nn.relu(pre_acts)
        flat = z.reshape(-1)
        n_samples = flat.shape[0] // z.shape[-1]
        kept = largest(flat, jnp.maximum(h["k"] * n_samples, 1.0))
        return jnp.where(kept.reshape(z.shape), z, 0.0)

    def at_inference(self) -> "Activation":
        return Threshold()

    def check_numbers(self, d_sae: int, h: Mapping[str, float]) -> None:
        self.demand(h["k"] > 0, "k 0 keeps nothing: give at least 1 / batch_size")
        check_k(self, d_sae, h["k"], whole=False)


@dataclass(frozen=True)
class Threshold(Activation):
    """z = pre_acts where they reach the running threshold that training recorded."""

    stats: ClassVar = (RunningThreshold(),)

    def apply(self, pre_acts: Array, act: Act, run: Stats, h: Hypers) -> Array:
        mean, weight = run["threshold"][..., 0], run["threshold"][..., 1]
        z = jax.nn.relu(pre_acts)
        return jnp.where(z >= mean / jnp.maximum(weight, 1e-12), z, 0.0)


def largest(z: Float[Array, "*batch n"], k: Array | float) -> Bool[Array, "*batch n"]:
    """Whether each of some non-negative floats is among the k largest of its last axis.

    Of equal ones the first count, so that exactly ceil(k) are chosen, or all positive ones if these
    are fewer. `k` may be traced. Several times faster than a sort.
    """
    bits = jax.lax.stop_gradient(z).view(jnp.int32)
    k = jnp.ceil(k)
    least, kept = _bisected(bits, k)

    def without_later_equals(carry):
        bits, _ = carry
        room = k - (bits > least).sum(-1, keepdims=True)
        later = (bits == least) & (jnp.cumsum(bits == least, axis=-1) > room)
        return jnp.where(later, 0, bits), jnp.bool_(False)

    # At most one round, and none without equals. (Under vmap a cond would always compute it; a
    # mask carried in place of the bits makes a step a third slower.)
    too_many = (kept > k).any()
    bits, _ = jax.lax.while_loop(lambda c: c[1], without_later_equals, (bits, too_many))
    return bits >= least


def _bisected(
    bits: Int[Array, "*batch n"], k: Array
) -> tuple[Int[Array, "*batch 1"], Int[Array, "*batch 1"]]:
    """A bound that the k largest reach, and how many reach it: k, more if several are equal to it,
    or the number of positive ones if that is smaller.

    Bisects the bits: non-negative floats have the order of their int32 patterns. (A CPU compares
    the smallest floats as 0.)
    """

    def count(bound: Array) -> Array:
        return (bits >= bound).sum(-1, keepdims=True, dtype=jnp.int32)

    def halve(bounds):
        low, high, kept, going = bounds  # kept = count(low) >= k > count(high)
        middle = low + (high - low) // 2
        n = count(middle)
        enough = going & (n >= k)
        low, kept = jnp.where(enough, middle, low), jnp.where(enough, n, kept)
        high = jnp.where(going & (n < k), middle, high)
        return low, high, kept, going & (n != k) & (high - low > 1)

    # Most often the k-th lies within 16 octaves of the largest; and once a bound keeps exactly k,
    # or none is needed, the remaining bits do not matter.
    high = bits.max(-1, keepdims=True) + 1
    near = jnp.maximum(high - _SIXTEEN_OCTAVES, 1)
    n_near, positive = count(near), count(jnp.int32(1))
    low, kept = jnp.where(n_near >= k, near, 1), jnp.where(n_near >= k, n_near, positive)
    start = (low, high, kept, (positive > k) & (kept != k))
    low, _, kept, _ = jax.lax.while_loop(lambda b: b[3].any(), halve, start)
    return low, kept


_SIXTEEN_OCTAVES = 1 << 27  # in the bits of a float32
