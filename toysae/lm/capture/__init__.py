"""A text, and the activations that a model has on it, in files.

>>> model, tokenizer = load_model("EleutherAI/pythia-70m"), load_tokenizer("EleutherAI/pythia-70m")
>>> corpus = build_corpus("text.txt", tokenizer, out / CORPUS, 1_000_000, TextLayout())
>>> (folder,) = capture(model, corpus, ["blocks.3.hook_resid_post"], out)
>>> source = open_site(folder)
"""

from .capture import capture
from .hooks import capture_from, hooked
from .shards import Manifest, Shards, find_site, read_manifest
from .sources import CORPUS, Live, load_captured, open_site
from .stream import Source, Stream, split_off, spread_sequences
from .text import Corpus, TextLayout, build_corpus, documents, load_corpus

__all__ = [
    "CORPUS", "Corpus", "Live", "Manifest", "Shards", "Source", "Stream", "TextLayout",
    "build_corpus", "capture", "capture_from", "documents", "find_site", "hooked", "load_captured",
    "load_corpus", "open_site", "read_manifest", "split_off", "spread_sequences",
]  # fmt: skip
