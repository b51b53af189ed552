"""Many processes that train as one through jax.distributed: one for each host or GPU.

All run the same programs on the same ensembles, each on its own devices. The first process decides
for all what depends on a disk, a clock or a signal: only it reads and writes results.
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
"""Whether the first process runs a function that the others do not, and must not wait for them."""

_BY_HAND = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


def join() -> None:
    """Makes this process one of many. Call it before jax counts its devices.

    Slurm, Open MPI, Kubernetes and TPU pods tell jax how many processes there are. Elsewhere the
    environment must: ``JAX_COORDINATOR_ADDRESS`` (host:port of the first process),
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` (from 0).

    Raises:
        ToysaeError: the number of processes is not known, or the others do not connect.
    """
    values = {name: os.environ[key] for name, key in _BY_HAND.items() if key in os.environ}
    by_hand: dict[str, Any] = {}
    if "num_processes" in values or "process_id" in values:
        missing = [key for key in _BY_HAND.values() if key not in os.environ]
        require(not missing, f"many processes: the environment has no {', '.join(missing)}")
        for name in ("num_processes", "process_id"):
            key, value = _BY_HAND[name], values[name]
            require(value.isdecimal(), f"{key} {value!r} is not a number from 0")
            by_hand[name] = int(value)
        by_hand["coordinator_address"] = values["coordinator_address"]
    try:
        jax.distributed.initialize(**by_hand)
    except (RuntimeError, ValueError) as error:
        raise ToysaeError(
            f"many processes: {' '.join(str(error).split())[:300]}. Start them with a launcher "
            f"that jax.distributed knows (Slurm, Open MPI, Kubernetes, TPU pods), or set "
            f"{', '.join(_BY_HAND.values())}"
        ) from error


def is_first() -> bool:
    """Whether this process is the first, which reads, writes and prints."""
    return jax.process_index() == 0


def on_first(function: Callable[..., T], *args: Any) -> T:
    """Calls `function(*args)` in the first process, and returns its result, or raises its error, in
    all. Meanwhile the first process may call the other functions of this module: it is then alone.

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
    result, shared_error = _broadcast((result, _picklable(error)))
    if shared_error is not None:
        raise shared_error from error
    return result


def from_first(value: T) -> T:
    """Returns the first process's value in all, for example of a clock."""
    return on_first(lambda: value)


def largest_of_all(value: int) -> int:
    """Returns the largest value over all processes, in all."""
    if _is_alone():
        return value
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def whole(tree: Any) -> Any:
    """Returns a tree with the arrays that are spread over processes as whole NumPy arrays, in all
    processes; other leaves are unchanged."""
    if _is_alone():
        return tree
    from jax.experimental import multihost_utils

    def gathered(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return leaf

    return jax.tree.map(gathered, tree)


def placed(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """Splits an array that all processes hold whole among the devices of all."""
    if jax.process_count() == 1:
        return jax.device_put(np.asarray(leaf) if _is_of_one_cpu(leaf) else leaf, sharding)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda at: value[at])


def _is_of_one_cpu(leaf: Any) -> bool:
    """Whether NumPy can read an array without a copy, and cut it into parts without a program."""
    if not isinstance(leaf, jax.Array) or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return False
    return [device.platform for device in leaf.devices()] == ["cpu"]


def _is_alone() -> bool:
    return _by_itself or jax.process_count() == 1


def _picklable(error: Exception | None) -> Exception | None:
    if error is None or isinstance(error, ToysaeError | OSError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _broadcast(value: Any) -> Any:
    """Returns the first process's value, of any kind that pickles, in all."""
    from jax.experimental import multihost_utils

    data = np.frombuffer(pickle.dumps(value), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    sent = data if is_first() else np.zeros(length, np.uint8)
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes())
