"""From what a user asks for to the members of a compiled group."""

import itertools
import os
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import ToysaeError, require
from ..sae import SAESpec, recipe_row, resolve_hypers
from ..training import Group
from ..training.optimiser import declared
from ..worlds import World, stack

Grid = Mapping[str, float | Sequence[float]]


def member_grid(
    spec: SAESpec, given: Grid, sae_seeds: Sequence[int]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The product of all given numbers and seeds, seeds varying fastest.

    Args:
        spec: says which numbers are read, besides the optimiser's.
        given: a number, or several to try, by name.
        sae_seeds: one member for each seed and point of the grid.

    Returns:
        The hypers, each `[n_members]` float32, and the SAE seeds `[n_members]`.

    Raises:
        ToysaeError: an empty list, or a number that is unknown, missing or out of bounds.
    """
    axes = {
        name: list(np.atleast_1d(value))  # type: ignore[arg-type]
        for name, value in given.items()
    }
    for name, values in axes.items():
        require(len(values) > 0, f"{name} is an empty grid: give at least one value")
    require(len(sae_seeds) > 0, "no SAE seeds: give at least one")
    read = declared(spec, given)
    rows = []
    for point in itertools.product(*axes.values()):
        try:
            values = {name: float(v) for name, v in zip(axes, point, strict=True)}
        except (TypeError, ValueError) as error:
            raise ToysaeError(f"hyperparameters {dict(zip(axes, point, strict=True))} "
                              "must be numbers") from error  # fmt: skip
        row = resolve_hypers(read, values)
        spec.check_hypers(row)
        rows.extend(row for _ in sae_seeds)
    hypers = {name: np.array([row[name] for row in rows], np.float32) for name in read}
    return hypers, np.tile(np.asarray(sae_seeds, np.int32), len(rows) // len(sae_seeds))


def fallback(recipe: str, spec: SAESpec, settings: str = "toy") -> dict[str, float]:
    """A recipe's own numbers among those that its spec reads.

    Raises:
        ToysaeError: see :meth:`toysae.sae.Recipe.numbers`.
    """
    numbers = recipe_row(recipe).numbers(settings, spec.d_in, spec.d_sae)
    read = declared(spec, numbers)
    return {name: value for name, value in numbers.items() if name in read}


def make_group(
    worlds: Sequence[World],
    world_seeds: Sequence[int],
    spec: SAESpec,
    given: Grid,
    sae_seeds: Sequence[int],
    batch_size: int,
) -> Group:
    """A group ready to train, after every check.

    Raises:
        ToysaeError: see :func:`member_grid`; sizes that do not match; too little memory.
    """
    require(batch_size >= 1, f"batch_size {batch_size} must be at least 1")
    d_in = worlds[0].d_in
    require(spec.d_in == d_in, f"the spec's d_in {spec.d_in} is not the world's {d_in}")
    hypers, seeds = member_grid(spec, given, sae_seeds)
    check_memory(spec, len(worlds) * len(seeds), batch_size, worlds[0].n_features)
    return Group(
        stack(list(worlds)),
        jnp.asarray(world_seeds, jnp.int32),
        {name: jnp.asarray(value) for name, value in hypers.items()},
        jnp.asarray(seeds),
        spec,
        batch_size,
    )


def bytes_needed(spec: SAESpec, n_rows: int, batch_size: int, n_features: int) -> int:
    """About the memory that training and scoring a group takes, in bytes: parameters, two
    moments, gradient and its update; z and what the backward pass keeps; the cosines."""
    weights = 2 * spec.d_in * spec.d_sae
    scored = max(6 * batch_size, n_features) * spec.d_sae
    return 4 * n_rows * (5 * weights + scored)


def check_memory(spec: SAESpec, n_rows: int, batch_size: int, n_features: int) -> None:
    """Refuses a group that cannot fit on the device.

    Raises:
        ToysaeError: saying how much is needed and how much there is.
    """
    available = _device_bytes()
    needed = bytes_needed(spec, n_rows, batch_size, n_features)
    require(
        needed <= available,
        f"d_sae {spec.d_sae} x {n_rows} SAEs needs about {needed / 2**30:.1f} GiB and the device "
        f"has {available / 2**30:.1f}: use a smaller d_sae, batch_size, grid or fewer seeds",
    )


def _device_bytes() -> int:
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
