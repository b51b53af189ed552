"""An experiment is data: one question, one object, every field open to the command line."""

import runpy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..errors import ToysaeError, require, unknown
from ..recovery.minima import AT_TRUTH, TRUTH
from ..sae import INITS, KNOBS, SAESpec, make_spec, recipe_row
from ..sae.decoders import Free, Normalised, UnitNorm
from ..sae.frozen import Frozen
from ..sae.l0_control import COEFFICIENTS, controlled
from ..sae.loss_scale import CONVENTIONS, to_internal
from ..study import Study
from ..worlds import WORLDS, World, make_world, stack, world_fields
from .members import Grid, fallback

_FIELDS = {knob: "l1" if knob == "l1_coeff" else knob for knob in KNOBS}
"""The number that a recipe's sparsity hangs on -> the field of its grid."""

_PROSE = ("question", "expected", "run_time", "figures", "smoke", "save_params")
"""Fields that change no number."""


@dataclass(frozen=True)
class Experiment:
    """A sweep over worlds x ratios x recipes x inits x sizes, each with a grid and seeds.

    Attributes:
        question: what it asks, in a sentence.
        expected: what is known or expected, to hold the figures against.
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
        l1: the sparsity grid, in the convention below.
        l1_convention: whose coefficient `l1` is; see toysae.sae.loss_scale.
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
        arithmetic: of the large products of a training step, "float32" or "bfloat16".
        lr: Adam's learning rate.
        lr_warmup: fraction of training over which lr rises.
        lr_decay: fraction over which it falls at the end.
        l1_warmup: fraction over which l1 rises.
        n_eval: samples that each trained SAE is scored on.
        curve_points: points of the learning curves.
        figures: which figures to draw.
        save_params: keep the SAEs' weights.
        smoke: overrides of `--smoke`.
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
    dials: Mapping[str, float] = field(default_factory=dict)
    recipes: tuple[str, ...] = ("tied", "untied")
    inits: tuple[str, ...] = ("recipe",)
    ceiling: bool = True
    at_truth: bool = False
    sizes: tuple[float, ...] = (1.0,)
    l1: tuple[float, ...] = (0.1,)
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
    smoke: Annotated[Mapping[str, Any], tyro.conf.Suppress] = field(default_factory=dict)

    def smoked(self) -> "Experiment":
        """The same experiment in seconds."""
        return replace(self, **self.smoke)

    def settings(self) -> dict[str, Any]:
        """What determines the numbers, as JSON would hold it."""
        return {k: v for k, v in asdict(self).items() if k not in _PROSE}


Fields = tuple[tuple[str, Any], ...]
"""A world's fields, by name."""

Worlds = Callable[[str, Fields], World]
"""The stacked worlds of all seeds, by name and fields."""


@dataclass(frozen=True)
class Cell:
    """One group of an experiment: all SAEs that share a compiled shape."""

    world: str
    n_features: int
    world_fields: Fields
    spec: SAESpec
    recipe: str
    init: str
    grid: tuple[tuple[str, tuple[float, ...]], ...]
    asked: tuple[float, ...]
    knob: str
    n_steps: int

    @property
    def slug(self) -> str:
        return f"{self.world}-n{self.n_features}-{self.recipe}-{self.init}-s{self.spec.d_sae}"

    def hypers(self) -> Grid:
        return dict(self.grid)


def worlds_of(e: Experiment) -> Worlds:
    """Makes the worlds of an experiment, each once: some take half a minute or are trained."""

    @cache
    def stacked(name: str, chosen: Fields) -> World:
        return stack([make_world(name, seed, **dict(chosen)) for seed in range(e.world_seeds)])

    return stacked


def cells(e: Experiment, worlds: Worlds | None = None) -> list[Cell]:
    """Every group of an experiment, in the order they run, fully checked.

    Args:
        e: the experiment.
        worlds: asked for worlds whose size is their own; :func:`worlds_of` if not given.

    Raises:
        ToysaeError: an unknown name, an empty grid or a number out of range.
    """
    for name in ("worlds", "ratios", "recipes", "inits", "sizes"):
        require(len(getattr(e, name)) > 0, f"{name} is empty: give at least one value")
    for name in ("d_in", "world_seeds", "sae_seeds", "batch_size", "n_eval", "curve_points"):
        require(getattr(e, name) >= 1, f"{name} {getattr(e, name)} must be at least 1")
    for name in ("ratios", "sizes"):
        for value in getattr(e, name):
            require(value > 0, f"{name} {value:g} must be more than 0")
    require(e.firings_per_feature > 0, f"firings_per_feature {e.firings_per_feature} must be > 0")
    require(e.n_steps is None or e.n_steps >= 1, f"n_steps {e.n_steps} must be at least 1")
    if e.l1_convention not in CONVENTIONS:
        raise unknown("L1 convention", e.l1_convention, CONVENTIONS)
    for dial in e.dials:
        fields_of = {name for world in e.worlds if world in WORLDS for name in world_fields(world)}
        if dial not in fields_of:
            raise unknown(f"dial of worlds {', '.join(e.worlds)}", dial, fields_of)
    worlds = worlds or worlds_of(e)
    inits = [*e.inits, *([TRUTH] if e.ceiling and TRUTH not in e.inits else [])]
    inits += [AT_TRUTH] if e.at_truth else []
    found = {}
    for world in e.worlds:
        if world not in WORLDS:
            raise unknown("world", world, WORLDS)
        for ratio in e.ratios:
            for recipe in e.recipes:
                for init in inits:
                    for size in e.sizes:
                        cell = _cell(e, worlds, world, ratio, recipe, init, size)
                        if init != AT_TRUTH or _can_be_held(cell):
                            found[cell.slug] = cell
    held = any(cell.init == AT_TRUTH for cell in found.values())
    require(held or not e.at_truth, "at_truth: no decoder can be held at the truth: give size 1 "
            "and a recipe that does not hold its own")  # fmt: skip
    return list(found.values())


