"""Every preset with what times it."""

from collections.abc import Callable, Mapping
from typing import Any

from .capturing import CAPTURE_PRESETS, time_capture
from .presets import GPU_PRESETS, GRID_PRESETS, PRESETS, RECIPE_PRESETS
from .sampling import WORLD_PRESETS, time_world
from .scoring import SCORING_PRESETS, time_scoring
from .training import time_preset, time_recipe

Timer = Callable[..., dict[str, Any]]
"""(name, seconds a round, rounds) -> a row; `rounds` in it holds the raw numbers."""

KINDS: dict[str, tuple[Mapping[str, Any], Timer]] = {
    "training": (PRESETS, time_preset),
    "gpu": (GPU_PRESETS, time_preset),
    "interim-grid": (GRID_PRESETS, time_preset),
    "worlds": (WORLD_PRESETS, time_world),
    "recipes": (RECIPE_PRESETS, time_recipe),
    "scoring": (SCORING_PRESETS, time_scoring),
    "lm": (CAPTURE_PRESETS, time_capture),
}
"""Names that stand for several presets."""

TIMERS: dict[str, Timer] = {name: timer for presets, timer in KINDS.values() for name in presets}
