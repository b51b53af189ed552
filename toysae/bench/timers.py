"""Every preset with the function that times it."""

from collections.abc import Callable, Mapping
from typing import Any

from .capturing import CAPTURE_PRESETS, time_capture
from .checking import RecoveryCheck
from .compiling import Compiling
from .engine import Opening, Overhead
from .presets import BENCH_PRESETS, GPU_PRESETS, GRID_PRESETS, RECIPE_PRESETS, Preset
from .sampling import WORLD_PRESETS, time_world
from .scaling import Scaling
from .scoring import SCORING_PRESETS, time_scoring
from .training import time_preset, time_recipe

Timer = Callable[..., dict[str, Any]]
"""(name, seconds a round, rounds) -> a row, whose `rounds` holds the raw numbers."""

WORKERS_PRESET = "engine-workers"
_ONE = Preset("untied", 16, 32, 32, 1)

ENGINE_PRESETS: dict[str, Any] = {
    "engine-overhead": Overhead(Preset("untied", 64, 128, 256, 16)),
    "engine-open-5": Opening(_ONE, n_saes=5000, n_blocks=5),
    "engine-open-250": Opening(_ONE, n_saes=5000, n_blocks=250),
    WORKERS_PRESET: Scaling(),
}


COMPILE_PRESETS = {"compile": Compiling()}

CHECK_PRESETS = {
    "recovery-check": RecoveryCheck(Preset("untied", 64, 128, 256, 8), l1_coeff=0.1, n_steps=2_000)
}
"""What `gpu` checks besides: that no arithmetic costs recovery on this device."""


def time_engine(name: str, seconds: float, rounds: int) -> dict[str, Any]:
    """The row of a preset that says itself how it is timed."""
    presets = ENGINE_PRESETS | COMPILE_PRESETS | CHECK_PRESETS
    return {"preset": name, **presets[name].time(seconds, rounds)}


PRESET_KINDS: dict[str, tuple[Mapping[str, Any], Timer]] = {
    "training": (BENCH_PRESETS, time_preset),
    "gpu": (GPU_PRESETS, time_preset),
    "interim-grid": (GRID_PRESETS, time_preset),
    "worlds": (WORLD_PRESETS, time_world),
    "recipes": (RECIPE_PRESETS, time_recipe),
    "scoring": (SCORING_PRESETS, time_scoring),
    "lm": (CAPTURE_PRESETS, time_capture),
    "engine": (ENGINE_PRESETS, time_engine),
    "compile": (COMPILE_PRESETS, time_engine),
    "check": (CHECK_PRESETS, time_engine),
}
"""Names that stand for several presets."""

TIMERS: dict[str, Timer] = {
    name: timer for presets, timer in PRESET_KINDS.values() for name in presets
}
