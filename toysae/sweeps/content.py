"""The key of an SAE: a hash of everything that decides its numbers, and of nothing else.

Results are found by it, whatever experiment they were made for. Versions, the device, prose and
figures are no part of it, nor is which other SAEs trained beside it.
"""

import json
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..disk import file_sha256
from ..own_code import own_code
from ..sae.files import encode
from ..training import Group
from ..worlds import world_fields
from ..worlds.registry import is_saved, own_entries
from .cells import Cell
from .experiment import Experiment

FORMAT = 4
"""Counted up by hand when the same settings come to give other numbers, or other columns."""


def sae_keys(cell: Cell, group: Group, e: Experiment) -> np.ndarray:
    """The keys of all SAEs of a cell, `[n_worlds, n_members]` strings of 16 hex digits.

    Args:
        cell: of the experiment.
        group: the cell's, whole.
        e: the experiment.
    """
    shared = {
        "format": FORMAT,
        "world": f"file {file_sha256(Path(cell.world))}" if is_saved(cell.world) else cell.world,
        "world_fields": world_fields(cell.world) | dict(cell.world_fields),
        "spec": encode(cell.spec, "spec"),
        "n_steps": cell.n_steps,
        "batch_size": cell.batch_size,
        "n_eval": e.n_eval,
        "curve_points": e.curve_points,
    }
    fields = shared["world_fields"]
    entries = own_entries(cell.world, *fields.values())
    if code := own_code(cell.spec, group.worlds, *entries):
        shared["code"] = code
    text = _canonical(shared)
    hypers = {name: np.asarray(value) for name, value in group.hypers.items()}
    members = [
        _canonical({"sae_seed": seed, "hypers": {n: v[i] for n, v in hypers.items()}})
        for i, seed in enumerate(np.asarray(group.sae_seeds))
    ]
    # What decides a world of one's own may stand where no code is followed, as in a closure.
    is_own = bool(entries or own_code(group.worlds))
    seeds = [
        _canonical({"world_seed": seed} | ({"world": _contents(group.worlds, i)} if is_own else {}))
        for i, seed in enumerate(np.asarray(group.world_seeds))
    ]
    return np.array([[digest(text, world, member) for member in members] for world in seeds])


def _contents(worlds: Any, i: int) -> str:
    """A digest of all that a world of a stack holds, but not of where it lies in memory."""
    leaves, tree = jax.tree.flatten(worlds)
    found = sha256(re.sub(r" at 0x[0-9a-f]+", "", str(tree)).encode())
    keys = [jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    plain = (jax.random.key_data(x) if key else x for x, key in zip(leaves, keys, strict=True))
    add_arrays(found, (np.asarray(leaf)[i] for leaf in plain))
    return found.hexdigest()


def add_arrays(found: Any, arrays: Iterable[np.ndarray]) -> None:
    """Adds arrays to what a digest is of: shapes, dtypes and bytes."""
    for array in arrays:
        found.update(repr((array.shape, array.dtype.str)).encode())
        found.update(array.tobytes())


def digest(*texts: str) -> str:
    """16 hex digits of some texts."""
    return sha256("\n".join(texts).encode()).hexdigest()[:16]


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """As JSON has it, with 1 and 1.0 the same: grids and the command line give floats."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
