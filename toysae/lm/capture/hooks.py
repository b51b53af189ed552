"""Captures activations of models that are not ported here, into the same shards.

>>> model = AutoModelForCausalLM.from_pretrained("google/gemma-2-2b")
>>> corpus = build_corpus(text, load_tokenizer(folder), out / CORPUS, 10_000_000, TextLayout(128))
>>> sites = {"blocks.12.hook_resid_post": model.model.layers[12]}
>>> capture_from(hooked(model, sites), corpus, out, "google/gemma-2-2b")

Cards, twins and training work on such captures; pages and cross-entropy, which load the model, do
not.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ...errors import require
from .capture import SHARD_BYTES, Batches, empty_manifest, write_run
from .shards import DTYPES, Manifest, write_manifest
from .text import Corpus

Acts = Callable[[Int[np.ndarray, "b n_ctx"]], Mapping[str, Float[np.ndarray, "b n_ctx d"]]]
"""From token ids to the activations of each site."""


def hooked(model: Any, modules: Mapping[str, Any]) -> Acts:
    """Returns a function that runs a PyTorch model and gives the (first) output of some modules.

    Args:
        model: called with token ids `[b, n_ctx]` on its own device.
        modules: by the site's name, e.g. "blocks.3.hook_resid_post", best as TransformerLens would
            name it.
    """
    torch = import_module("torch")  # installed, since the model needs it
    device = next(model.parameters()).device

    def acts(tokens: np.ndarray) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = {}

        def keep(site: str):
            def hook(module: Any, inputs: Any, output: Any) -> None:
                first = output[0] if isinstance(output, tuple) else output
                outputs[site] = first.detach().float().cpu().numpy()

            return hook

        handles = [m.register_forward_hook(keep(site)) for site, m in modules.items()]
        try:
            with torch.no_grad():
                model(torch.as_tensor(np.asarray(tokens, np.int64), device=device))
        finally:
            for handle in handles:
                handle.remove()
        return outputs

    return acts


def capture_from(
    acts: Acts,
    corpus: Corpus,
    out: Path,
    model: str,
    weights: str = "",
    *,
    dtype: str = "bfloat16",
    centre: bool = False,
    batch_size: int = 16,
    shard_bytes: int = SHARD_BYTES,
    on_batch: Callable[[int, int], None] = lambda tokens, n_bytes: None,
) -> list[Path]:
    """Captures a corpus through any function that computes activations, as
    :func:`toysae.lm.capture.capture.capture` does with a model; all arguments not here are its.

    Args:
        acts: see :func:`hooked`.
        corpus: tokenised by the model's own tokenizer.
        out: each site that `acts` returns gets a folder of its own in it.
        model: a name for the manifest.
        weights: a checksum or revision that tells its weights from others.

    Returns:
        The sites' folders.

    Raises:
        ToysaeError: activations whose shape does not fit the tokens, and see `capture`.
    """
    require(batch_size >= 1, f"batch_size {batch_size} must be at least 1")
    widths = {site: x.shape[-1] for site, x in _checked(acts, corpus.tokens[:1]).items()}
    manifests = [
        empty_manifest(model, weights or model, site, d, corpus, dtype, centre)
        for site, d in widths.items()
    ]

    def run(sequences: np.ndarray) -> Batches:
        for start in range(0, len(sequences), batch_size):
            some = sequences[start : start + batch_size]
            by_site = _checked(acts, corpus.tokens[some])
            if centre:
                by_site = {site: x - x.mean(-1, keepdims=True) for site, x in by_site.items()}
            yield some, {site: x.astype(DTYPES[dtype]) for site, x in by_site.items()}

    def start(folder: Path, m: Manifest) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder, m)

    return write_run(run, corpus, manifests, out, start, shard_bytes, on_batch)


def _checked(acts: Acts, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Runs `acts`, and refuses activations whose shape does not fit the tokens."""
    by_site = {site: np.asarray(x, np.float32) for site, x in acts(np.asarray(tokens)).items()}
    require(by_site, "no site has given activations: are the hooked modules part of the model?")
    for site, x in by_site.items():
        fits = x.ndim == 3 and x.shape[:2] == tokens.shape
        require(fits, f"{site} gave activations of shape {list(x.shape)} for tokens of shape "
                f"{list(tokens.shape)}: [batch, n_ctx, d] is needed")  # fmt: skip
    return by_site
