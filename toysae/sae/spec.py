"""The specification of an SAE: seven axes, all that changes the compiled program."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches

from ..checked import integer
from ..disk import subclasses
from ..errors import ToysaeError, require, unknown
from .activations import Activation, ReLU
from .arithmetic import ARITHMETICS
from .component import Component, Hyper, RunningStat, Spec, components_of, is_abstract
from .decoders import Decoder, UnitNorm
from .encoders import Encoder, Untied
from .inits import Init, RandomUnit
from .objectives import Objective, Plain
from .penalties import L1, Penalty, Sum
from .resampling import Never, Resampling


@dataclass(frozen=True)
class SAESpec(Spec):
    """Static description of an SAE; numbers go into hypers.

    `resample` says when and which latents training starts afresh; None is taken as `Never()`.
    `arithmetic` is that of the large products of a training step; a trained SAE computes in
    float32.

    Raises:
        ToysaeError: a size below 1, an axis of the wrong kind, or two components that exclude each
            other; both are named with a remedy.
    """

    decoder: Decoder = UnitNorm()
    encoder: Encoder = Untied()
    activation: Activation = ReLU()
    penalty: Penalty = Sum((L1(),))
    objective: Objective = Plain()
    init: Init = RandomUnit()
    resample: Resampling = Never()
    arithmetic: str = "float32"

    def __post_init__(self) -> None:
        for size in ("d_in", "d_sae"):
            object.__setattr__(self, size, integer(size, getattr(self, size), 1, 2**48))
        if self.resample is None:  # as in files and calls of before there was Never()
            object.__setattr__(self, "resample", Never())
        for axis, kind in AXES.items():
            if not isinstance(getattr(self, axis), kind):
                raise _not_a_component(axis, getattr(self, axis))
        if self.arithmetic not in ARITHMETICS:
            raise unknown("arithmetic", str(self.arithmetic), ARITHMETICS)
        for component in self.components():
            component.check(self)

    def components(self) -> list[Component]:
        return [component for axis in AXES for component in components_of(getattr(self, axis))]

    def hypers(self) -> dict[str, Hyper]:
        """The numbers that the components read, by name."""
        return {hyper.name: hyper for part in self.components() for hyper in part.hypers}

    def stats(self) -> dict[str, RunningStat]:
        """The running statistics that the components read, by name."""
        return {stat.name: stat for part in self.components() for stat in part.stats}

    def once_started(self) -> "SAESpec":
        """The spec of the steps, without the init: SAEs that differ only in it share one compiled
        program."""
        return replace(self, init=RandomUnit())

    def at_inference(self) -> "SAESpec":
        """The spec used outside training."""
        activation = self.activation.at_inference()
        return replace(self.once_started(), activation=activation, arithmetic="float32")

    def working_floats(self, batch: int) -> int:
        """About how many numbers a training step of one SAE holds, besides parameters, their
        gradient and moments: pre-activations, z, the gradient of either, and x_hat; and what the
        components add."""
        step = replace(self, init=RandomUnit(), resample=Never())  # these two have their own time
        own = sum(c.working_floats(batch, self.d_in, self.d_sae) for c in step.components())
        return batch * (3 * self.d_sae + self.d_in) + own

    def check_hypers(self, values: Mapping[str, float]) -> None:
        """Refuses one member's numbers that are impossible together or with d_sae.

        Raises:
            ToysaeError: naming the number and the bound.
        """
        for component in self.components():
            component.check_numbers(self.d_sae, values)


AXES: dict[str, type[Component]] = {
    kind.axis: kind for kind in (Decoder, Encoder, Activation, Penalty, Objective, Init, Resampling)
}
assert set(AXES) == {field.name for field in fields(SAESpec)} - {"d_in", "d_sae", "arithmetic"}


def _not_a_component(axis: str, value: object) -> ToysaeError:
    """The error for a value that an axis does not take: a name, a component of another axis,
    several components."""
    kind, shown = AXES[axis], " ".join(repr(value).split())
    names = sorted(c.__name__ for c in subclasses(kind) if not is_abstract(c))
    known = {name.lower(): name for name in names}
    near = get_close_matches(str(value).lower(), known, n=1)
    hint = f"did you mean {axis}={known[near[0]]}()? " if near else ""
    article = "an" if kind.__name__[0] in "AEIO" else "a"
    return ToysaeError(
        f"{axis}={shown} is not {article} {kind.__name__}: {hint}give one of "
        f"{', '.join(known.values())}"
    )


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
