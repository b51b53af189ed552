"""World files: one safetensors file from which a world samples the very same bits again.

The tensors are the world's arrays, named by their place ("firing.probs"). One metadata entry holds
JSON that says which component is at each place, and its plain numbers. Nothing is imported or
evaluated by name: a component is one of the classes that the package has loaded.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import checked
from ..checked import Fields, parse_json
from ..disk import by_name, read_tensors, subclasses, write_tensors
from ..errors import ToysaeError, require, unknown
from ..own_code import codes_of, warn_of_other_code
from .firing import FiringPart
from .independent import Bernoulli
from .magnitudes import Magnitude
from .probabilities import checked_probabilities
from .world import World

WORLD_VERSION = 1
_ENTRY = "toysae_world"
_RETIRED = {("ScaledByParent", "depth")}  # fields of older files that are not used any more


def save_world(world: World, path: str | Path) -> Path:
    """Writes a world to one file, whole or not at all.

    Args:
        world: one world, not a stack of them.
        path: where to write; a missing folder is made.

    Returns:
        The path.

    Raises:
        ToysaeError: a stack of worlds, or a field that is neither an array, a number, a string,
            nor a component.
    """
    require(world.directions.ndim == 2, "a stack of worlds has no file: save each on its own")
    path, arrays = checked.path("path", path), {}
    tree = _encode(world, "", arrays, {})
    header = {"version": WORLD_VERSION, "world": tree}
    if code := codes_of(_classes(tree)):
        header["code"] = code
    write_tensors(path, arrays, _ENTRY, json.dumps(header, separators=(",", ":")))
    return path


def load_world(path: str | Path) -> World:
    """Reads a world written by :func:`save_world`.

    Raises:
        ToysaeError: no such file, not a world file, truncated, written by a newer toysae, an
            unknown component or field, or arrays that are missing, extra or misshapen.
    """
    path = checked.path("path", path)
    arrays, text = read_tensors(path, _ENTRY, "world")
    tree, code = _header(text, path)
    try:
        reader = _Reader(arrays)
        world = reader.decode(tree)
        for component in _classes(tree):
            warn_of_other_code(component, code, path)
    except ToysaeError as error:
        raise ToysaeError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ToysaeError(f"{path}: its header is damaged ({error!r}): save it again") from error
    require(isinstance(world, World), f"{path} holds a {type(world).__name__}, not a world")
    extra = sorted(set(arrays) - reader.used)
    require(not extra, f"{path} holds an array that no component has: {', '.join(extra)}")
    _check(world, path)
    return world


def components() -> dict[str, dict[str, type]]:
    """Classes that a world file may name: the world, and all loaded firings and magnitudes."""
    return by_name((World, *subclasses(FiringPart), *subclasses(Magnitude)))


def _only_class(classes: dict[str, type]) -> Any:
    """Returns the one class of a name, or None; refuses two."""
    places = " and ".join(classes)
    require(len(classes) < 2, f"two components have the same name, {places}: rename one")
    return next(iter(classes.values()), None)


def _encode(value: Any, place: str, arrays: dict[str, np.ndarray], seen: dict[int, str]) -> Any:
    """Returns JSON for the value at `place` and puts its arrays into `arrays`, each object once."""
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, jax.Array | np.ndarray) and not _is_key(value):
        name = seen.setdefault(id(value), place)
        array = np.asarray(value)
        if name == place:
            arrays[name] = np.array(array, order="C")  # safetensors writes the buffer as it lies
        host = {"host": True} if isinstance(value, np.ndarray) else {}
        return {"array": name, "dtype": array.dtype.name, "shape": list(array.shape), **host}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, _join(place, i), arrays, seen) for i, v in enumerate(value)]}
    kind = type(value).__name__
    component = _only_class(components().get(kind, {}))
    if component is type(value):
        fields = {
            f.name: _encode(getattr(value, f.name), _join(place, f.name), arrays, seen)
            for f in dataclasses.fields(component)
        }
        return {"component": kind, "fields": fields}
    raise ToysaeError(f"field {place!r} is a {kind}, which a world file cannot hold: use an "
                      "array, a number, a string, a Firing, FiringPart or Magnitude")  # fmt: skip


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _join(place: str, name: str | int) -> str:
    return f"{place}.{name}" if place else str(name)


def _classes(tree: Any) -> set[type]:
    """Returns the classes of the components in a header."""
    if not isinstance(tree, dict | list):
        return set()
    inside = tree.values() if isinstance(tree, dict) else tree
    name = tree.get("component") if isinstance(tree, dict) else None
    own = {_only_class(components()[name])} if isinstance(name, str) else set()
    return own.union(*map(_classes, inside))


def _header(text: str, path: Path) -> tuple[Any, dict[str, Any]]:
    """Returns the tree of components and the code of own classes from a file's metadata."""
    try:
        header = Fields(parse_json(text, "its header", finite=False), "its header")
        version, tree = header.integer("version", low=1), header.any("world")
        code = header.object("code").value if "code" in header else {}
    except ToysaeError as error:
        raise ToysaeError(f"{path}: {error}: save it again") from error
    require(version <= WORLD_VERSION, f"{path} has format version {version}, this toysae reads up "
            f"to {WORLD_VERSION}: upgrade toysae")  # fmt: skip
    return tree, code


