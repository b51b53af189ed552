"""Captures of models that are not ported: whatever computes activations fills the same shards.

>>> model = AutoModelForCausalLM.from_pretrained("google/gemma-2-2b")
>>> corpus = build_corpus(text, load_tokenizer(folder), out / CORPUS, 10_000_000, Layout(128))
>>> sites = {"blocks.12.hook_resid_post": model.model.layers[12]}
>>> capture_from(hooked(model, sites), corpus, out, "google/gemma-2-2b")

Cards, twins and training work on them; what loads the model (pages, cross-entropy) does not.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ...errors import require
from .capture import SHARD_BYTES, Batches, empty_manifest, write_run
from .shards import DTYPES, write_manifest
from .text import Corpus

Acts = Callable[[Int[np.ndarray, "b n_ctx"]], Mapping[str, Float[np.ndarray, "b n_ctx d"]]]
"""Token ids to the activations of each site."""


def hooked(model: Any, modules: Mapping[str, Any]) -> Acts:
    """What modules of a PyTorch model put out; of a module with several outputs, the first.

    Args:
        model: called with token ids `[b, n_ctx]` on its own device.
        modules: by the site's name, e.g. "blocks.3.hook_resid_post", best as TransformerLens would
            name it.
    """
    torch = import_module("torch")  # there, since the model is of it
    device = next(model.parameters()).device

    def acts(tokens: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}

        def keep(site: str):
            def hook(module: Any, inputs: Any, output: Any) -> None:
                first = output[0] if isinstance(output, tuple) else output
                found[site] = first.detach().float().cpu().numpy()

            return hook

        handles = [m.register_forward_hook(keep(site)) for site, m in modules.items()]
        try:
            with torch.no_grad():
                model(torch.as_tensor(np.asarray(tokens, np.int64), device=device))
        finally:
            for handle in handles:
                handle.remove()
        return found

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
    """Runs something over a corpus and writes the shards of every site that it gives; goes on
    where a run that was stopped has stopped.

    Args:
        acts: see :func:`hooked`.
        corpus: tokenised by the model's own tokenizer.
        out: each site gets a folder of its own in it.
        model: a name for the manifest.
        weights: a checksum or revision that tells its weights from others'.
        dtype: of the activations on disk.
        centre: take each activation's mean over dimensions out.
        batch_size: sequences at once.
        shard_bytes: about the size of a shard of the widest site.
        on_batch: called with the tokens done and the bytes written so far.

    Returns:
        The sites' folders.

    Raises:
        ToysaeError: activations of another shape than the tokens', and see
            :func:`toysae.lm.capture.capture.capture`.
    """
    require(batch_size >= 1, f"batch_size {batch_size} must be at least 1")
    widths = {site: x.shape[-1] for site, x in _checked(acts, corpus.tokens[:1]).items()}
    fresh = [
        empty_manifest(model, weights or model, site, d, corpus, dtype, centre)
        for site, d in widths.items()
    ]

    def run(some: np.ndarray) -> Batches:
        for start in range(0, len(some), batch_size):
            part = some[start : start + batch_size]
            found = _checked(acts, corpus.tokens[part])
            if centre:
                found = {site: x - x.mean(-1, keepdims=True) for site, x in found.items()}
            yield part, {site: x.astype(DTYPES[dtype]) for site, x in found.items()}

    def start(folder: Path, m: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder, m)

    return write_run(run, corpus, fresh, out, start, shard_bytes, on_batch)


def _checked(acts: Acts, tokens: np.ndarray) -> dict[str, np.ndarray]:
    found = {site: np.asarray(x, np.float32) for site, x in acts(np.asarray(tokens)).items()}
    require(found, "no site has given activations: are the hooked modules part of the model?")
    for site, x in found.items():
        fits = x.ndim == 3 and x.shape[:2] == tokens.shape
        require(fits, f"{site} gave activations of shape {list(x.shape)} for tokens of shape "
                f"{list(tokens.shape)}: [batch, n_ctx, d] is needed")  # fmt: skip
    return found
