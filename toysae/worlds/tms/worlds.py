"""Worlds x = W f whose dictionary is the embedding that a toy model of superposition learned.

Features that the toy model does not represent (norm under a tenth of the largest) have no
direction and are left out, so that n_features may differ from seed to seed.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import require, unknown
from ..assemble import assemble
from ..catalogue import WorldRow, dials
from ..firing import Firing
from ..groups import State, joint
from ..independent import independent
from ..world import World
from .geometry import tms_directions
from .phases import phase_change
from .presets import TMS_PRESETS, TMSMatrix, tms_preset

MOMENTS = ("final", "before", "in", "after")
"""Which embedding: the last, or one around the largest change of geometry in training."""


def tms_world(
    preset: str, key, n_steps: int = 10_000, density: float = 0.0, checkpoint: str = "final"
) -> World:
    """Builds a world over the embedding of a trained toy model (Elhage et al. 2022).

    Args:
        preset: a row of :data:`toysae.worlds.tms.TMS_PRESETS`.
        key: of the toy model's initialisation and data.
        n_steps: the toy model's training steps.
        density: probability that a feature is on; 0 for the preset's own.
        checkpoint: one of :data:`CHECKPOINTS`.

    Raises:
        ToysaeError: an unknown checkpoint, or a number out of range.
    """
    if checkpoint not in MOMENTS:
        raise unknown("checkpoint", checkpoint, MOMENTS)
    require(n_steps >= 1, f"n_steps {n_steps} must be at least 1")
    seed = int(jax.random.bits(key, dtype=jnp.uint32) >> 1)
    model = tms_preset(preset, seed, n_steps, density or None)
    W = model.W
    if checkpoint != "final":
        change = phase_change(model.trained.steps, model.trained.W[:, 0, 0])
        W = change.W[MOMENTS.index(checkpoint) - 1]
    embedded = tms_directions(W)
    firing = _firing(model, np.asarray(embedded.kept))
    return assemble(embedded.rows, firing, "uniform", generating_matrix=W)


def _firing(model: TMSMatrix, kept: np.ndarray) -> Firing:
    """Returns the firing of the kept features in the toy model's own data."""
    probs = np.asarray(model.firing_probs, np.float64)
    if model.spec.pairs == "none":
        return independent(probs[kept])
    place = {int(feature): i for i, feature in enumerate(np.flatnonzero(kept))}
    groups: list[Mapping[State, float]] = []
    for first in range(0, probs.size, 2):
        here = tuple(place[f] for f in (first, first + 1) if f in place)
        if model.spec.pairs == "correlated" and here:
            groups.append({here: float(probs[first])})
        elif here:
            groups.append({(f,): float(probs[first]) for f in here})
    return joint(groups, len(place))


def _row(preset: str) -> WorldRow:
    fields = dials(tms_world, 2) | {"n_steps": (int, TMS_PRESETS[preset].n_steps)}
    return WorldRow(f"toy model: {TMS_PRESETS[preset].source}", partial(tms_world, preset), fields)


TMS_WORLDS: dict[str, WorldRow] = {preset: _row(preset) for preset in TMS_PRESETS}
