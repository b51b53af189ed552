"""Worlds whose true features are known: dictionary x firing x magnitude x noise."""

from ..door import guard
from .assemble import assemble
from .card import Card, world_card
from .files import load_world, save_world
from .panel import compare_panels, panel_of, world_panel
from .registry import WORLDS, make_world, world_fields
from .world import Batch, Drawn, World, batches, sample, stack

__all__ = [
    "WORLDS", "Batch", "Card", "Drawn", "World", "assemble", "batches", "compare_panels",
    "load_world", "make_world", "panel_of", "sample", "save_world", "stack", "world_card",
    "world_fields", "world_panel",
]  # fmt: skip

guard(globals())
