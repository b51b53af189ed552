"""All named worlds: the one table that the command line, experiments and notebooks read."""

from dataclasses import replace
from typing import Any

from ..errors import require, unknown
from ..keys import seed_key
from .catalogue import PLAIN, WorldRow
from .presets import PRESETS
from .tms.worlds import TMS_WORLDS
from .world import World

WORLDS: dict[str, WorldRow] = PLAIN | PRESETS | TMS_WORLDS


def world_fields(name: str) -> dict[str, Any]:
    """The fields of a named world with their defaults.

    Raises:
        ToysaeError: no world of that name.
    """
    if name not in WORLDS:
        raise unknown("world", name, WORLDS)
    return {field: default for field, (_, default) in WORLDS[name].fields.items()}


def make_world(name: str, seed: int = 0, **fields) -> World:
    """Builds a named world.

    Args:
        name: a row of :data:`WORLDS`.
        seed: of the directions and of everything else that is drawn once.
        **fields: see :func:`world_fields`, e.g. ``d_in=64, n_features=128, l0=5.0``.

    Raises:
        ToysaeError: an unknown name or field, or a value out of range.
    """
    known = world_fields(name)
    for field in fields:
        if field not in known:
            raise unknown(f"field of world {name!r}", field, known)
    for field in {"d_in", "n_features"} & set(known):
        value = fields.get(field, known[field])
        require(
            isinstance(value, int) and value >= 1, f"{field} {value} must be a positive integer"
        )
    world = WORLDS[name].build(seed_key(seed, "world"), **(known | fields))
    return replace(world, name=name)
