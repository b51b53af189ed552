"""SAE files: one safetensors file that holds a trained SAE, bit for bit.

The tensors are the arrays by their place ("weights.W_dec", "run.threshold", "hypers.k"); one
metadata entry holds JSON: the spec as a tree of components with their plain fields, and the shape
and dtype of every tensor. Nothing is imported or evaluated by name: a component is one of the
classes that are loaded.
"""

import dataclasses
import json
from collections.abc import Iterator
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
from .component import Component, Weights
from .forward import SAE
from .spec import SAESpec

SAE_VERSION = 1
_ENTRY = "toysae_sae"
_DEEPEST = 100  # parts of parts in a spec, far more than one needs
_Tensors = dict[str, np.ndarray]


def save_sae(sae: SAE, path: str | Path) -> Path:
    """Writes one SAE to one file, whole or not at all.

    Args:
        sae: one SAE, not an ensemble.
        path: of the file, e.g. ``sae.safetensors``; a missing folder is created.

    Returns:
        The path.

    Raises:
        ToysaeError: an ensemble, or a component with a field that is not a plain value.
    """
    require(isinstance(sae, SAE), f"{checked.shown(sae)} is not an SAE")
    require(sae.W_dec.ndim == 2, f"W_dec has shape {list(sae.W_dec.shape)}: save one SAE at a "
            "time, e.g. result.sae(0)")  # fmt: skip
    path, tensors = checked.path("path", path), dict(_flatten(sae))
    header = {
        "version": SAE_VERSION,
        "spec": as_json(sae.spec, "spec"),
        "tensors": {name: _shape(array) for name, array in tensors.items()},
    }
    if code := codes_of(classes_of(sae.spec)):
        header["code"] = code
    write_tensors(path, tensors, _ENTRY, json.dumps(header, separators=(",", ":")))
    return path


def load_sae(path: str | Path) -> SAE:
    """Reads an SAE written by :func:`save_sae`.

    Raises:
        ToysaeError: no such file, not an SAE file, truncated, written by a newer toysae, an
            unknown component or field, or tensors that are missing, extra or misshapen.
    """
    path = checked.path("path", path)
    tensors, text = read_tensors(path, _ENTRY, "SAE")
    try:
        header = Fields(parse_json(text, "its header"), "its header")
        version = header.integer("version", low=1)
        readable = f"this toysae reads 1..{SAE_VERSION}"
        require(version <= SAE_VERSION, f"format version {version}, {readable}: upgrade toysae")
        _check_tensors(tensors, header.object("tensors").value)
        spec = from_json(header.any("spec"))
        codes = header.object("code").value if "code" in header else {}
        for kind in classes_of(spec):
            warn_of_other_code(kind, codes, path)
        require(isinstance(spec, SAESpec), "its header holds no SAESpec: save it again")
        sae = _unflatten(tensors, spec)
        _check_fit(sae)
    except ToysaeError as error:
        raise ToysaeError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToysaeError(f"{path}: its header is damaged ({error!r}): save it again") from error
    return sae


def components_by_name() -> dict[str, type]:
    """Every class that an SAE file may name: the spec and all loaded components whose name no
    other has."""
    classes = by_name((SAESpec, *subclasses(Component))).items()
    return {name: next(iter(same.values())) for name, same in classes if len(same) == 1}


def _flatten(sae: SAE) -> Iterator[tuple[str, np.ndarray]]:
    w = sae.weights
    places = {"weights.enc": w.enc, "weights.act": w.act, "run": sae.run, "hypers": sae.hypers}
    places["weights"] = {"W_dec": w.W_dec} | ({} if w.b_dec is None else {"b_dec": w.b_dec})
    for place, arrays in places.items():
        for name, array in arrays.items():
            yield f"{place}.{name}", np.array(array, order="C")


def _unflatten(tensors: _Tensors, spec: SAESpec) -> SAE:
    places: dict[str, dict[str, Any]] = {
        "weights": {}, "weights.enc": {}, "weights.act": {}, "run": {}, "hypers": {},
    }  # fmt: skip
    for name, array in tensors.items():
        place, _, leaf = name.rpartition(".")
        if place not in places:
            raise unknown("place of a tensor", place, places)
        places[place][leaf] = jnp.asarray(array)
    own = places["weights"]
    require("W_dec" in own, "tensor weights.W_dec is missing: save it again")
    extra = sorted(set(own) - {"W_dec", "b_dec"})
    require(not extra, f"it holds tensors that no SAE has: weights.{', weights.'.join(extra)}")
    weights = Weights(own["W_dec"], own.get("b_dec"), places["weights.enc"], places["weights.act"])
    return SAE(weights, places["run"], places["hypers"], spec)


