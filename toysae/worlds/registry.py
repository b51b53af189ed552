"""All named worlds: the one table that the command line, experiments and notebooks read."""

import os
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite, nan
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from .. import checked
from ..bits import in_32_bits
from ..errors import ToysaeError, require, unknown
from ..keys import seed_key
from ..machine import check_bytes
from .catalogue import DICTIONARIES, FIRINGS, PLAIN_WORLDS, WorldRow, dials
from .fields import FIELDS
from .files import load_world
from .magnitudes import MAGNITUDES
from .presets import PRESETS
from .tms.worlds import TMS_WORLDS
from .world import World

WORLDS: dict[str, WorldRow] = PLAIN_WORLDS | PRESETS | TMS_WORLDS

TABLES: tuple[dict[str, Any], ...] = (WORLDS, DICTIONARIES, FIRINGS, MAGNITUDES)
"""Tables in which names of worlds and of their components are looked up; users can add rows."""
_OURS = tuple(dict(table) for table in TABLES)


def own_entries(*names: object) -> list[Any]:
    """Returns the rows of these names that users added to the tables."""
    return [
        table[name]
        for name in dict.fromkeys(name for name in names if isinstance(name, str))
        for table, ours in zip(TABLES, _OURS, strict=True)
        if name in table and table[name] is not ours.get(name)
    ]


def world_fields(name: str | Path) -> dict[str, Any]:
    """Returns the fields of a named world with their defaults; a saved world has none.

    Raises:
        ToysaeError: an unknown world.
    """
    return {field: default for field, (_, default) in kinds_of(name).items()}


def is_saved(name: object) -> bool:
    """Whether this is the path of a saved world, not the name of a world."""
    return isinstance(name, str | Path) and str(name).endswith(".safetensors")


def kinds_of(name: str | Path) -> Mapping[str, tuple[Any, Any]]:
    """Returns type and default of each field of a named world.

    Raises:
        ToysaeError: an unknown world, or a user's entry that is not a :class:`WorldRow`.
    """
    if is_saved(name):
        return {}
    if not isinstance(name, str) or name not in WORLDS:
        if isinstance(name, Path) or (isinstance(name, str) and os.path.lexists(name)):
            raise ToysaeError(f"{name} is not a saved world: the path of one ends in .safetensors")
        raise unknown("world", name, WORLDS)
    row = WORLDS[name]
    require(
        isinstance(row, WorldRow),
        f"WORLDS[{name!r}] is {checked.shown(row)}, not a WorldRow: write "
        f"WORLDS[{name!r}] = WorldRow(about, build, fields)",
    )
    return row.fields


@in_32_bits
def make_world(name: str | Path, seed: int = 0, **fields) -> World:
    """Builds a named world, or reads a saved one.

    Args:
        name: a row of :data:`WORLDS`, or the path of a file that :func:`save_world` wrote.
        seed: of the directions and of everything else that is drawn once; 0 for a saved world.
        **fields: see :func:`world_fields`, e.g. ``d_in=64, n_features=128, l0=5.0``. Whole floats
            can stand for integers, 0 and 1 for bools.

    Raises:
        ToysaeError: an unknown name or field, or a value of another type or out of range.
    """
    known = world_fields(name)
    for field in fields:
        require(known, f"{name} is a saved world, which has no fields: leave {field} out")
        if field not in known:
            raise unknown(f"field of world {name!r}", field, known)
    if is_saved(name):
        require(
            checked.seed("seed", seed) == 0,
            f"{name} is the same world at every seed: give seed 0, or one world seed, not {seed}",
        )
        return load_world(name)
    kinds = kinds_of(name)
    values = {f: _typed(f, kinds[f][0], v) for f, v in (known | fields).items()}
    for field in {"d_in", "n_features"} & set(known):
        require(values[field] >= 1, f"{field} {values[field]} must be a positive integer")
    if {"d_in", "n_features"} <= set(known):
        check_bytes(
            f"world {name!r} of d_in {values['d_in']:,} and {values['n_features']:,} features",
            16 * values["d_in"] * values["n_features"],
            "give a smaller d_in or fewer features",
        )
    key = seed_key(checked.seed("seed", seed), "world")
    world = WORLDS[str(name)].build(key, **values)
    require(
        isinstance(world, World),
        f"the build of WORLDS[{name!r}] gives {checked.shown(world)}, not a World: let it return "
        "what assemble(rows, firing, magnitude) gives",
    )
    return replace(world, name=str(name))


def about_field(field: str) -> str:
    """Returns what a field means, and the ways of firing that read it with their defaults."""
    readers = {name: dials(firing, 2) for name, firing in FIRINGS.items()}
    defaults = [f"{name}: {read[field][1]}" for name, read in readers.items() if field in read]
    read_by = f"; read by firing {', '.join(defaults)} if not given" if defaults else ""
    return FIELDS.get(field, "") + read_by


_WANTED = {
    int: "a whole number",
    float: "a finite number of at most 3.4e38",
    bool: "True or False",
    str: "a name",
}


def _typed(field: str, kind: Any, value: Any) -> Any:
    """Converts a value to the type of its field: grids and the command line give floats."""
    kinds = get_args(kind) or (kind,)
    if value is None and NoneType in kinds:
        return None
    value = checked.as_python(value)
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else nan
    fits = {
        int: isfinite(number) and number == int(number),
        float: abs(number) <= checked.FLOAT32_MAX,
        bool: isinstance(value, bool) or number in (0, 1),
        str: isinstance(value, str),
    }
    wanted = next(each for each in kinds if each in fits)
    require(fits[wanted], f"{field} {checked.shown(value)} must be {_WANTED[wanted]}")
    return wanted(value)
