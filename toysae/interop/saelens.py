"""Reads and writes SAELens folders: `cfg.json` and `sae_weights.safetensors` of SAELens 6."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

from .. import checked
from ..checked import Fields, number, read_json, read_regular, shown, text
from ..disk import telling_of_no_access, write
from ..errors import ToysaeError, require, unknown
from ..machine import host_bytes
from ..sae import SAE
from ..sae.activations import AbsTopK, ReLU, Threshold, TopK
from ..sae.encoders import Gated, Tied, TiedGain, Untied
from ..sae.jumprelu import JumpReLU
from .linear import (
    GATED,
    Tensors,
    build_jump_relu,
    build_sae,
    check_read,
    check_tensors,
    constant_threshold,
)

WEIGHTS, CONFIG, SCALER = "sae_weights.safetensors", "cfg.json", "activation_scaler.json"
ARCHITECTURES = (
    "standard", "topk", "abstopk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk"
)  # fmt: skip
_HARMLESS = frozenset({
    "metadata", "dtype", "device", "normalize_activations", "k", "model_name",
    "model_class_name", "model_from_pretrained_kwargs", "hook_name", "hook_layer",
    "hook_head_index", "hook_point", "hook_point_layer", "hook_point_head_index", "prepend_bos",
    "seqpos_slice", "context_size", "exclude_special_tokens", "dataset_path",
    "dataset_trust_remote_code", "streaming", "is_dataset_tokenized", "neuronpedia_id",
    "sae_lens_version", "sae_lens_training_version", "from_pretrained_path",
    "decoder_init_norm", "l1_coefficient", "lp_norm", "l1_warm_up_steps", "l0_coefficient",
    "l0_warm_up_steps", "pre_act_loss_coefficient", "jumprelu_init_threshold",
    "jumprelu_bandwidth", "jumprelu_tanh_scale", "jumprelu_sparsity_loss_mode",
    "aux_loss_coefficient", "topk_threshold_lr", "use_sparse_activations", "matryoshka_widths",
    "noise_sigma", "mse_loss_normalization", "decoder_heuristic_init",
    "init_encoder_as_decoder_transpose", "normalize_sae_decoder",
})  # fmt: skip
"""Fields of `cfg.json` that say where an SAE comes from or how it was trained. They change nothing
in a trained SAE."""
SAELENS_VERSION = "6.54.12"
"""The SAELens release whose on-disk format is written."""

FLOATS: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
}  # fmt: skip
"""Types of weights by their names in safetensors."""

# The tensors of an encoder under SAELens' names: everything is folded into W_enc and biases.
_ENCODERS: dict[type, Callable[[SAE], Tensors]] = {
    Untied: lambda sae: _numpy(sae.weights.enc, "W_enc", "b_enc"),
    Tied: lambda sae: {"W_enc": np.asarray(sae.W_dec).T, **_numpy(sae.weights.enc, "b_enc")},
    TiedGain: lambda sae: {
        "W_enc": np.asarray(sae.W_dec).T * np.exp(np.asarray(sae.weights.enc["log_gain"])),
        **_numpy(sae.weights.enc, "b_enc"),
    },
    Gated: lambda sae: _numpy(sae.weights.enc, "W_enc", "b_gate", "b_mag", "r_mag"),
}
# What an activation is in SAELens: the architecture, its fields of cfg.json, its tensors.
_ACTIVATIONS: dict[type, Callable[[SAE], tuple[str, dict[str, Any], Tensors]]] = {
    ReLU: lambda sae: ("standard", {}, {}),
    TopK: lambda sae: ("topk", _k(sae), {}),
    AbsTopK: lambda sae: ("abstopk", _k(sae), {}),
    Threshold: lambda sae: (
        "jumprelu", {}, {"threshold": np.broadcast_to(constant_threshold(sae), (sae.spec.d_sae,))}
    ),
    JumpReLU: lambda sae: (
        "jumprelu", {}, {"threshold": np.exp(np.asarray(sae.weights.act["log_threshold"]))}
    ),
}  # fmt: skip


def to_saelens(
    sae: SAE, folder: str | Path, *, model_name: str = "toysae", hook_name: str = "x", **metadata
) -> Path:
    """Writes an SAE as a folder that `sae_lens.SAE.load_from_disk` reads.

    Tied weights become W_enc = W_dec^T, a missing decoder bias zeros, a normalised decoder its
    rows, BatchTopK a JumpReLU with its constant threshold, a fractional k the next integer.

    Args:
        sae: one SAE as it is used outside training.
        folder: made if it is not there; its two files are replaced.
        model_name: whose activations the SAE reads.
        hook_name: where in that model, by its TransformerLens name.
        **metadata: more of SAELens' metadata, e.g. ``hook_layer=3``.

    Raises:
        ToysaeError: an ensemble, or an SAE that SAELens cannot express, naming the component.
    """
    config, tensors = saelens_files(sae)
    names = {"model_name": model_name, "hook_name": hook_name, **metadata}
    config["metadata"] |= names
    folder = checked.path("folder", folder)
    with telling_of_no_access(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write(folder / WEIGHTS, lambda path: save_file(tensors, path))
    write(folder / CONFIG, lambda path: path.write_text(json.dumps(config, indent=1)))
    return folder


def saelens_files(sae: SAE) -> tuple[dict[str, Any], Tensors]:
    """The contents of `cfg.json` and of the weights, see :func:`to_saelens`.

    Raises:
        ToysaeError: an ensemble, or an SAE that SAELens cannot express, naming the component.
    """
    require(sae.W_dec.ndim == 2, f"W_dec has shape {list(sae.W_dec.shape)}: export one SAE at a "
            "time, e.g. result.sae(0)")  # fmt: skip
    encoder, activation = type(sae.spec.encoder), type(sae.spec.activation)
    for own, known in ((encoder, _ENCODERS), (activation, _ACTIVATIONS)):
        require(own in known, f"{own.__name__} has no SAELens counterpart (its codes are not one "
                "affine map and a fixed activation): keep it with save_sae, or export one of "
                f"{', '.join(sorted(kind.__name__ for kind in known))}")  # fmt: skip
    architecture, fields, extra = _ACTIVATIONS[activation](sae)
    if encoder is Gated:
        architecture = "gated"
    b_dec = sae.weights.b_dec
    tensors = {
        **_ENCODERS[encoder](sae),
        **extra,
        "W_dec": np.asarray(sae.W_dec),
        "b_dec": np.zeros(sae.spec.d_in, np.float32) if b_dec is None else np.asarray(b_dec),
    }
    config = {
        "architecture": architecture,
        "d_in": sae.spec.d_in,
        "d_sae": sae.spec.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.spec.decoder.bias == "pre",
        "normalize_activations": "none",
        "reshape_activations": "none",
        **fields,
        "metadata": {"sae_lens_version": SAELENS_VERSION, "sae_lens_training_version": None},
    }
    arrays = {k: np.array(a, np.float32, order="C", copy=True) for k, a in tensors.items()}
    return config, arrays


def from_saelens(folder: str | Path, input_scale: float | None = None) -> SAE:
    """Reads a folder that SAELens wrote: standard, topk, abstopk, jumprelu or gated.

    Args:
        folder: with `cfg.json` and `sae_weights.safetensors`.
        input_scale: the factor of inputs in training, for an SAE saved with
            `normalize_activations` "expected_average_only_in"; read from
            `activation_scaler.json` if that is in the folder. It is folded into the weights.

    Raises:
        ToysaeError: files are missing or damaged, the architecture or the normalisation of inputs
            cannot be expressed, or tensors are missing or misshapen.
    """
    folder = checked.path("folder", folder)
    config, tensors = read_config(folder / CONFIG), read_safetensors(folder / WEIGHTS)
    try:
        return decoded(config, tensors, _input_scale(config, folder, input_scale))
    except ToysaeError as error:
        raise ToysaeError(f"{folder}: {error}") from error


def decoded(config: dict[str, Any], tensors: Tensors, scale: float = 1.0) -> SAE:
    """The SAE of a `cfg.json` and its tensors, whose inputs were multiplied by `scale` in training.

    Raises:
        ToysaeError: the architecture cannot be expressed, tensors are missing or misshapen, or a
            field or a tensor has a meaning that is not known.
    """
    c, tensors = Fields(config, CONFIG), dict(tensors)
    architecture, with_k = _architecture(c)
    _check_scaling(c, tensors)
    c.text("reshape_activations", "none", ("none", "hook_z"))  # heads side by side: the same x
    pre_bias = c.flag("apply_b_dec_to_input", True)
    if scale != 1.0:
        for name, factor in (("W_enc", scale), ("W_dec", 1 / scale), ("b_dec", 1 / scale)):
            if name in tensors:
                tensors[name] = tensors[name] * np.float32(factor)
    if c.flag("rescale_acts_by_decoder_norm", False):
        require(
            architecture in ("topk", "abstopk", "batchtopk", "matryoshka_batchtopk"),
            f"rescale_acts_by_decoder_norm has no meaning in a {architecture} SAE",
        )
        build_sae(tensors, pre_bias=pre_bias)  # refuses shapes that do not fit
        norms = np.linalg.norm(tensors["W_dec"], axis=1)
        require((norms > 0).all(), "W_dec has a row of zeros, by whose norm codes are divided")
        tensors |= {"W_enc": tensors["W_enc"] * norms, "b_enc": tensors["b_enc"] * norms}
        tensors["W_dec"] = tensors["W_dec"] / norms[:, None]
    read = {"W_enc", "W_dec", "b_dec", *(GATED if architecture == "gated" else ("b_enc",))}
    if architecture == "standard":
        sae = build_sae(tensors, pre_bias=pre_bias)
    elif architecture in ("topk", "abstopk"):
        activation = TopK() if architecture == "topk" else AbsTopK()
        k = with_k.integer("k", low=1, high=len(tensors.get("W_dec", ())) or None)
        sae = build_sae(tensors, pre_bias=pre_bias, activation=activation, k=k)
    elif architecture == "gated":
        sae = build_sae(tensors, pre_bias=pre_bias, encoder=Gated())
    else:
        name, threshold = _threshold(architecture, tensors)
        read.add(name)
        sae = build_jump_relu(tensors, threshold, pre_bias=pre_bias)
    check_tensors(tensors, read, f"{architecture} SAE")
    for name, size in (("d_in", sae.spec.d_in), ("d_sae", sae.spec.d_sae)):
        stated = c.integer(name)
        require(stated == size, f"{CONFIG} says {name} {stated}, W_dec has {size}")
    check_read(c, _HARMLESS)
    return sae


def _architecture(c: Fields) -> tuple[str, Fields]:
    """The architecture, and the fields that hold its k."""
    architecture = c.text("architecture", "standard")
    require(
        "transcoder" not in architecture,
        f"a {architecture} predicts another site than it reads, which no SAE here does",
    )
    if architecture not in ARCHITECTURES:
        raise unknown("architecture", architecture, ARCHITECTURES)
    # Before version 6 an activation was named, and a "standard" SAE's k stood among its arguments.
    named = [c.any(name, None) for name in ("activation_fn_str", "activation_fn")]
    named = [text(f"{CONFIG}: activation_fn", kind) for kind in named if kind is not None]
    require(len(set(named)) <= 1, f"activation_fn_str and activation_fn are {' and '.join(named)}: "
            "which one is meant?")  # fmt: skip
    kind = named[0] if named else "relu"
    arguments = Fields(c.any("activation_fn_kwargs", None) or {}, f"{CONFIG}: activation_fn_kwargs")
    twice = "k" in arguments and "k" in c and arguments.any("k") != c.value["k"]
    require(not twice, f"k is {shown(c.value.get('k'))} and {shown(arguments.value.get('k'))} in "
            "activation_fn_kwargs: which one is meant?")  # fmt: skip
    if architecture == "standard" and kind == "topk":
        _check_arguments(arguments)
        return "topk", Fields({"k": arguments.any("k")}, arguments.where)
    fits = {"topk": ("topk", "relu"), "abstopk": ("topk", "relu")}.get(architecture, ("relu",))
    require(kind in fits, f"activation_fn {shown(kind)} has no counterpart here, only 'relu' and "
            "'topk'")  # fmt: skip
    _check_arguments(arguments)
    return architecture, arguments if "k" in arguments and "k" not in c else c


def _check_arguments(arguments: Fields) -> None:
    others = ", ".join(name for name in arguments.value if name != "k")
    require(not others, f"activation_fn_kwargs has {others}, which has no counterpart here, only k")


def _check_scaling(c: Fields, tensors: Tensors) -> None:
    """Refuses a factor of codes that the weights of an SAE here cannot hold."""
    factor = tensors.pop("scaling_factor", np.float32(1))
    used = c.any("finetuning_scaling_factor", None) not in (None, False)
    require(
        not used and bool((factor == 1).all()),
        "finetuning_scaling_factor is set, or tensor scaling_factor is not 1: fold it into the "
        "weights with the SAELens that wrote it",
    )


def _threshold(architecture: str, tensors: Tensors) -> tuple[str, np.ndarray]:
    """The name of the tensor that holds a JumpReLU's threshold, and the threshold."""
    if architecture != "jumprelu":
        require(
            "topk_threshold" in tensors,
            f"architecture {architecture!r} is a training checkpoint without a threshold: write it "
            "with SAELens' save_inference_model",
        )
        return "topk_threshold", tensors["topk_threshold"]
    if "log_threshold" in tensors:
        require("threshold" not in tensors, "it has both threshold and log_threshold")
        return "log_threshold", np.exp(tensors["log_threshold"])
    require("threshold" in tensors, "tensor threshold is missing")
    return "threshold", tensors["threshold"]


