"""Named worlds of several seeds, as the data of a cell."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..checked import Fields
from ..digests import add_arrays
from ..disk import file_sha256
from ..door import admit_fields
from ..own_code import own_code
from ..points import Points
from ..worlds import World, make_world, stack, world_fields
from ..worlds.registry import TABLES, is_saved, own_entries
from .cell import Data

KIND = "worlds"

Named = tuple[tuple[str, Any], ...]
"""Values by name."""


@dataclass(frozen=True)
class Worlds(Data):
    """Worlds of one name, one for each seed.

    Attributes:
        name: a row of :data:`toysae.worlds.WORLDS`, or the path of a saved world.
        fields: those that are not at their default, the same in all worlds.
        seeds: of the worlds and of their data streams.
        of_each: further fields of each world, which must leave the shapes of all worlds alike.
    """

    name: str
    fields: Named
    seeds: tuple[int, ...]
    of_each: tuple[Named, ...] = ()

    def __post_init__(self) -> None:
        admit_fields(self)

    @classmethod
    def each(cls, name: str, seeds: Sequence[int], points: Points, **fields: Any) -> "Worlds":
        """A world for every point of its fields and every seed; seeds vary fastest."""
        of_each = tuple(row for row in points.rows for _ in seeds)
        return cls(name, tuple(fields.items()), tuple(seeds) * len(points), of_each)

    @cached_property
    def worlds(self) -> World:
        of_each = self.of_each or ((),) * len(self.seeds)
        return stack(
            [
                make_world(self.name, seed, **dict(self.fields), **dict(own))
                for seed, own in zip(self.seeds, of_each, strict=True)
            ]
        )

    def columns(self) -> dict[str, list[Any]]:
        rows = [dict(own) for own in self.of_each]
        return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}

    def identity(self) -> dict[str, Any]:
        name = f"file {file_sha256(Path(self.name))}" if is_saved(self.name) else self.name
        return {"world": name, "world_fields": self._all_fields}

    def identity_of(self, i: int) -> dict[str, Any]:
        # A user's own world may depend on what no code shows, as the values in a closure.
        contents = {"world": _contents(self.worlds, i)} if self._is_own else {}
        own = {"world_fields_of_its_own": dict(self.of_each[i])} if self.of_each else {}
        return {"world_seed": self.seeds[i], **own, **contents}

    def own_components(self) -> tuple[object, ...]:
        return (self.worlds, *self._entries) if self._may_be_own else ()

    def manifest(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "world": str(self.name),
            "fields": dict(self.fields),
            "seeds": list(self.seeds),
            "of_each": [dict(own) for own in self.of_each],
        }

    @property
    def _all_fields(self) -> dict[str, Any]:
        return world_fields(self.name) | dict(self.fields)

    @cached_property
    def _is_own(self) -> bool:
        return bool(self._entries or (self._may_be_own and own_code(self.worlds)))

    @property
    def _entries(self) -> list[Any]:
        return own_entries(self.name, *self._all_fields.values())

    @property
    def _may_be_own(self) -> bool:
        """Whether a user's code may be behind the worlds. While all tables are ours it is not
        behind one with a name, and none needs to be made to see that."""
        return is_saved(self.name) or bool(own_entries(*chain(*TABLES)))


def world_of(manifest: Fields, place: int) -> World:
    """Makes the world at a place in the data that :meth:`Worlds.manifest` describes.

    Raises:
        ToysaeError: there is no world of that name now, or it has other fields.
    """
    of_each = manifest.items("of_each")
    fields = manifest.object("fields").value | (of_each[place] if of_each else {})
    return make_world(manifest.text("world"), manifest.items("seeds")[place], **fields)


def _contents(worlds: Any, i: int) -> str:
    """A digest of all that one world of a stack holds, without its address in memory."""
    leaves, tree = jax.tree.flatten(worlds)
    content = sha256(re.sub(r" at 0x[0-9a-f]+", "", str(tree)).encode())
    keys = [jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    plain = (jax.random.key_data(x) if key else x for x, key in zip(leaves, keys, strict=True))
    add_arrays(content, (np.asarray(leaf)[i] for leaf in plain))
    return content.hexdigest()
