"""Dataclasses of arrays that are told apart by their class.

flax's `struct.dataclass` makes a class a pytree by jax's `register_dataclass`, and to jax two such
trees of as many fields are equal, whatever their classes are (jax 0.10 to 0.12): where the hashes
of two laws met, one was drawn by the compiled program of the other.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar, dataclass_transform

from flax.struct import field
from jax.tree_util import GetAttrKey, default_registry, register_pytree_with_keys

__all__ = ["dataclass", "field"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def dataclass(cls: type[T]) -> type[T]:
    """A frozen dataclass that is a pytree, as flax's `struct.dataclass` is, of a structure that
    tells its class and those of what it holds.

    Fields with `field(pytree_node=False)` are part of the structure.
    """
    made: Any = dataclasses.dataclass(frozen=True)(cls)
    is_data = {f.name: f.metadata.get("pytree_node", True) for f in dataclasses.fields(made)}
    data = [name for name in is_data if is_data[name]]
    static = [name for name in is_data if not is_data[name]]
    keys = [GetAttrKey(name) for name in data]

    def flatten(tree: T) -> tuple[list, tuple]:
        held = vars(tree)
        children = [held[name] for name in data]
        return children, (tuple(held[name] for name in static), tuple(_others(children)))

    def flatten_with_keys(tree: T) -> tuple[list, tuple]:
        children, structure = flatten(tree)
        return list(zip(keys, children, strict=True)), structure

    def unflatten(structure: tuple, children: Any) -> T:
        tree = object.__new__(made)
        vars(tree).update(zip(data, children, strict=True))
        vars(tree).update(zip(static, structure[0], strict=True))
        return tree

    made.replace = dataclasses.replace
    made._toysae_pytree = True
    register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def _others(values: Any) -> Iterator[type]:
    """The classes of a user's dataclasses in some values, at any depth: they may be registered in
    jax's or flax's way. What stands for a leaf may be a dataclass too, and is none."""
    for value in values:
        if "_toysae_pytree" in vars(type(value)):
            continue  # it tells of its own
        inside = default_registry.flatten_one_level(value)
        if inside is not None:
            if dataclasses.is_dataclass(value):
                yield type(value)
            yield from _others(inside[0])
