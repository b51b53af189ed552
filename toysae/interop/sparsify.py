"""Reads folders of EleutherAI's `sparsify` library: `sae.safetensors` and `cfg.json`."""

from pathlib import Path

from .. import checked
from ..checked import Fields
from ..errors import ToysaeError, require
from ..sae import SAE
from .linear import check_read, check_tensors, topk
from .saelens import read_config, read_safetensors

WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"
_HARMLESS = ("expansion_factor", "normalize_decoder", "multi_topk")
"""Fields of `cfg.json` that change nothing in a trained SAE."""


def from_sparsify(folder: str | Path) -> SAE:
    """Reads a TopK SAE trained with `sparsify`: z = TopK(ReLU((x - b_dec) W_enc + b_enc)).

    Raises:
        ToysaeError: files are missing or damaged, it is a transcoder, has a skip connection or
            another activation than TopK, or tensors are missing or misshapen.
    """
    folder = checked.path("folder", folder)
    config, tensors = read_config(folder / CONFIG), read_safetensors(folder / WEIGHTS)
    try:
        c = Fields(config, CONFIG)
        require(not c.flag("transcode", False), "a transcoder predicts another site than it reads, "
                "which no SAE here does")  # fmt: skip
        for skip in ("skip_connection", "embed_skip", "gram_lookup"):
            require(not c.flag(skip, False), f"{skip} adds to x_hat what no latent stands for, "
                    "which no SAE here does")  # fmt: skip
        kind = c.text("activation", "topk")
        require(kind == "topk", f"activation {kind!r} has no counterpart here, only 'topk'")
        require(not c.flag("signed", False), "signed codes are not read, only non-negative ones")
        for ours, theirs in (("W_enc", "encoder.weight"), ("b_enc", "encoder.bias")):
            require(theirs in tensors, f"tensor {theirs} is missing")
            tensors[ours] = tensors.pop(theirs).T
        check_tensors(tensors, ("W_enc", "b_enc", "W_dec", "b_dec"), "TopK SAE")
        sae = topk(tensors, c.any("k"), pre_bias=True)
        for name, size in (("d_in", sae.spec.d_in), ("num_latents", sae.spec.d_sae)):
            stated = c.integer(name, 0)  # 0: what the expansion factor gives
            require(stated in (0, size), f"{CONFIG} says {name} {stated}, W_dec has {size}")
        check_read(c, _HARMLESS)
        return sae
    except ToysaeError as error:
        raise ToysaeError(f"{folder}: {error}") from error
