"""The specification of an SAE: six axes, all that changes the compiled program."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches

from ..checked import integer
from ..disk import subclasses
from ..errors import ToysaeError, require, unknown
from .activations import Activation, ReLU
from .arithmetic import ARITHMETICS
from .component import Component, Hyper, RunningStat, components_of
from .decoders import Decoder, UnitNorm
from .encoders import Encoder, Untied
from .inits import Init, RandomUnit
from .objectives import Objective, Plain
from .penalties import L1, Penalty, Sum
from .resampling import Resampling


@dataclass(frozen=True)
class SAESpec:
    """Static description of an SAE; numbers go into hypers.

    `resample` says when and which latents training starts afresh; None for never. `arithmetic`
    is that of the large products of a training step; a trained SAE computes in float32.

    Raises:
        ToysaeError: a size below 1, an axis of the wrong kind, or two parts that exclude each
            other; both are named with a remedy.
    """

    d_in: int
    d_sae: int
    decoder: Decoder = UnitNorm()
    encoder: Encoder = Untied()
    activation: Activation = ReLU()
    penalty: Penalty = Sum((L1(),))
    objective: Objective = Plain()
    init: Init = RandomUnit()
    resample: Resampling | None = None
    arithmetic: str = "float32"

    def __post_init__(self) -> None:
        for size in ("d_in", "d_sae"):
            object.__setattr__(self, size, integer(size, getattr(self, size), 1, 2**48))
        for axis in AXES:
            part = getattr(self, axis)
            if not isinstance(part, AXES[axis]) or not _is_final(type(part)):
                raise _not_a_component(axis, part)
        if self.arithmetic not in ARITHMETICS:
            raise unknown("arithmetic", str(self.arithmetic), ARITHMETICS)
        reasons = {
            "decoder": self.decoder.check(self.d_in, self.d_sae),
            "objective": self.objective.check(self.d_sae),
        }
        if self.resample is not None:
            require(
                isinstance(self.resample, Resampling),
                f"resample={self.resample!r} is no Resampling: give ResampleDead(), say, or None",
            )
            reasons["resample"] = self.resample.check(
                self.decoder, self.encoder, self.d_in, self.d_sae
            )
        for axis, reason in reasons.items():
            if reason:
                raise ToysaeError(
                    f"{axis} {type(getattr(self, axis)).__name__} with d_sae {self.d_sae}: {reason}"
                )
        provided = frozenset().union(*(part.provides for part in self.components()))
        for part in self.components():
            for capability, remedy in part.requires.items():
                if capability not in provided:
                    others = ", ".join(
                        type(other).__name__
                        for other in (self.decoder, self.encoder, self.activation)
                        if other is not part
                    )
                    raise ToysaeError(f"{type(part).__name__} does not go with {others}: {remedy}")

    def components(self) -> list[Component]:
        """Every part, those inside others too."""
        return [part for axis in (*AXES, "resample") for part in components_of(getattr(self, axis))]

    def hypers(self) -> dict[str, Hyper]:
        """The numbers that the parts read, by name."""
        return {hyper.name: hyper for part in self.components() for hyper in part.hypers}

    def stats(self) -> dict[str, RunningStat]:
        """The running statistics that the parts read, by name."""
        return {stat.name: stat for part in self.components() for stat in part.stats}

    def once_started(self) -> "SAESpec":
        """The spec of the steps: the init plays no part any more, so that SAEs which differ
        only in it share one compiled program."""
        return replace(self, init=RandomUnit())

    def at_inference(self) -> "SAESpec":
        """The spec used outside training."""
        activation = self.activation.at_inference()
        return replace(self.once_started(), activation=activation, arithmetic="float32")

    def working_floats(self, batch: int) -> int:
        """About how many numbers a training step of one SAE holds, besides parameters, their
        gradient and moments: pre-activations, z, the gradient of either, and x_hat; and what the
        parts add."""
        parts = [
            part for axis in AXES if axis != "init" for part in components_of(getattr(self, axis))
        ]
        own = sum(part.working_floats(batch, self.d_in, self.d_sae) for part in parts)
        return batch * (3 * self.d_sae + self.d_in) + own

    def check_hypers(self, values: Mapping[str, float]) -> None:
        """Refuses one member's numbers that no `k` or the like allows.

        Raises:
            ToysaeError: naming the number and the bound.
        """
        for axis in ("encoder", "activation"):
            part = getattr(self, axis)
            reason = part.check(self.d_sae, dict(values))
            if reason:
                raise ToysaeError(f"{axis} {type(part).__name__}: {reason}")


AXES: dict[str, type[Component]] = {
    "decoder": Decoder, "encoder": Encoder, "activation": Activation,
    "penalty": Penalty, "objective": Objective, "init": Init,
}  # fmt: skip
_NO_AXES = {"d_in", "d_sae", "resample", "arithmetic"}
assert set(AXES) == {field.name for field in fields(SAESpec)} - _NO_AXES


def _not_a_component(axis: str, given: object) -> ToysaeError:
    """The error for what is no part of an axis: a name, a part of another axis, several parts."""
    kind, shown = AXES[axis], " ".join(repr(given).split())
    names = sorted(c.__name__ for c in subclasses(kind) if _is_final(c))
    known = {name.lower(): name for name in names}
    near = get_close_matches(str(given).lower(), known, n=1)
    hint = f"did you mean {axis}={known[near[0]]}()? " if near else ""
    return ToysaeError(
        f"{axis}={shown} is no {kind.__name__}: {hint}give one of {', '.join(known.values())}"
    )


def _is_final(part: type[Component]) -> bool:
    """Whether it is a part to use, not a base of parts."""
    methods = (getattr(part, name) for name in dir(part))
    abstract = any(getattr(method, "__isabstractmethod__", False) for method in methods)
    return not abstract and not part.__name__.startswith("_")


def resolve_hypers(declared: Mapping[str, Hyper], given: Mapping[str, float]) -> dict[str, float]:
    """Given numbers with defaults filled in.

    Raises:
        ToysaeError: a number nothing reads, a required one missing, or one out of bounds.
    """
    for name, value in given.items():
        if name not in declared:
            raise unknown("hyperparameter", name, declared)
        hyper = declared[name]
        require(
            hyper.low <= value <= hyper.high,
            f"{name} {value:g} is outside [{hyper.low:g}, {hyper.high:g}]",
        )
    resolved = {}
    for name, hyper in declared.items():
        value = given.get(name, hyper.default)
        require(value is not None, f"{name} is required: give {name}=... (one or a list)")
        resolved[name] = value
    return resolved
