"""Experiments as data: one question, one object, every field open to the command line."""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..aliases import OLD_SETTINGS, accepts_old_names, renamed
from ..checked import read_regular, shown
from ..door import check_fields
from ..errors import ToysaeError, require
from ..points import Points
from .study import check_overrides

_PROSE = ("question", "expected", "run_time", "figures", "smoke", "full", "save_params")
"""Fields that change no number."""
_NAMED = ("probs", "firing", "magnitude")
"""Settings of worlds that are names."""


@accepts_old_names
@dataclass(frozen=True)
class Experiment:
    """A sweep over worlds x ratios x recipes x inits x sizes, each with a grid and seeds.

    One value will do in place of a tuple.

    Attributes:
        question: what it asks, in a sentence.
        expected: what is known or expected, to compare the figures with.
        run_time: how long it takes, and on what.
        worlds: names from the catalogue.
        d_in: input dimension.
        ratios: n_features / d_in.
        l0: mean active features in a sample.
        probs: tail of the firing probabilities, in worlds that have a choice.
        firing: how features fire together, in worlds that have a choice.
        magnitude: law of the coefficients.
        dials: further numbers of the worlds, e.g. ``{"rho": 0.5}``; each goes to the worlds
            that have such a field.
        recipes: SAE recipes.
        inits: initialisations, or "recipe" for the recipe's own.
        ceiling: also start each recipe at the truth and train it: the ceiling of mmcs.
        at_truth: also train each recipe with its decoder held at the truth (`init` "at-truth"),
            where d_sae = n_features and the recipe does not hold its decoder to something else:
            what the objective costs there; see :mod:`toysae.recovery.minima`.
        sizes: d_sae / n_features.
        l1_coeff: the sparsity grid, in the convention below.
        l1_convention: whose coefficient `l1_coeff` is; see toysae.sae.loss_scale.
        l0_coeff: the grid of recipes that read it instead (JumpReLU).
        k: the grid of recipes that read k instead.
        l0_target: the grid of recipes that are driven to an L0.
        match_l0: drive every recipe to the L0s of `l0_target`: its sparsity penalty by control,
            starting from its own coefficient; its k by setting it. One that has neither (FISTA)
            keeps its own grid.
        world_seeds: how many worlds; the n of every interval.
        sae_seeds: SAEs of each kind on each world.
        firings_per_feature: sets the steps so that a feature fires equally often at any ratio.
        n_steps: sets the steps outright instead.
        batch_size: samples a step.
        arithmetic: of the large products of a training step, "float32", "dense", "sparse",
            "bfloat16" or "fused", see :func:`toysae.train`.
        lr: Adam's learning rate.
        lr_warmup: fraction of training over which lr rises.
        lr_decay: fraction over which it falls at the end.
        l1_warmup: fraction over which l1_coeff rises.
        n_eval: samples that each trained SAE is scored on.
        curve_points: points of the learning curves.
        figures: which figures to draw.
        save_params: keep the SAEs' weights.
        points: of a sweep, which multiply all of the above; see :mod:`toysae.points`.
            A point sets, for itself: `world`, `ratio`, `recipe`, `init`, `size` (in place of all
            of them), any single number or name above from `d_in` to `magnitude` and from
            `firings_per_feature` to `l1_warmup`, a grid's one value (`l1_coeff`, `k`, ...), a
            world's dial, or another number that a recipe reads (`aux_coeff`, `beta1`, ...). What a
            world or recipe does not read leaves it as it is. SAEs that share a compiled shape train
            together; rows come in the order of the points that first ask for their cell.
        smoke: overrides of `--smoke`: seconds.
        full: overrides of `--full`: the size for a GPU.
    """

    question: str
    expected: str = ""
    run_time: str = ""
    worlds: tuple[str, ...] = ("sphere",)
    d_in: int = 32
    ratios: tuple[float, ...] = (1, 2, 4)
    l0: float = 3.0
    probs: str = "uniform"
    firing: str = "independent"
    magnitude: str = "uniform"
    dials: Mapping[str, float | str] = field(default_factory=dict)
    recipes: tuple[str, ...] = ("tied", "untied")
    inits: tuple[str, ...] = ("recipe",)
    ceiling: bool = True
    at_truth: bool = False
    sizes: tuple[float, ...] = (1.0,)
    l1_coeff: tuple[float, ...] = (0.1,)
    l1_convention: str = "internal"
    l0_coeff: tuple[float, ...] = (0.03,)
    k: tuple[float, ...] = (4.0,)
    l0_target: tuple[float, ...] = (4.0,)
    match_l0: bool = False
    world_seeds: int = 3
    sae_seeds: int = 1
    firings_per_feature: float = 30_000
    n_steps: int | None = None
    batch_size: int = 256
    arithmetic: str = "float32"
    lr: float = 1e-3
    lr_warmup: float = 0.0
    lr_decay: float = 0.2
    l1_warmup: float = 0.0
    n_eval: int = 65_536
    curve_points: int = 40
    figures: tuple[str, ...] = ("mcs_histograms",)
    save_params: bool = True
    points: Annotated[Points, tyro.conf.Suppress] = field(default_factory=Points)
    smoke: Annotated[Mapping[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    full: Annotated[Mapping[str, Any], tyro.conf.Suppress] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if isinstance(field_.default, tuple) and not isinstance(value, tuple):
                one = isinstance(value, str) or not isinstance(value, Iterable)
                object.__setattr__(self, field_.name, (value,) if one else tuple(value))
        check_fields(self)
        if not OLD_SETTINGS.keys().isdisjoint(self.points.names):
            known = [field_.name for field_ in fields(self)]
            points = Points.of(renamed(point, OLD_SETTINGS, known) for point in self.points)
            object.__setattr__(self, "points", points)
        for name, value in self.dials.items():
            if isinstance(value, str) and name not in _NAMED:
                raise ToysaeError(f"Experiment: dials[{name!r}] {shown(value)} is not a number")

    def smoked(self) -> "Experiment":
        """The same experiment at a size that takes seconds.

        Raises:
            ToysaeError: `smoke` names no field of an experiment.
        """
        return replace(self, **check_overrides(self, "smoke", self.smoke))

    def at_full_size(self) -> "Experiment":
        """The same experiment at the size that its question deserves.

        Raises:
            ToysaeError: it has no other size.
        """
        require(self.full, "this experiment has no full size: leave --full out")
        return replace(self, **check_overrides(self, "full", self.full))

    def settings(self) -> dict[str, Any]:
        """The fields that determine the numbers, as JSON holds them."""
        settings = {k: v for k, v in asdict(self).items() if k not in _PROSE}
        return settings | {"points": list(self.points)}


def describe(path: Path) -> tuple[str, str] | None:
    """The question and the run time that a file's experiment or study states, read without running
    the file; None if it defines neither. A question that is not a literal is "(see the file)"."""
    try:
        tree = ast.parse(read_regular(path, kind="experiment file"))
    except (SyntaxError, ValueError, RecursionError):
        return None
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        if {"experiment", "study"} & {t.id for t in node.targets if isinstance(t, ast.Name)}:
            call = node.value
            arguments: dict[str, Any] = {k.arg: k.value for k in call.keywords if k.arg}
            arguments |= {"question": call.args[0]} if call.args else {}
            question = _constant(arguments.get("question"), "(see the file)")
            return question, _constant(arguments.get("run_time"), "")
    return None


def _constant(node: Any, otherwise: str) -> str:
    """The text that a node is, or `otherwise` if it is not a literal text."""
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) else otherwise
