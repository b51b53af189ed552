"""The row of the table of recipes, and what several rows share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..checked import shown
from ..errors import ToysaeError, require, unknown
from .activations import BatchTopK
from .component import Component
from .decoders import Normalised, UnitNorm
from .loss_scale import to_internal
from .matryoshka import Matryoshka
from .penalties import Penalty, Sum

OfSizes = Callable[[int, int], dict[str, Component]]
"""(d_in, d_sae) -> components by axis."""
Numbers = Mapping[str, float]

KNOBS = ("l0_target", "l1_coeff", "l0_coeff", "k")
"""The numbers that set the sparsity: a recipe's knob is the first of these that it reads."""


@dataclass(frozen=True)
class Recipe:
    """One row of the table.

    Attributes:
        about: one line, with the source.
        components: (d_in, d_sae) -> the axes in which it differs from SAESpec's defaults.
        toy: numbers with which it recovers an easy toy world: true L0 near 3, coefficients of
            mean 1/2, some 5,000 steps of 256 samples. All but its knob (see `KNOBS`) are the
            defaults of training it.
        paper: its source's own numbers, as stated there: those that training reads under our
            names, and also `batch_size`, `n_steps`, `d_sae`.
        convention: whose `l1_coeff` the paper's is; see :mod:`toysae.sae.loss_scale`.
        notes: what else the source does, and where the row departs from it.
        easy: the toy world that it must recover. A recipe that cannot represent a random
            dictionary names a world that it can.
        signed: False where a latent may stand for either end of its axis, so that it must be
            scored by |cos|.
    """

    about: str
    components: OfSizes
    toy: Numbers
    paper: Numbers = field(default_factory=dict)
    convention: str = "internal"
    notes: str = ""
    easy: str = "sphere"
    signed: bool = True

    def __post_init__(self) -> None:
        require(
            callable(self.components),
            f"components {shown(self.components)} of a Recipe is not a function: give one of "
            "(d_in, d_sae) that returns them by their axes, as in lambda d, s: {'penalty': L1()}",
        )
        for name, numbers in (("toy", self.toy), ("paper", self.paper)):
            require(isinstance(numbers, Mapping), f"{name} {shown(numbers)} of a Recipe is not a "
                    "mapping: give numbers by name, as in {'lr': 1e-3}")  # fmt: skip

    def knob(self) -> str:
        """The number that sets its sparsity; "" if there is none."""
        return next((name for name in KNOBS if name in self.toy), "")

    def numbers(self, settings: str, d_in: int, d_sae: int) -> dict[str, float]:
        """The default numbers of training it.

        Args:
            settings: "toy", without the knob, which depends on the world; or "paper", with its L1
                coefficient in our convention.
            d_in: input dimension.
            d_sae: number of latents.

        Raises:
            ToysaeError: other settings, or a recipe without a paper's.
        """
        if settings == "toy":
            return {name: value for name, value in self.toy.items() if name != self.knob()}
        if settings != "paper":
            raise unknown("settings", settings, ("toy", "paper"))
        if not self.paper:
            raise ToysaeError(
                f'no paper gives settings for "{self.about}": use settings="toy", or a published '
                "recipe (toysae list)"
            )
        numbers = dict(self.paper)
        if "l1_coeff" in numbers:
            numbers["l1_coeff"] = to_internal(self.convention, numbers["l1_coeff"], d_in, d_sae)
        return numbers


def nested_widths(d_sae: int, divisors: tuple[int, ...] = (8, 4, 2, 1)) -> tuple[int, ...]:
    """`d_sae` divided by each divisor, increasing and without repetition."""
    return tuple(sorted({max(d_sae // divisor, 1) for divisor in divisors}))


MONO = UnitNorm("pre", "geometric_median")
"""The decoder of Towards Monosemanticity."""

NORMED = Normalised("none")
"""The decoder of Sharkey et al. 2022 and of Cunningham et al. 2023."""


def mono(**components: Component) -> OfSizes:
    """Components by axis, on the unit-norm decoder of Towards Monosemanticity."""
    return lambda d, s: {"decoder": MONO, **components}


def penalised(*penalties: Penalty, **components: Component) -> OfSizes:
    """:func:`mono` with the sum of some penalties."""
    return mono(penalty=Sum(penalties), **components)


def matryoshka(*penalties: Penalty, divisors: tuple[int, ...] = (8, 4, 2, 1)) -> OfSizes:
    """:func:`penalised` BatchTopK with the prefixes of :func:`nested_widths`."""
    return lambda d, s: penalised(
        *penalties, activation=BatchTopK(), objective=Matryoshka(nested_widths(s, divisors))
    )(d, s)


FAST = {"lr": 3e-3, "lr_decay": 0.3}
L1_TOY = {"l1_coeff": 0.15, **FAST}
TIED_TOY = {**L1_TOY, "l1_coeff": 0.2}
K_TOY = {"k": 4.0, **FAST}
AUX_TOY = {"aux_coeff": 1.0, "aux_fraction": 0.1, "dead_window": 20.0, **K_TOY}
JUMP_TOY = {"l0_coeff": 0.008, "bandwidth": 0.1, "threshold_init": 0.1, **FAST}

HEDGES = (
    "early latents must reconstruct by themselves and so hold several features of a random "
    "dictionary (hedging): it is held to an orthonormal one"
)
