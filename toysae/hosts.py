"""Many processes that train as one, through jax.distributed: one a host, or one a GPU.

All run the same program on the same groups, each on its devices. What a disk, a clock or a signal
decides, the first process decides for all: only it reads and writes results.
"""

import os
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from .errors import ToysaeError, require

T = TypeVar("T")

_by_itself = False
"""The first process does something that no other does: there is nobody to talk with."""

_BY_HAND = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


def join() -> None:
    """Makes this process one of many. To be called before jax counts its devices.

    Slurm, Open MPI, Kubernetes and TPU pods say themselves how many there are. Elsewhere the
    environment must: ``JAX_COORDINATOR_ADDRESS`` (host:port of the first process),
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` (from 0).

    Raises:
        ToysaeError: nothing says so, or the others do not come.
    """
    said = {name: os.environ[key] for name, key in _BY_HAND.items() if key in os.environ}
    by_hand: dict[str, Any] = {}
    if "num_processes" in said or "process_id" in said:
        missing = [key for key in _BY_HAND.values() if key not in os.environ]
        require(not missing, f"many processes: the environment has no {', '.join(missing)}")
        for name in ("num_processes", "process_id"):
            key, value = _BY_HAND[name], said[name]
            require(value.isdecimal(), f"{key} {value!r} is not a number from 0")
            by_hand[name] = int(value)
        by_hand["coordinator_address"] = said["coordinator_address"]
    try:
        jax.distributed.initialize(**by_hand)
    except (RuntimeError, ValueError) as error:
        raise ToysaeError(
            f"many processes: {' '.join(str(error).split())[:300]}. Start them with a launcher "
            f"that jax.distributed knows (Slurm, Open MPI, Kubernetes, TPU pods), or set "
            f"{', '.join(_BY_HAND.values())}"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that reads, writes and speaks."""
    return jax.process_index() == 0


def on_first(function: Callable[..., T], *args: Any) -> T:
    """`function(*args)` of the first process, on all; what it raises is raised on all. While it
    runs the first process is as if alone, and may call what else is here.

    Args:
        function: called in the first process only; its result must pickle.
        *args: its arguments.
    """
    global _by_itself
    if _is_alone():
        return function(*args)
    result, error = None, None
    if is_first():
        _by_itself = True
        try:
            result = function(*args)
        except Exception as raised:
            error = raised
        finally:
            _by_itself = False
    result, said = _broadcast((result, _picklable(error)))
    if said is not None:
        raise said from error
    return result


def from_first(value: T) -> T:
    """The first process's value, on all: of a clock, or of anything else that may differ."""
    return on_first(lambda: value)


def largest_of_all(value: int) -> int:
    """Of the values of all processes, on all."""
    if _is_alone():
        return value
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def whole(tree: Any) -> Any:
    """Arrays that other processes hold a part of, as NumPy arrays on all; others as they are."""
    if _is_alone():
        return tree
    from jax.experimental import multihost_utils

    def gathered(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return leaf

    return jax.tree.map(gathered, tree)


def placed(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that all processes hold whole, split among the devices of all."""
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda at: value[at])


def _is_alone() -> bool:
    return _by_itself or jax.process_count() == 1


def _picklable(error: Exception | None) -> Exception | None:
    if error is None or isinstance(error, ToysaeError | OSError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _broadcast(value: Any) -> Any:
    """The first process's, which need not be an array."""
    from jax.experimental import multihost_utils

    held = np.frombuffer(pickle.dumps(value), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(held))))
    sent = held if is_first() else np.zeros(length, np.uint8)
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes())
