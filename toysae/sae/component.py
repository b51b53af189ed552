"""What every part of an SAE declares: the numbers it reads, what it offers and what it needs."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import pytree
from .arithmetic import product

Hypers = dict[str, Array]
"""Numbers read by the parts of one SAE, by name; an ensemble's have a leading member axis."""

Stats = dict[str, Array]
"""Running statistics by name, plus `progress`: the fraction of training done, in [0, 1]."""


@dataclass(frozen=True)
class Hyper:
    """A number that a part reads: required when `default` is None; bounds are inclusive."""

    name: str
    default: float | None = None
    low: float = float("-inf")
    high: float = float("inf")


@dataclass(frozen=True)
class RunningStat:
    """A per-latent or scalar statistic that training carries for the parts that read it."""

    name: ClassVar[str]

    def init(self, d_sae: int) -> Array:
        raise TypeError(f"{type(self).__name__} must define init")

    def update(self, old: Array, forward: "Forward") -> Array:
        raise TypeError(f"{type(self).__name__} must define update")


@dataclass(frozen=True)
class Component:
    """Base of all parts. Static: it is hashed into the compiled program."""

    hypers: ClassVar[tuple[Hyper, ...]] = ()
    stats: ClassVar[tuple[RunningStat, ...]] = ()
    provides: ClassVar[frozenset[str]] = frozenset()
    requires: ClassVar[dict[str, str]] = {}
    """Capability -> what to write instead, when no other part of the spec provides it."""

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        """About how many numbers a training step of one SAE holds for this part, besides those of
        a linear encoder, a ReLU and a squared error (an init: while it looks at `batch` inputs)."""
        return 0


def components_of(part: object) -> Iterator[Component]:
    """A part and all parts inside it, depth first."""
    if isinstance(part, Component):
        yield part
    if isinstance(part, tuple):
        for item in part:
            yield from components_of(item)
    elif is_dataclass(part):
        for field in fields(part):
            yield from components_of(getattr(part, field.name))


@pytree.dataclass
class Params:
    """What is learned, before constraints.

    Attributes:
        W_dec: `[d_sae, d_in]`; rows are the latents' directions.
        b_dec: `[d_in]`, or None for an SAE without decoder bias.
        enc: the encoder's own arrays by name.
        act: the activation's own arrays by name (JumpReLU's thresholds); most have none.
    """

    W_dec: Array
    b_dec: Array | None
    enc: dict[str, Array]
    act: dict[str, Array] = pytree.field(default_factory=dict)


@pytree.dataclass
class Weights:
    """Params after :func:`toysae.sae.forward.resolve`: constraints and tying applied once."""

    W_dec: Array
    b_dec: Array | None
    enc: dict[str, Array]
    act: dict[str, Array] = pytree.field(default_factory=dict)
    arithmetic: str = pytree.field(pytree_node=False, default="float32")

    def product(
        self, a: Float[Array, "*batch k"], W: Float[Array, "k n"]
    ) -> Float[Array, "*batch n"]:
        """a W, in the spec's arithmetic: for products as large as the batch times the SAE."""
        return product(self.arithmetic, a, W)


@pytree.dataclass
class Encoding:
    """What an encoder returns: `[*batch, d_sae]` pre-activations and, if gated, gate inputs."""

    pre_acts: Array
    gate_acts: Array | None = None


@pytree.dataclass
class Forward:
    """One pass: x, x_hat `[*batch, d_in]`; z, pre_acts, gate_acts `[*batch, d_sae]`."""

    x: Array
    x_hat: Array
    z: Array
    pre_acts: Array
    gate_acts: Array | None
    w: Weights

    @property
    def fire_rate(self) -> Float[Array, " d_sae"]:
        """The fraction of the batch in which each latent fires."""
        return (self.z != 0).mean(tuple(range(self.z.ndim - 1)), dtype=jnp.float32)
