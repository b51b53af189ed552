"""What is shown of a layer: its statistics, the world most like it, contexts of latents."""

from .card import (
    FittedTwin,
    LayerCard,
    layer_card,
    make_twin,
    normalised_world,
    recovered_on,
    save_card,
    world_panels,
)
from .contexts import Contexts, Example, latent_contexts
from .pages import Chosen, Page, pages, write_pages
from .twin import Twin, twin_world
from .twin_fit import fit_twin

__all__ = [
    "Chosen", "Contexts", "Example", "FittedTwin", "LayerCard", "Page", "Twin", "fit_twin",
    "latent_contexts", "layer_card", "make_twin", "normalised_world", "pages", "recovered_on",
    "save_card", "twin_world", "world_panels", "write_pages",
]  # fmt: skip
