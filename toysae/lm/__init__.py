"""Real activations: language models, shards of what they compute, and the same SAEs on them.

The wings load on first use: `models`, `capture` (text and activations on disk), `saes` (trained on
them), `effects` (of SAEs and latents in the model), `cards` (of layers, with twins and pages).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ..door import guard
from .models import forward, load_model, load_tokenizer

if TYPE_CHECKING:
    from . import capture as capture
    from . import cards as cards
    from . import effects as effects
    from . import models as models
    from . import saes as saes

_WINGS = ("capture", "cards", "effects", "models", "saes")
__all__ = [
    "capture", "cards", "effects", "forward", "load_model", "load_tokenizer", "models", "saes",
]  # fmt: skip

guard(globals())


def __getattr__(name: str):
    if name in _WINGS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WINGS})
