"""Language models in JAX: GPT-NeoX, GPT-2 and Llama-type, with capture and edits at any site."""

from .config import LMConfig, Rotary
from .forward import LM, Pass, forward, traced_forward
from .load import load_model, load_tokenizer
from .tokenizer import Tokenizer

__all__ = [
    "LM", "LMConfig", "Pass", "Rotary", "Tokenizer", "forward", "load_model", "load_tokenizer",
    "traced_forward",
]  # fmt: skip
