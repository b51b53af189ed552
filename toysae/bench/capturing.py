"""How fast activations are captured, beside the model's bare forward pass to the same layer."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..errors import require
from .device import matmul_rate

CAPTURE_PRESETS: dict[str, tuple[str, ...]] = {
    "lm-resid": ("blocks.6.hook_resid_post",),
    "lm-resid-mlp": ("blocks.6.hook_resid_post", "blocks.6.mlp.hook_post"),
}
"""Sites of SmolLM2-135M, which `toysae lm sample` fetches."""
_N_CTX, _BATCH = 128, 16
_MOST = 400  # batches: the sample text holds about a million tokens


def time_capture(name: str, seconds: float, rounds: int) -> dict[str, Any]:
    """A row: tokens/s of the bare forward, of a capture to shards on disk, and their ratio."""
    import jax
    import jax.numpy as jnp

    from ..lm.capture import sample
    from ..lm.capture.capture import activations, new_manifest, runner, write_run
    from ..lm.capture.shards import Manifest, write_manifest
    from ..lm.capture.text import TextLayout, build_corpus
    from ..lm.models import load_model, load_tokenizer

    require(sample.is_there(), "there is no model to time: run `toysae lm sample`")
    sites = CAPTURE_PRESETS[name]
    model, tokenizer = load_model(sample.model_path()), load_tokenizer(sample.model_path())

    def bare(n_batches: int) -> float:
        """Seconds of so many batches, of which nothing is kept."""
        tokens = jnp.zeros((_BATCH, _N_CTX), jnp.int32)
        begun = time.perf_counter()
        for _ in range(n_batches):
            jax.block_until_ready(activations(model, tokens, sites, "bfloat16", False))
        return time.perf_counter() - begun

    def start(folder: Path, manifest: Manifest) -> None:
        folder.mkdir()
        write_manifest(folder, manifest)

    compile_s = bare(1)
    n_batches = min(max(2, int(seconds / bare(1))), _MOST)
    kept = n_batches * _BATCH * (_N_CTX - 1)
    forward, whole, matmul = [], [], []
    with TemporaryDirectory() as folder:
        text = sample.text_path()
        corpus = build_corpus(text, tokenizer, Path(folder) / "corpus", kept, TextLayout(_N_CTX))
        fresh = [
            new_manifest(model, corpus, site) for site in sites
        ]  # hashes the weights: not timed
        run = runner(model, corpus, sites, "bfloat16", False, _BATCH)
        for _ in range(rounds):
            matmul.append(matmul_rate())
            forward.append(kept / bare(n_batches))
            with TemporaryDirectory(dir=folder) as out:
                begun = time.perf_counter()
                write_run(run, corpus, fresh, Path(out), start)
                whole.append(kept / (time.perf_counter() - begun))
    ratios = np.array(forward) / np.array(whole)
    return {
        "preset": name,
        "shape": f"{len(sites)} site(s) of layer 6, {kept:,} tokens",
        "tokens/s": round(float(np.median(whole))),
        "forward tokens/s": round(float(np.median(forward))),
        "forward / capture": round(float(np.median(ratios)), 2),
        "matmul GFLOP/s": round(float(np.median(matmul)) / 1e9, 1),
        "compile s": round(compile_s, 2),
        "rounds": {"tokens/s": whole, "forward tokens/s": forward},
    }
