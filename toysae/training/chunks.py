"""Chunks of training: how long they are, and the snapshots at their ends."""

from time import monotonic

import jax
import jax.numpy as jnp
import numpy as np

from .. import pytree
from ..sae.arithmetic import DENSE
from .state import TrainState

CHUNK_SECONDS = 5.0
"""About the longest duration of a chunk: well within :data:`toysae.watch.GRACE_SECONDS`, so that
there is time to save what was trained."""
_FIRST, _GROWTH = 1, 8


@pytree.dataclass
class Snapshot:
    """Training at the end of a chunk: all that is needed to go on from there with the same bits.

    Attributes:
        state: with leaves on the device, which the next chunk overwrites, or of NumPy.
        points: the learning curves by name, each `[points so far, n_worlds, n_members, ...]`.
        step: steps taken.
        ways: of the steps so far, as :class:`.Trained` has them.
    """

    state: TrainState
    points: dict[str, np.ndarray]
    step: int = pytree.field(pytree_node=False)
    ways: tuple[tuple[int, str], ...] = pytree.field(pytree_node=False, default=((0, DENSE),))


def placed_like(state: TrainState, like: TrainState) -> TrainState:
    """Returns `state` on the devices of `like`, as if it had been computed there, so that no
    program is compiled again for it."""

    def place(value, model: jax.Array) -> jax.Array:
        array = jnp.asarray(value, model.dtype)
        return jax.device_put(array, model.sharding) if model.committed else array

    return jax.tree.map(place, state, like)


class Pace:
    """How many steps a chunk has: few at first, then as many as `seconds` have room for."""

    def __init__(self, seconds: float = CHUNK_SECONDS):
        self._seconds = seconds
        self._length = _FIRST
        self._since = monotonic()

    def next_stop(self, step: int, target: int) -> int:
        """The step at which the chunk ends that begins now at `step` on the way to `target`."""
        self._since = monotonic()
        return min(target, step + self._length)

    def took(self, steps: int) -> None:
        """Notes that the chunk has taken `steps` steps until now; with 0 it has only compiled."""
        if steps == 0:
            return
        elapsed = max(monotonic() - self._since, 1e-9)
        room = min(self._seconds / elapsed * steps, _GROWTH * self._length)
        self._length = max(1, int(room))
