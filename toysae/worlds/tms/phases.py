"""Phase changes in training: W before, in and after the largest change of geometry.

Elhage et al. 2022, "Superposition and Learning Dynamics": D_i jumps between plateaus, and each jump
is a drop of the loss.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ...errors import require
from .geometry import feature_dimensionality


@dataclass(frozen=True)
class PhaseChange:
    """A model before, in and after the largest change of its geometry.

    Attributes:
        steps: `[3]` training steps.
        W: `[3, d_hidden, n_features]`.
        jump: change of D_i of one feature from the first to the last, at most 1.
        feature: the number of that feature.
    """

    steps: np.ndarray
    W: Float[np.ndarray, "3 d_hidden n_features"]
    jump: float
    feature: int


def phase_change(
    steps: np.ndarray,
    W: Float[np.ndarray, "snapshots d_hidden n_features"],
    width: int = 1,
    after_step: int = 1,
) -> PhaseChange:
    """Finds the largest jump of any D_i along training.

    Args:
        steps: `[snapshots]` as in :class:`TrainedTMS`.
        W: one model's snapshots, e.g. ``trained.W[:, seed, point]``.
        width: snapshots from before to in, and from in to after.
        after_step: changes that begin before this step do not count: 1 leaves out the random
            start, more the time in which the first geometry forms.

    Raises:
        ToysaeError: fewer than 2 width + 1 snapshots from `after_step` on, or width below 1.
    """
    require(width >= 1, f"width {width} must be at least 1")
    first = int(np.searchsorted(steps, after_step))
    n = len(steps) - first
    least = 2 * width + 1
    require(n >= least, f"{n} snapshots from step {after_step} on are too few for width {width}: "
            f"take at least {least}")  # fmt: skip
    share = np.asarray(feature_dimensionality(W[first:]))
    moved = np.abs(share[2 * width :] - share[: -2 * width])
    at, feature = np.unravel_index(moved.argmax(), moved.shape)
    places = first + at + width * np.arange(3)
    return PhaseChange(steps[places], W[places], float(moved.max()), int(feature))
