"""Makes the cells of an experiment, after all checks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bits import in_32_bits
from ..checked import integer, number, text
from ..errors import require, unknown
from ..evaluation.measure import RecoveryScores
from ..points import Points
from ..recovery.minima import AT_TRUTH, TRUTH
from ..runs.cell import Cell
from ..runs.worlds import Worlds
from ..sae import INITS, KNOBS, Never, SAESpec, make_spec, recipe_row
from ..sae.frozen import Frozen
from ..sae.l0_control import COEFFICIENTS, controlled
from ..sae.loss_scale import CONVENTIONS, to_internal
from ..training.members import fallback
from ..training.optimiser import declared
from ..worlds import world_fields
from ..worlds.registry import is_saved, kinds_of
from .experiment import Experiment
from .override import GRIDS, OF_CELLS, PLURAL, experiment_at


@in_32_bits
def cells(e: Experiment) -> list[Cell]:
    """Every cell of an experiment, in the order they run: that of its points, each with
    worlds x ratios x recipes x inits x sizes. An SAE that two points ask for is there once.

    Raises:
        ToysaeError: an unknown name, an empty grid or a number out of range.
    """
    shared: dict[Worlds, Worlds] = {}  # some take half a minute or are trained
    alike: dict[tuple, list[Cell]] = {}
    read: set[str] = {*PLURAL, *GRIDS, *OF_CELLS}
    for dial in e.dials:
        fields_of = {name for world in e.worlds for name in world_fields(world)}
        if dial not in fields_of:
            raise unknown(f"dial of worlds {', '.join(e.worlds)}", dial, fields_of)
    for point in e.points:
        here, numbers = experiment_at(e, point)
        _check(here)
        for cell, names in _cells_at(here, numbers, e.points.names, shared):
            alike.setdefault(_shape(cell), []).append(cell)
            read |= names
    for name in e.points.names:
        if name not in read:
            raise unknown("dimension", name, read)
    merged = [_merged(each) for each in alike.values()]
    held = any(cell.columns["init"] == AT_TRUTH for cell in merged)
    require(held or not e.at_truth, "at_truth: no decoder can be held at the truth: give size 1 "
            "and a recipe that does not hold its own")  # fmt: skip
    numbered = _numbered(merged)
    for cell in numbered:
        _ = cell.hypers  # checks the numbers of every member
    return numbered


def _check(e: Experiment) -> None:
    for name in ("worlds", "ratios", "recipes", "inits", "sizes"):
        require(len(getattr(e, name)) > 0, f"{name} is empty: give at least one value")
    for name in ("d_in", "batch_size", "n_eval"):
        integer(name, getattr(e, name), 1, 2**31 - 1)
    for name in ("world_seeds", "sae_seeds"):
        integer(name, getattr(e, name), 1, 10_000)
    for name in ("worlds", "recipes", "inits", "probs", "firing", "magnitude", "l1_convention"):
        given = getattr(e, name)
        for value in (given,) if isinstance(given, str) else given:
            text(name, value)
    for name in ("l0", "lr", "lr_warmup", "lr_decay", "l1_warmup"):
        number(name, getattr(e, name))
    integer("curve_points", e.curve_points, 1, 100_000)
    for name in ("ratios", "sizes"):
        for value in getattr(e, name):
            number(name, value, above=0, high=1e12)
    number("firings_per_feature", e.firings_per_feature, above=0)
    if e.n_steps is not None:
        integer("n_steps", e.n_steps, 1, 2**31 - 1)
    if e.l1_convention not in CONVENTIONS:
        raise unknown("L1 convention", e.l1_convention, CONVENTIONS)
    for world in e.worlds:
        kinds_of(world)
        require(
            e.world_seeds == 1 or not is_saved(world),
            f"world {world} is a file, one world whatever the seed: give world_seeds 1",
        )


def _cells_at(
    e: Experiment,
    numbers: dict[str, float],
    dimensions: tuple[str, ...],
    shared: dict[Worlds, Worlds],
) -> Iterator[tuple[Cell, set[str]]]:
    """The cells of one point, each with the names that its world and recipe read."""
    inits = [*e.inits, *([TRUTH] if e.ceiling and TRUTH not in e.inits else [])]
    inits += [AT_TRUTH] if e.at_truth else []
    for world in e.worlds:
        for ratio in e.ratios:
            for recipe in e.recipes:
                for init in inits:
                    for size in e.sizes:
                        cell, read = _cell(e, numbers, dimensions, shared, world, ratio, recipe,
                                           init, size)  # fmt: skip
                        if init != AT_TRUTH or _can_be_held(cell):
                            yield cell, read


def _can_be_held(cell: Cell) -> bool:
    """Whether the decoder of a cell's SAEs can be held at the truth."""
    own = make_spec(str(cell.columns["recipe"]), cell.spec.d_in, cell.spec.d_sae).decoder
    n_features = cell.data.worlds.n_features
    return cell.spec.d_sae == n_features and "free_rows" in own.provides


