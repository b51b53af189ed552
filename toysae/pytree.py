"""Dataclasses of arrays that are pytrees, and that jax tells apart by their class.

flax's `struct.dataclass` uses jax's `register_dataclass`, and to jax (0.10 to 0.12) two such trees
with as many fields have equal structures whatever their classes are: if their hashes meet, one
runs in the compiled program of the other.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar, dataclass_transform

from jax.tree_util import GetAttrKey, default_registry, register_pytree_with_keys

__all__ = ["dataclass", "field"]

T = TypeVar("T")


def field(*, pytree_node: bool = True, **kwargs: Any) -> Any:
    """`dataclasses.field`; with ``pytree_node=False`` its value is part of the structure. As
    flax's `struct.field`, whose import loads all of flax, which takes a fifth as long as jax."""
    return dataclasses.field(metadata={"pytree_node": pytree_node}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def dataclass(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass and a pytree, as flax's `struct.dataclass` does, whose
    structure contains its class and the classes of what it holds.

    Fields with `field(pytree_node=False)` are part of the structure.
    """
    made: Any = dataclasses.dataclass(frozen=True)(cls)
    is_data = {f.name: f.metadata.get("pytree_node", True) for f in dataclasses.fields(made)}
    data = [name for name in is_data if is_data[name]]
    static = [name for name in is_data if not is_data[name]]
    keys = [GetAttrKey(name) for name in data]

    def flatten(tree: T) -> tuple[list, tuple]:
        values = vars(tree)
        children = [values[name] for name in data]
        return children, (tuple(values[name] for name in static), tuple(_other_classes(children)))

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


def _other_classes(values: Any) -> Iterator[type]:
    """The classes of dataclasses in some values, at any depth, that are registered as pytrees by
    jax or flax. A dataclass that is a leaf is not one of them."""
    for value in values:
        if "_toysae_pytree" in vars(type(value)):
            continue  # its own structure contains its class
        inside = default_registry.flatten_one_level(value)
        if inside is not None:
            if dataclasses.is_dataclass(value):
                yield type(value)
            yield from _other_classes(inside[0])
