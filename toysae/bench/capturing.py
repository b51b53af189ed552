"""How fast activations are captured, compared with the model's bare forward pass."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..errors import require
from .device import matmul_rate
from .timing import median, seconds_of

CAPTURE_PRESETS: dict[str, tuple[str, ...]] = {
    "lm-resid": ("blocks.6.hook_resid_post",),
    "lm-resid-mlp": ("blocks.6.hook_resid_post", "blocks.6.mlp.hook_post"),
}
"""Sites of SmolLM2-135M, which `toysae lm sample` fetches."""
_N_CTX, _BATCH = 128, 16
_MOST = 400  # batches: the sample text holds about a million tokens


def time_capture(name: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Returns a row: tokens/s of a capture to shards on disk, of the bare forward pass to the same
    layer, and their ratio."""
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
        """Seconds of this many batches, whose activations are not stored."""
        tokens = jnp.zeros((_BATCH, _N_CTX), jnp.int32)
        forward = partial(activations, model, tokens, sites, "bfloat16", False)
        return sum(seconds_of(forward) for _ in range(n_batches))

    def start(folder: Path, manifest: Manifest) -> None:
        folder.mkdir()
        write_manifest(folder, manifest)

    compile_s = bare(1)
    n_batches = min(max(2, int(seconds / bare(1))), _MOST)
    n_tokens = n_batches * _BATCH * (_N_CTX - 1)
    forward, whole, matmul = [], [], []
    with TemporaryDirectory() as folder:
        text, layout = sample.text_path(), TextLayout(_N_CTX)
        corpus = build_corpus(text, tokenizer, Path(folder) / "corpus", n_tokens, layout)
        # Hashing the weights is not timed.
        manifests = [new_manifest(model, corpus, site) for site in sites]
        run = runner(model, corpus, sites, "bfloat16", False, _BATCH)
        for _ in range(rounds):
            matmul.append(matmul_rate())
            forward.append(n_tokens / bare(n_batches))
            with TemporaryDirectory(dir=folder) as out:
                capture = partial(write_run, run, corpus, manifests, Path(out), start)
                whole.append(n_tokens / seconds_of(capture))
    ratios = np.array(forward) / np.array(whole)
    return {
        "preset": name,
        "shape": f"{len(sites)} site(s) of layer 6, {n_tokens:,} tokens",
        "tokens/s": round(median(whole, 0)),
        "forward tokens/s": round(median(forward, 0)),
        "forward / capture": median(ratios),
        "matmul GFLOP/s": median(np.array(matmul) / 1e9, 1),
        "compile s": round(compile_s, 2),
        "rounds": {"tokens/s": whole, "forward tokens/s": forward},
    }