class _Reader:
    """Rebuilds a value from its JSON and the file's arrays; `used` names the arrays it read."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays, self.used, self.known = arrays, set(), components()
        self.on_device: dict[str, jax.Array] = {}

    def decode(self, node: Any, place: str = "") -> Any:
        if "value" in node:
            return node["value"]
        if "array" in node:
            return self._array(node, place)
        if "tuple" in node:
            return tuple(self.decode(n, _join(place, i)) for i, n in enumerate(node["tuple"]))
        return self._component(node["component"], node["fields"], place)

    def _array(self, node: Any, place: str) -> Any:
        name = node["array"]
        require(name in self.arrays, f"the array of field {place!r} is missing: save it again")
        array, self.used = self.arrays[name], self.used | {name}
        shape, dtype = tuple(node["shape"]), node["dtype"]
        require(
            array.shape == shape and array.dtype.name == dtype,
            f"the array of field {place!r} is {array.dtype.name} {list(array.shape)}, its header "
            f"says {dtype} {list(shape)}: save it again",
        )
        if node.get("host"):
            return array
        return self.on_device.setdefault(name, jnp.asarray(array))

    def _component(self, name: Any, nodes: Any, place: str) -> Any:
        require(
            name in self.known,
            f"it has a component {name!r} that is not loaded: define that class first, or import "
            "the module it is in; known: " + ", ".join(sorted(self.known)),
        )
        component = _only_class(self.known[name])
        fields = {f.name: f for f in dataclasses.fields(component)}
        nodes = {key: node for key, node in nodes.items() if (name, key) not in _RETIRED}
        for field in nodes:
            if field not in fields:
                raise unknown(f"field of {name}", field, fields)
        for field in fields.values():
            defaults = (field.default, field.default_factory)
            required = all(default is dataclasses.MISSING for default in defaults)
            complete = field.name in nodes or not required
            require(complete, f"field {field.name!r} of {name} is missing: save it again")
        values = {key: self.decode(node, _join(place, key)) for key, node in nodes.items()}
        return component(**values)


def _check(world: World, path: Path) -> None:
    """Refuses arrays that do not fit together, without drawing a sample."""
    try:
        n_features, d_in = world.directions.shape
        shapes = {
            "rows": (world.rows.shape, (n_features, d_in)),
            "generating_matrix": (world.generating_matrix.shape[:1], (d_in,)),
            "firing": ((world.firing.n_features,), (n_features,)),
            "bias": ((d_in,) if world.bias is None else world.bias.shape, (d_in,)),
            "truth": (world.target.shape[1:], (d_in,)),
        }
        for name, (has, needs) in shapes.items():
            require(has == needs, f"{name} {list(has)} does not fit directions "
                    f"[{n_features}, {d_in}]")  # fmt: skip
        for name in ("rows", "directions", "generating_matrix", "bias"):
            array = getattr(world, name)
            finite = array is None or np.isfinite(np.asarray(array)).all()
            require(finite, f"{name} holds values that are not finite")
        if isinstance(world.firing, Bernoulli):
            checked_probabilities(np.asarray(world.firing.probs))
        jax.eval_shape(lambda key: world.sample(key, 2), jax.random.key(0))
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise ToysaeError(f"{path}: its arrays do not fit together ({reason})") from error