def _shape(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": list(array.shape)}


def _check_tensors(tensors: _Tensors, declared: dict[str, Any]) -> None:
    missing, extra = sorted(set(declared) - set(tensors)), sorted(set(tensors) - set(declared))
    require(not missing, f"tensor {', '.join(missing)} is missing: save it again")
    require(not extra, f"it holds a tensor that its header does not name: {', '.join(extra)}")
    for name, array in tensors.items():
        require(_shape(array) == declared[name], f"tensor {name} is {_shape(array)}, its header "
                f"says {declared[name]}: save it again")  # fmt: skip


def as_json(value: Any, place: str) -> Any:
    """JSON for a spec: a component is an object, a tuple a list, a plain value itself."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [as_json(item, f"{place}[{i}]") for i, item in enumerate(value)]
    name = type(value).__name__
    if components_by_name().get(name) is not type(value):
        raise ToysaeError(f"{place} is a {name}, which an SAE file cannot hold: use a component "
                          "of a name of its own, a tuple, a number or a string")  # fmt: skip
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {"part": name, "fields": {k: as_json(v, f"{place}.{k}") for k, v in fields.items()}}


def from_json(node: Any, depth: int = 0) -> Any:
    """The value that :func:`as_json` wrote as this JSON, `depth` levels inside a spec.

    Raises:
        ToysaeError: a component that is not loaded, a field that it does not have, or endless
            nesting.
    """
    require(depth <= _DEEPEST, f"its spec is nested more than {_DEEPEST} deep: save it again")
    if isinstance(node, list):
        return tuple(from_json(item, depth + 1) for item in node)
    if not isinstance(node, dict):
        return node
    name, nodes, known = node["part"], node["fields"], components_by_name()
    if name not in known and (two := by_name(subclasses(Component)).get(name)):
        raise ToysaeError(f"two components have one name, {' and '.join(two)}: rename one")
    require(
        name in known,
        f"it has a component {name!r} that is not loaded: define that class first, or import its "
        "module; known: " + ", ".join(sorted(known)),
    )
    fields = [field.name for field in dataclasses.fields(known[name])]
    for field in nodes:
        if field not in fields:
            raise unknown(f"field of {name}", field, fields)
    return known[name](**{key: from_json(value, depth + 1) for key, value in nodes.items()})


def classes_of(value: Any) -> set[type]:
    """The classes of a spec and of its components."""
    if isinstance(value, tuple):
        return set().union(*map(classes_of, value))
    if not dataclasses.is_dataclass(value):
        return set()
    return {type(value)}.union(*(classes_of(v) for v in vars(value).values()))


def _check_fit(sae: SAE) -> None:
    """Refuses tensors that do not fit the spec, by their shapes alone."""
    d_in, d_sae, w = sae.spec.d_in, sae.spec.d_sae, sae.weights
    require(w.W_dec.shape == (d_sae, d_in), f"weights.W_dec is {list(w.W_dec.shape)}, not "
            f"[d_sae {d_sae}, d_in {d_in}]: save it again")  # fmt: skip
    bias = None if sae.spec.decoder.bias == "none" else (d_in,)
    has = None if w.b_dec is None else w.b_dec.shape
    require(has == bias, f"weights.b_dec is {has}, decoder bias {sae.spec.decoder.bias!r} needs "
            f"{bias}: save it again")  # fmt: skip
    try:
        f = jax.eval_shape(sae, jax.ShapeDtypeStruct((3, d_in), jnp.float32))
        fits = (f.z.shape, f.x_hat.shape) == ((3, d_sae), (3, d_in))
        reason = f"z {list(f.z.shape)} and x_hat {list(f.x_hat.shape)} for 3 samples"
    except KeyError as error:
        fits, reason = False, f"{error} is missing"
    except Exception as error:  # shapes that do not go together fail in many ways
        fits, reason = False, str(error).split("\n")[0]
    require(fits, f"its tensors do not fit its spec ({reason}): save it again")
