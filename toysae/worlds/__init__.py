"""Worlds whose true features are known: dictionary x firing x magnitude."""

from .card import Card, world_card
from .catalogue import WORLDS, make_world, world_fields
from .world import Batch, World, sample, stack

__all__ = [
    "WORLDS", "Batch", "Card", "World", "make_world", "sample", "stack", "world_card",
    "world_fields",
]  # fmt: skip
