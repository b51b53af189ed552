"""Named worlds of several seeds, as the data of a cell."""

import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..checked import Fields
from ..digests import add_arrays
from ..disk import file_sha256
from ..own_code import own_code
from ..worlds import World, make_world, stack, world_fields
from ..worlds.registry import is_saved, own_entries
from .cell import Data

KIND = "worlds"


@dataclass(frozen=True)
class Worlds(Data):
    """Worlds of one name and its fields, one for each seed.

    Attributes:
        name: a row of :data:`toysae.worlds.WORLDS`, or the path of a saved world.
        fields: what is not at its default, by name.
        seeds: of the worlds and of their data streams.
    """

    name: str
    fields: tuple[tuple[str, Any], ...]
    seeds: tuple[int, ...]

    @cached_property
    def worlds(self) -> World:
        return stack([make_world(self.name, seed, **dict(self.fields)) for seed in self.seeds])

    def identity(self) -> dict[str, Any]:
        name = f"file {file_sha256(Path(self.name))}" if is_saved(self.name) else self.name
        return {"world": name, "world_fields": self._all_fields}

    def identity_of(self, i: int) -> dict[str, Any]:
        # What decides a world of one's own may stand where no code is followed, as in a closure.
        contents = {"world": _contents(self.worlds, i)} if self._is_own else {}
        return {"world_seed": self.seeds[i], **contents}

    def own_parts(self) -> tuple[object, ...]:
        return (self.worlds, *self._entries)

    def manifest(self) -> dict[str, Any]:
        return {"kind": KIND, "world": str(self.name), "fields": dict(self.fields),
                "seeds": list(self.seeds)}  # fmt: skip

    @property
    def _all_fields(self) -> dict[str, Any]:
        return world_fields(self.name) | dict(self.fields)

    @cached_property
    def _is_own(self) -> bool:
        return bool(self._entries or own_code(self.worlds))

    @property
    def _entries(self) -> list[Any]:
        return own_entries(self.name, *self._all_fields.values())


def world_of(manifest: Fields, seed: int) -> World:
    """The world of a seed that a manifest of :meth:`Worlds.manifest` tells of.

    Raises:
        ToysaeError: no world of that name, or it has other fields now.
    """
    return make_world(manifest.text("world"), seed, **manifest.object("fields").value)


def _contents(worlds: Any, i: int) -> str:
    """A digest of all that a world of a stack holds, but not of where it lies in memory."""
    leaves, tree = jax.tree.flatten(worlds)
    found = sha256(re.sub(r" at 0x[0-9a-f]+", "", str(tree)).encode())
    keys = [jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    plain = (jax.random.key_data(x) if key else x for x, key in zip(leaves, keys, strict=True))
    add_arrays(found, (np.asarray(leaf)[i] for leaf in plain))
    return found.hexdigest()