def _cell(
    e: Experiment, numbers: dict[str, float], dimensions: tuple[str, ...],
    shared: dict[Worlds, Worlds], world: str, ratio: float, recipe: str, init: str, size: float,
) -> tuple[Cell, set[str]]:  # fmt: skip
    if init not in INITS and init not in ("recipe", AT_TRUTH):
        raise unknown("init", init, [*INITS, "recipe"])
    recipe_row(recipe)
    data = _data(e, world, ratio, shared)
    fields = dict(data.fields)
    if "n_features" in fields:
        d_in, n_features = e.d_in, fields["n_features"]
    else:
        d_in, n_features = data.worlds.d_in, data.worlds.n_features
    d_sae = max(round(size * n_features), 1)
    spec = _spec(e, recipe, init, d_in, d_sae)
    knob = _knob(recipe, spec, dimensions)
    asked = _asked(e, recipe, knob, numbers)
    own = _own(e, recipe, spec, knob, numbers)
    given = asked
    if knob == "l1_coeff":
        given = (to_internal(e.l1_convention, a, d_in, d_sae) for a in asked)
    steps = e.n_steps or -(-round(e.firings_per_feature * n_features / e.l0) // e.batch_size)
    labels, text = _labels(e, dimensions, {**fields, "d_in": d_in}, own)
    cell = Cell(
        name="-".join([f"{_called(world)}-n{n_features}-{recipe}-{init}-s{d_sae}",
                       *(f"{name}_{_short(value)}" for name, value in labels.items())]),
        data=data,
        spec=spec,
        members=Points.of({**own, knob: value} for value in given),
        sae_seeds=tuple(range(e.sae_seeds)),
        n_steps=max(int(steps), 1),
        batch_size=e.batch_size,
        measure=RecoveryScores(e.n_eval, e.curve_points),
        columns={"world": world, "recipe": recipe, "init": init, "knob": knob, "sparsity": asked},
        labels={**labels, "setting": (text,) * len(asked)},
    )  # fmt: skip
    read = {*world_fields(world), *declared(spec, numbers)}
    return cell, read - {"n_features"}  # which is ratio


def _data(e: Experiment, world: str, ratio: float, shared: dict[Worlds, Worlds]) -> Worlds:
    """The worlds of a cell; of equal ones those that are shared."""
    known, sized = world_fields(world), {}
    if "n_features" in known:
        sized = {"d_in": e.d_in, "n_features": max(round(ratio * e.d_in), 1), "l0": e.l0,
                 "probs": e.probs, "firing": e.firing, "magnitude": e.magnitude}  # fmt: skip
    else:  # a published world: only its own dials apply
        require(e.n_steps is not None, f"world {world!r} has a size of its own: give n_steps")
    chosen = tuple((k, v) for k, v in {**sized, **e.dials}.items() if k in known)
    data = Worlds(world, chosen, tuple(range(e.world_seeds)))
    return shared.setdefault(data, data)


def _asked(e: Experiment, recipe: str, knob: str, numbers: dict[str, float]) -> tuple[float, ...]:
    """The grid of the number that sparsity depends on, as the experiment gives it."""
    if knob in KNOBS:
        source = "l0_target" if e.match_l0 and knob == "k" else knob
        asked = tuple(getattr(e, source))
        require(len(asked) > 0, f"{source} is an empty grid")
        return asked
    value = numbers.get(knob, recipe_row(recipe).toy.get(knob))
    require(value is not None, f"recipe {recipe!r} needs {knob}: give it in the points, as in "
            f"points=grid({knob}=[...]), or in the recipe's toy numbers")  # fmt: skip
    return (number(knob, value),)


def _own(
    e: Experiment, recipe: str, spec: SAESpec, knob: str, numbers: dict[str, float]
) -> dict[str, Any]:
    """The numbers that all SAEs of a cell have in common; the one of sparsity is 0 in them."""
    own = fallback(recipe, spec)
    if knob == "l0_target":  # where the control starts from
        toy = recipe_row(recipe).toy
        own |= {name: toy[name] for name in COEFFICIENTS if name in spec.hypers()}
    own |= {knob: 0.0, "lr": e.lr, "lr_warmup": e.lr_warmup, "lr_decay": e.lr_decay}
    if "l1_warmup" in spec.hypers():
        own["l1_warmup"] = e.l1_warmup
    reads = declared(spec, numbers)
    return own | {name: value for name, value in numbers.items() if name in reads}


def _labels(
    e: Experiment, dimensions: tuple[str, ...], fields: dict[str, Any], own: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """The columns of a cell that say where on the sweep's dimensions it is, and all of that in
    words."""
    duration = "n_steps" if e.n_steps else "firings_per_feature"
    static = {**fields, duration: getattr(e, duration), "batch_size": e.batch_size,
              "arithmetic": e.arithmetic}  # fmt: skip
    labels = {name: static[name] for name in dimensions if name in static}
    setting = {name: {**static, **own}[name] for name in dimensions if name in {**static, **own}}
    text = ", ".join(f"{n} {_short(v)}" for n, v in setting.items() if n not in GRIDS)
    return labels, text


def _knob(recipe: str, spec: SAESpec, dimensions: tuple[str, ...]) -> str:
    """The number that sparsity depends on: a usual one, else one that points set, else the first
    that has no default."""
    usual = (name for name in KNOBS if name in spec.hypers())
    of_points = (name for name in dimensions if name in spec.hypers())
    needed = (name for name, hyper in spec.hypers().items() if hyper.default is None)
    knob = next(iter([*usual, *of_points, *needed]), None)
    require(knob, f"recipe {recipe!r} reads no number that its sparsity depends on: train it "
            "with toysae.train")  # fmt: skip
    return str(knob)


def _spec(e: Experiment, recipe: str, init: str, d_in: int, d_sae: int) -> SAESpec:
    named = {"recipe": None, AT_TRUTH: TRUTH}.get(init, init)
    spec = make_spec(recipe, d_in, d_sae, named, arithmetic=e.arithmetic)
    if init == AT_TRUTH:
        decoder = Frozen(spec.decoder.bias, spec.decoder.bias_start)
        spec = replace(spec, decoder=decoder, resample=Never())  # resampling would move rows
    if e.match_l0:
        spec = replace(spec, penalty=controlled(spec.penalty) or spec.penalty)
    return spec


def _called(world: str) -> str:
    """The name of a world in a cell's name: of a saved world the file without its folder."""
    return Path(world).stem if is_saved(world) else world


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _shape(cell: Cell) -> tuple:
    """Equal for cells whose members can train as one ensemble."""
    return (cell.data, cell.spec, cell.n_steps, cell.batch_size, cell.columns["recipe"],
            cell.columns["init"], cell.members.names)  # fmt: skip


def _merged(alike: list[Cell]) -> Cell:
    """One cell with the members of several, each once."""
    found: dict[tuple, tuple[Any, Any]] = {}
    for cell in alike:
        told: Any = cell.columns["sparsity"], cell.labels["setting"]
        for row, *named in zip(cell.members.rows, *told, strict=True):
            found.setdefault(row, tuple(named))  # the first to ask for a member names it
    asked, settings = zip(*found.values(), strict=True)
    first = alike[0]
    return replace(
        first,
        members=Points(tuple(found)),
        columns={**first.columns, "sparsity": asked},
        labels={**first.labels, "setting": settings},
    )


def _numbered(cells: list[Cell]) -> list[Cell]:
    """The cells with different names: those with an earlier cell's name are numbered."""
    counts: dict[str, int] = {}
    numbered = []
    for cell in cells:
        counts[cell.name] = n = counts.get(cell.name, 0) + 1
        numbered.append(cell if n == 1 else replace(cell, name=f"{cell.name}-{n}"))
    return numbered
