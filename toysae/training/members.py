"""Ensembles from the grids and seeds that a user gives."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from .. import checked
from ..errors import require
from ..points import Points, grid
from ..sae import SAESpec, recipe_row, resolve_hypers
from ..worlds import Drawn, stack
from . import Ensemble
from .devices import UNSPLIT, Split, layout_of
from .memory import check_memory
from .optimiser import declared
from .ways import check_arithmetic

_MOST_MEMBERS = 100_000

Grid = Mapping[str, float | Sequence[float]]


def member_grid(
    spec: SAESpec, given: Grid | Points, sae_seeds: Sequence[int]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Combines all given points with all seeds, seeds varying fastest.

    Args:
        spec: says which numbers are read, besides the optimiser's.
        given: points; or by name one number or several, of which every combination is a point.
        sae_seeds: each point is trained once with each.

    Returns:
        The hypers, each `[n_members]` float32, and the SAE seeds `[n_members]`.

    Raises:
        ToysaeError: an empty list, or a number that is unknown, missing or out of bounds.
    """
    points = given if isinstance(given, Points) else grid(**given)
    sae_seeds = checked.several("sae_seeds", sae_seeds, checked.seed)
    read = declared(spec, points.names)
    n_members = len(points) * len(sae_seeds)
    require(n_members <= _MOST_MEMBERS, f"{n_members:,} SAEs of one recipe on one world: at most "
            f"{_MOST_MEMBERS:,} train together")  # fmt: skip
    rows = []
    for point in points:
        values = {name: checked.number32(name, value) for name, value in point.items()}
        row = resolve_hypers(read, values)
        spec.check_hypers(row)
        rows.extend(row for _ in sae_seeds)
    hypers = {name: np.array([row[name] for row in rows], np.float32) for name in read}
    return hypers, np.tile(np.asarray(sae_seeds, np.int32), len(rows) // len(sae_seeds))


def fallback(recipe: str, spec: SAESpec, settings: str = "toy") -> dict[str, float]:
    """The numbers of a recipe that its spec reads.

    Raises:
        ToysaeError: see :meth:`toysae.sae.Recipe.numbers`.
    """
    numbers = recipe_row(recipe).numbers(settings, spec.d_in, spec.d_sae)
    read = declared(spec, numbers)
    return {name: value for name, value in numbers.items() if name in read}


def make_ensemble(
    worlds: Drawn | Sequence[Drawn],
    world_seeds: Sequence[int],
    spec: SAESpec,
    given: Grid | Points,
    sae_seeds: Sequence[int],
    batch_size: int,
    split: Split = UNSPLIT,
) -> Ensemble:
    """Makes an ensemble that is ready to train, after every check.

    Args:
        worlds: stacked, or a list of them.
        world_seeds: of the data streams, one for each world.
        spec: of every member.
        given: see :func:`member_grid`.
        sae_seeds: see :func:`member_grid`.
        batch_size: samples a step.
        split: how each SAE is split among several devices.

    Raises:
        ToysaeError: see :func:`member_grid`; sizes that do not match; too few devices; too little
            memory.
    """
    world_seeds = checked.several("data seeds", world_seeds, checked.seed)
    ensemble = ensemble_of(worlds, world_seeds, spec, given, sae_seeds, batch_size, split)
    check_memory(ensemble)
    return ensemble


def ensemble_of(
    worlds: Drawn | Sequence[Drawn],
    world_seeds: Sequence[int],
    spec: SAESpec,
    given: Grid | Points,
    sae_seeds: Sequence[int],
    batch_size: int,
    split: Split = UNSPLIT,
) -> Ensemble:
    """Makes an ensemble like :func:`make_ensemble`, but one that may be too large for the device,
    to be trained in blocks. Worlds that differ otherwise may share a seed."""
    batch_size = checked.integer("batch_size", batch_size, 1)
    world_seeds = [checked.seed("data seeds", seed) for seed in world_seeds]
    worlds = worlds if isinstance(worlds, Drawn) else stack(list(worlds))
    n_worlds = worlds.directions.shape[0]
    require(
        worlds.directions.ndim == 3 and n_worlds == len(world_seeds),
        f"directions {worlds.directions.shape} are not those of {len(world_seeds)} stacked worlds: "
        "give a world for each seed",
    )
    d_in = worlds.d_in
    require(spec.d_in == d_in, f"the spec's d_in {spec.d_in} is not the world's {d_in}")
    hypers, seeds = member_grid(spec, given, sae_seeds)
    layout_of(n_worlds, len(seeds), split)  # refuses too few devices
    check_arithmetic(spec, batch_size, split)
    return Ensemble(
        worlds,
        jax.device_put(np.asarray(world_seeds, np.int32)),
        {name: jax.device_put(value) for name, value in hypers.items()},
        jax.device_put(seeds),
        spec,
        batch_size,
        split,
    )
