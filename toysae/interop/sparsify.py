"""Folders of EleutherAI's `sparsify` library, in: `sae.safetensors` and `cfg.json`."""

from pathlib import Path

from ..errors import ToysaeError, require
from ..sae import SAE
from .linear import topk
from .saelens import read_config, read_tensors

WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"


def from_sparsify(folder: str | Path) -> SAE:
    """Reads a TopK SAE trained with `sparsify`: z = TopK(ReLU((x - b_dec) W_enc + b_enc)).

    Raises:
        ToysaeError: files missing or damaged, a transcoder, a skip connection or another
            activation than TopK, tensors missing or misshapen.
    """
    folder = Path(folder)
    config, tensors = read_config(folder / CONFIG), read_tensors(folder / WEIGHTS)
    try:
        require(not config.get("transcode"), "a transcoder predicts another site than it reads, "
                "which no SAE here does")  # fmt: skip
        for skip in ("skip_connection", "embed_skip", "gram_lookup"):
            require(not config.get(skip), f"{skip} adds to x_hat what no latent stands for, which "
                    "no SAE here does")  # fmt: skip
        kind = config.get("activation", "topk")
        require(kind == "topk", f"activation {kind!r} has no counterpart here, only 'topk'")
        require(not config.get("signed"), "signed codes are not read, only non-negative ones")
        for ours, theirs in (("W_enc", "encoder.weight"), ("b_enc", "encoder.bias")):
            require(theirs in tensors, f"tensor {theirs} is missing")
            tensors[ours] = tensors.pop(theirs).T
        require("k" in config, f"{CONFIG} has no k")
        return topk(tensors, config["k"], pre_bias=True)
    except ToysaeError as error:
        raise ToysaeError(f"{folder}: {error}") from error