def _input_scale(config: dict[str, Any], folder: Path, given: float | None) -> float:
    """The factor of inputs; refuses a normalisation that depends on each input."""
    kind = config.get("normalize_activations") or "none"
    kind = "expected_average_only_in" if kind is True else kind  # a flag in early versions
    if kind == "none":
        require(given is None, "input_scale is given, but normalize_activations is 'none'")
        return 1.0
    require(kind == "expected_average_only_in", f"normalize_activations {shown(kind)} divides each "
            "input by its own norm or whitens it: an SAE cannot hold it; fold it with SAELens, or "
            "give normalised inputs")  # fmt: skip
    if given is not None:
        return number("input_scale", given, above=0)
    require((folder / SCALER).exists(), "inputs were scaled in training, and the folder does not "
            "say by how much: give input_scale=")  # fmt: skip
    return Fields(read_config(folder / SCALER), SCALER).number("scaling_factor", above=0)


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ToysaeError: there is no such file, or no JSON object in it.
    """
    return Fields(read_json(path), path).value


def read_safetensors(path: Path) -> Tensors:
    """All tensors of a safetensors file as float32, also those in bfloat16.

    Raises:
        ToysaeError: there is no such file, or it is not a safetensors file.
    """
    data = read_regular(path, host_bytes() // 3, "file of tensors")
    try:
        saved = dict(deserialize(data))
    except SafetensorError as error:
        raise ToysaeError(f"{path} is truncated or not a safetensors file ({error})") from error
    tensors = {}
    for name, entry in saved.items():
        kind = entry["dtype"]
        require(kind in FLOATS, f"{path}: tensor {name} is of type {kind}: weights are numbers of "
                f"type {', '.join(FLOATS)}")  # fmt: skip
        array = np.frombuffer(entry["data"], FLOATS[kind]).reshape(entry["shape"])
        with np.errstate(over="ignore"):
            tensors[name] = array.astype(np.float32)
    return tensors


def _numpy(arrays: dict[str, Any], *names: str) -> Tensors:
    return {name: np.asarray(arrays[name]) for name in names}


def _k(sae: SAE) -> dict[str, Any]:
    k = math.ceil(float(sae.hypers["k"]))
    return {"k": min(k, sae.spec.d_sae), "rescale_acts_by_decoder_norm": False}
