"""The key of an SAE: a hash of everything that decides its numbers, and of nothing else.

Results are found by it, whatever experiment they were made for. Versions, the device, prose and
figures are no part of it, nor is which other SAEs trained beside it.
"""

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..digests import FORMAT, add_arrays, canonical, digest
from ..disk import file_sha256
from ..own_code import own_code
from ..sae.files import encode
from ..training import Group
from ..worlds import world_fields
from ..worlds.registry import is_saved, own_entries
from .cells import Cell
from .experiment import Experiment


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
    text = canonical(shared)
    hypers = {name: np.asarray(value) for name, value in group.hypers.items()}
    members = [
        canonical({"sae_seed": seed, "hypers": {n: v[i] for n, v in hypers.items()}})
        for i, seed in enumerate(np.asarray(group.sae_seeds))
    ]
    # What decides a world of one's own may stand where no code is followed, as in a closure.
    is_own = bool(entries or own_code(group.worlds))
    seeds = [
        canonical({"world_seed": seed} | ({"world": _contents(group.worlds, i)} if is_own else {}))
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