def _can_be_held(cell: Cell) -> bool:
    own = make_spec(cell.recipe, cell.spec.d_in, cell.spec.d_sae).decoder
    return cell.spec.d_sae == cell.n_features and isinstance(own, Free | UnitNorm | Normalised)


def _cell(
    e: Experiment, worlds: Worlds, world: str, ratio: float, recipe: str, init: str, size: float
) -> Cell:
    if init not in INITS and init not in ("recipe", AT_TRUTH):
        raise unknown("init", init, [*INITS, "recipe"])
    recipe_row(recipe)
    known, sized = world_fields(world), {}
    if "n_features" in known:
        sized = {"d_in": e.d_in, "n_features": max(round(ratio * e.d_in), 1), "l0": e.l0,
                 "probs": e.probs, "firing": e.firing, "magnitude": e.magnitude}  # fmt: skip
    chosen = tuple((k, v) for k, v in {**sized, **e.dials}.items() if k in known)
    if sized:
        d_in, n_features = sized["d_in"], sized["n_features"]
    else:  # a published world: only its own dials apply
        require(e.n_steps is not None, f"world {world!r} has a size of its own: give n_steps")
        made = worlds(world, chosen)
        d_in, n_features = made.d_in, made.n_features
    d_sae = max(round(size * n_features), 1)
    named = {"recipe": None, AT_TRUTH: TRUTH}.get(init, init)
    spec = make_spec(recipe, d_in, d_sae, named, arithmetic=e.arithmetic)
    if init == AT_TRUTH:
        decoder = Frozen(spec.decoder.bias, spec.decoder.bias_start)
        spec = replace(spec, decoder=decoder, resample=None)  # resampling would move rows
    if e.match_l0:
        spec = replace(spec, penalty=controlled(spec.penalty) or spec.penalty)
    knob = next((hyper for hyper in KNOBS if hyper in spec.hypers()), "")
    require(knob, f"recipe {recipe!r} reads none of {', '.join(KNOBS)}: use toysae.train")
    source = "l0_target" if e.match_l0 and knob == "k" else _FIELDS[knob]
    asked = getattr(e, source)
    require(len(asked) > 0, f"{source} is an empty grid")
    values = tuple(
        to_internal(e.l1_convention, a, d_in, d_sae) if knob == "l1_coeff" else a for a in asked
    )
    numbers = fallback(recipe, spec)
    if knob == "l0_target":  # where the control starts from
        toy = recipe_row(recipe).toy
        numbers |= {name: toy[name] for name in COEFFICIENTS if name in spec.hypers()}
    grid = {name: (number,) for name, number in numbers.items()}
    grid |= {knob: values, "lr": (e.lr,), "lr_warmup": (e.lr_warmup,), "lr_decay": (e.lr_decay,)}
    if "l1_warmup" in spec.hypers():
        grid["l1_warmup"] = (e.l1_warmup,)
    n_steps = e.n_steps or -(-round(e.firings_per_feature * n_features / e.l0) // e.batch_size)
    return Cell(
        world,
        n_features,
        chosen,
        spec,
        recipe,
        init,
        tuple(grid.items()),
        asked,
        knob,
        max(int(n_steps), 1),
    )


def load_experiment(path: str | Path) -> Experiment | Study:
    """The object named `experiment` (or `study`) in a Python file.

    Raises:
        ToysaeError: no such file (with the nearest one), or no experiment in it.
    """
    path = Path(path)
    if not path.is_file():
        beside = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise unknown("experiment file", str(path), beside)
    try:
        module = runpy.run_path(str(path))
    except ToysaeError:
        raise
    except Exception as error:
        raise ToysaeError(
            f"{path} is not an experiment: {type(error).__name__}: {error}"
        ) from error
    found = module.get("experiment", module.get("study"))
    if not isinstance(found, Experiment | Study):
        raise ToysaeError(
            f"{path} is not an experiment: define `experiment = Experiment(...)` or "
            "`study = Study(...)` in it"
        )
    settable = found if isinstance(found, Experiment) else found.options
    bad = [name for name in found.smoke if name not in {f.name for f in fields(settable)}]
    if bad:
        raise unknown("field in smoke", bad[0], [f.name for f in fields(settable)])
    return found
