"""All named worlds: the one table that the command line, experiments and notebooks read."""

from dataclasses import replace
from math import isfinite, nan
from types import NoneType
from typing import Any, get_args

import numpy as np

from .. import checked
from ..bits import in_32_bits
from ..errors import require, unknown
from ..keys import seed_key
from ..machine import check_bytes
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
    if not isinstance(name, str) or name not in WORLDS:
        raise unknown("world", name, WORLDS)
    return {field: default for field, (_, default) in WORLDS[name].fields.items()}


@in_32_bits
def make_world(name: str, seed: int = 0, **fields) -> World:
    """Builds a named world.

    Args:
        name: a row of :data:`WORLDS`.
        seed: of the directions and of everything else that is drawn once.
        **fields: see :func:`world_fields`, e.g. ``d_in=64, n_features=128, l0=5.0``.

    Raises:
        ToysaeError: an unknown name or field, or a value of another type or out of range. Whole
            floats will do for integers, 0 and 1 for bools.
    """
    known = world_fields(name)
    for field in fields:
        if field not in known:
            raise unknown(f"field of world {name!r}", field, known)
    kinds = WORLDS[name].fields
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
    return replace(WORLDS[name].build(key, **values), name=name)


_WANTED = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a name"}


def _typed(field: str, kind: Any, value: Any) -> Any:
    """`value` as the type that the field declares: grids and the command line give floats."""
    kinds = get_args(kind) or (kind,)
    if value is None and NoneType in kinds:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else nan
    fits = {
        int: isfinite(number) and number == int(number),
        float: isfinite(number),
        bool: isinstance(value, bool) or number in (0, 1),
        str: isinstance(value, str),
    }
    wanted = next(each for each in kinds if each in fits)
    require(fits[wanted], f"{field} {value!r} must be {_WANTED[wanted]}")
    return wanted(value)
