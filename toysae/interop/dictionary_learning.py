"""Reads folders of the `dictionary_learning` library: `ae.pt` and `config.json`."""

from pathlib import Path

import numpy as np

from .. import checked
from ..checked import Fields
from ..errors import ToysaeError, require
from ..sae import SAE
from ..sae.encoders import Gated
from .linear import GATED, Tensors, build_jump_relu, build_sae, check_tensors, topk
from .saelens import read_config
from .torch_file import read_torch_file

WEIGHTS, CONFIG = "ae.pt", "config.json"

# Names there -> names here, of tensors that are copied as they are.
_NAMES = {
    "encoder.bias": "b_enc", "bias": "b_dec", "decoder.bias": "b_dec", "decoder_bias": "b_dec",
    "gate_bias": "b_gate", "mag_bias": "b_mag",
}  # fmt: skip
CLASSES = (
    "AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "GatedAutoEncoder",
    "JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE",
)  # fmt: skip
THRESHOLDED = ("AutoEncoderTopK", "BatchTopKSAE", "JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")
_HARMLESS = {"group_sizes", "group_weights", "active_groups"}  # used in training only


def from_dictionary_learning(folder: str | Path) -> SAE:
    """Reads an SAE trained with `dictionary_learning`, without torch.

    AutoEncoder and the (Batch)TopK and gated classes encode x - b_dec, AutoEncoderNew and
    JumpReluAutoEncoder x itself. BatchTopKSAE and MatryoshkaBatchTopKSAE are read as SAEs with
    their threshold.

    Args:
        folder: with `ae.pt` and `config.json`.

    Raises:
        ToysaeError: files are missing or damaged, the class is not in :data:`CLASSES`, a batch SAE
            was saved before it had a threshold, or tensors are missing or misshapen.
    """
    folder = checked.path("folder", folder)
    config, saved = read_config(folder / CONFIG), read_torch_file(folder / WEIGHTS)
    try:
        trainer = Fields(config, CONFIG).object("trainer")
        return _decode(trainer.text("dict_class", choices=CLASSES), trainer, saved)
    except ToysaeError as error:
        raise ToysaeError(f"{folder}: {error}") from error


def _decode(kind: str, trainer: Fields, saved: Tensors) -> SAE:
    tensors = {_NAMES.get(name, name): array for name, array in saved.items()}
    for ours, theirs in (("W_enc", "encoder.weight"), ("W_dec", "decoder.weight")):
        if theirs in tensors:  # torch's Linear holds [out, in]
            tensors[ours] = tensors.pop(theirs).T
    read = {"W_enc", "W_dec", "b_dec", *(GATED if kind == "GatedAutoEncoder" else ("b_enc",))}
    read |= {"k"} if "TopK" in kind else set()
    read |= {"threshold"} if kind in THRESHOLDED else set()
    check_tensors(tensors, read | _HARMLESS, kind)
    sae = _build(kind, trainer, tensors)
    for name, size in (("activation_dim", sae.spec.d_in), ("dict_size", sae.spec.d_sae)):
        stated = trainer.integer(name, size)
        require(stated == size, f"{CONFIG} says {name} {stated}, the tensors have {size}")
    return sae


def _build(kind: str, trainer: Fields, tensors: Tensors) -> SAE:
    if kind == "GatedAutoEncoder":
        return build_sae(tensors, pre_bias=True, encoder=Gated())
    if kind == "AutoEncoderTopK":
        return topk(tensors, tensors["k"] if "k" in tensors else trainer.any("k"), pre_bias=True)
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return build_sae(tensors, pre_bias=kind == "AutoEncoder")
    require("threshold" in tensors, "tensor threshold is missing")
    threshold = np.asarray(tensors["threshold"], np.float32)
    learned = kind == "JumpReluAutoEncoder"
    require(learned or (threshold.ndim == 0 and bool(threshold >= 0)), f"its threshold {threshold} "
            "was never set: train past threshold_start_step")  # fmt: skip
    return build_jump_relu(tensors, threshold, pre_bias=not learned)
