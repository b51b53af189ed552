"""Real activations: language models, shards of what they compute, and the same SAEs on them."""

from ..door import guard
from .models import forward, load_model, load_tokenizer

__all__ = ["forward", "load_model", "load_tokenizer"]

guard(globals())
