"""Panels: statistics of activations, from a world or from a real model, side by side.

>>> stats = panel_of(batches)                 # any activations [n, d_in]
>>> world = world_panel(make_world("sphere"))  # and its true features
>>> compare_panels(world, stats)
"""

from .activations import Panel, PanelStats, add, empty_panel, finished_panel, panel_of
from .cofiring import noise_edge, phi_matrix, rank_exponent
from .compare import compare_panels
from .features import FeaturePanel
from .of_world import world_panel

__all__ = [
    "FeaturePanel", "Panel", "PanelStats", "add", "compare_panels", "empty_panel", "finished_panel",
    "noise_edge", "panel_of", "phi_matrix", "rank_exponent", "world_panel",
]  # fmt: skip
