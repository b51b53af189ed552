"""What every component of an SAE declares: numbers it reads, what it offers and what it needs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from inspect import isabstract
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import pytree
from ..disk import subclasses
from ..errors import ToysaeError, require
from . import sparse
from .arithmetic import SPARSE, product

Hypers = dict[str, Array]
"""Numbers read by the components of one SAE, by name; an ensemble's have a leading member axis."""

Stats = dict[str, Array]
"""Running statistics by name, plus `progress`: the fraction of training done, in [0, 1]."""


@dataclass(frozen=True)
class Hyper:
    """A number that a component reads: required when `default` is None; bounds are inclusive."""

    name: str
    default: float | None = None
    low: float = float("-inf")
    high: float = float("inf")


@dataclass(frozen=True)
class RunningStat(ABC):
    """A statistic that training carries for the components that read it."""

    name: ClassVar[str]
    per_latent: ClassVar[bool] = False
    """Whether it is `[d_sae]`, each latent's on its own: a resampled latent's starts afresh."""

    @abstractmethod
    def init(self, d_sae: int) -> Array:
        """The statistic before any step."""

    @abstractmethod
    def step(self, old: Array, f: "Forward", run: Stats, h: Hypers) -> Array:
        """The statistic after one more batch; `run` holds all of them before it, and progress."""


@dataclass(frozen=True)
class Spec(ABC):
    """What a component's check sees of the spec that it is a part of."""

    d_in: int
    d_sae: int
    decoder: "Component"
    encoder: "Component"
    activation: "Component"

    @abstractmethod
    def components(self) -> list["Component"]:
        """Every component, those inside others too."""


@dataclass(frozen=True)
class Component(ABC):
    """Base of all components. Static: it is hashed into the compiled program.

    A class is abstract, and refuses to be used, if it names ABC among its bases or leaves a method
    abstract; all others are final: vary them by composing.
    """

    axis: ClassVar[str]
    hypers: ClassVar[tuple[Hyper, ...]] = ()
    stats: ClassVar[tuple[RunningStat, ...]] = ()
    provides: ClassVar[frozenset[str]] = frozenset()
    """Capabilities that other components need, see :meth:`needs`."""

    def __new__(cls, *args, **fields):
        if is_abstract(cls):
            final = sorted({c.__name__ for c in subclasses(cls) if not is_abstract(c)})
            missing = ", ".join(sorted(cls.__abstractmethods__))
            remedy = f"give one of {', '.join(final)}" if final else f"define its {missing}"
            raise ToysaeError(f"{cls.__name__} is abstract: {remedy}")
        return super().__new__(cls)

    def check(self, spec: Spec) -> None:  # noqa: B027  most go with any
        """Refuses a spec whose sizes or other components this one does not go with.

        Raises:
            ToysaeError: naming both sides and what to write instead.
        """

    def check_numbers(self, d_sae: int, h: Mapping[str, float]) -> None:  # noqa: B027
        """Refuses one member's numbers that are impossible together or with the size.

        Raises:
            ToysaeError: naming the number and the bound.
        """

    def latent_axes(self) -> Mapping[str, tuple[int, ...]]:
        """For each array that the component owns, its axes over latents, counted from the end."""
        return {}

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        """About how many numbers a training step of one SAE holds for this component, besides those
        of a linear encoder, a ReLU and a squared error (an init: while it looks at `batch`
        inputs)."""
        return 0

    def says(self, claim: str) -> bool:
        """Whether its own class sets a class attribute to True: what a class that it derives from
        says may not hold of what this one does."""
        return vars(type(self)).get(claim) is True

    def demand(self, holds: object, reason: str, spec: Spec | None = None) -> None:
        """Raises a ToysaeError that names this component, the spec's size and the reason, unless
        `holds`."""
        size = "" if spec is None else f" with d_sae {spec.d_sae}"
        require(holds, f"{self.axis} {type(self).__name__}{size}: {reason}")

    def needs(self, capability: str, remedy: str, spec: Spec) -> None:
        """Raises a ToysaeError with the remedy unless a component of the spec provides the
        capability."""
        if any(capability in component.provides for component in spec.components()):
            return
        others = (o for o in (spec.decoder, spec.encoder, spec.activation) if o is not self)
        names = ", ".join(type(other).__name__ for other in others)
        raise ToysaeError(f"{type(self).__name__} does not go with {names}: {remedy}")


def is_abstract(kind: type[Component]) -> bool:
    """Whether a class is a base of components, not one to use."""
    return ABC in kind.__bases__ or isabstract(kind)


def components_of(value: object) -> Iterator[Component]:
    """A component and all components inside it, depth first."""
    if isinstance(value, Component):
        yield value
    if isinstance(value, tuple):
        for item in value:
            yield from components_of(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from components_of(getattr(value, field.name))


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

    def pre_acts(
        self, x: Float[Array, "*batch d_in"], W: Float[Array, "d_in d_sae"]
    ) -> Float[Array, "*batch d_sae"]:
        """x W, of which few entries have a gradient if the arithmetic is sparse."""
        return sparse.encoding_product(x, W) if self.arithmetic == SPARSE else self.product(x, W)

    def reconstruction(
        self,
        z: Float[Array, "*batch n"],
        W: Float[Array, "n d_in"],
        live: Float[Array, "*batch n"] | None = None,
    ) -> Float[Array, "*batch d_in"]:
        """z W, of which few entries are not 0 if the arithmetic is sparse. Only where `live` is not
        0, or else z, z then has a gradient."""
        return (
            sparse.decoding_product(z, W, live) if self.arithmetic == SPARSE else self.product(z, W)
        )


@pytree.dataclass
class Encoding:
    """What an encoder returns: `[*batch, d_sae]` pre-activations and, if gated, gate inputs."""

    pre_acts: Array
    gate_acts: Array | None = None


@pytree.dataclass
class Forward:
    """One pass: x, x_hat `[*batch, d_in]`; z, pre_acts, gate_acts `[*batch, d_sae]`; and where z
    may have a gradient, see :meth:`Weights.reconstruction`."""

    x: Array
    x_hat: Array
    z: Array
    pre_acts: Array
    gate_acts: Array | None
    w: Weights
    live: Array | None = None

    @property
    def fire_rate(self) -> Float[Array, " d_sae"]:
        """The fraction of the batch in which each latent fires."""
        return (self.z != 0).mean(tuple(range(self.z.ndim - 1)), dtype=jnp.float32)
