"""Where training may stop and go on: snapshots at the edges of chunks, and how long a chunk is."""

from time import monotonic

import jax
import jax.numpy as jnp
import numpy as np

from .. import pytree
from .state import TrainState

CHUNK_SECONDS = 5.0
"""About the longest that a caller waits for the next edge of a chunk: well within
:data:`toysae.watch.GRACE_SECONDS`, so that there is time to save what was trained."""
_FIRST, _GROWTH = 1, 8


@pytree.dataclass
class Snapshot:
    """Training at the edge of a chunk: all that is needed to go on from there, bit by bit.

    Attributes:
        state: leaves on the device, which the next chunk overwrites; or of NumPy.
        points: each `[points so far, n_worlds, n_members, ...]`, the learning curves.
        step: steps taken.
    """

    state: TrainState
    points: dict[str, np.ndarray]
    step: int = pytree.field(pytree_node=False)


def placed_like(state: TrainState, like: TrainState) -> TrainState:
    """`state` on the devices of `like`, as if it had been computed there, so that no program is
    compiled again for it."""

    def place(value, model: jax.Array) -> jax.Array:
        array = jnp.asarray(value, model.dtype)
        return jax.device_put(array, model.sharding) if model.committed else array

    return jax.tree.map(place, state, like)


class Pace:
    """How many steps to take at once: few at first, then as many as `seconds` have room for."""

    def __init__(self, seconds: float = CHUNK_SECONDS):
        self._seconds = seconds
        self._length = _FIRST
        self._since = monotonic()

    def next_stop(self, step: int, target: int) -> int:
        """Where the chunk ends that begins now at `step` on the way to `target`."""
        self._since = monotonic()
        return min(target, step + self._length)

    def took(self, steps: int) -> None:
        """Notes that the chunk took `steps` steps until now; one of none only compiled."""
        if steps == 0:
            return
        elapsed = max(monotonic() - self._since, 1e-9)
        room = min(self._seconds / elapsed * steps, _GROWTH * self._length)
        self._length = max(1, int(room))
