"""SAEs as data: decoder x encoder x activation x penalty x objective x init."""

from .forward import SAE, finished, forward, init_params, init_stats, resolve
from .inits import InitData
from .part import Forward, Hyper, Hypers, Params, Part, Stats, Weights
from .recipes import INITS, RECIPES, make_spec
from .spec import AXES, SAESpec, resolve_hypers

__all__ = [
    "AXES", "INITS", "RECIPES", "SAE", "Forward", "Hyper", "Hypers", "InitData", "Params", "Part",
    "SAESpec", "Stats", "Weights", "finished", "forward", "init_params", "init_stats", "make_spec",
    "resolve", "resolve_hypers",
]  # fmt: skip
