"""The three families: from a Hugging Face config and its tensors to ours.

Traps: NeoX keeps queries, keys and values head by head, [q | k | v]; GPT-2's matrices are [in, out]
and its files on the hub have no `transformer.` before their names; transformers 5 writes
`rope_parameters` where older versions wrote `rope_theta` and `rope_scaling`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...errors import ToysaeError, require, unknown
from .config import Act, LMConfig, Rotary
from .forward import LM, Weights

Get = Callable[[str], np.ndarray]
"""A tensor by its name, float32; a :class:`ToysaeError` names one that is missing."""

_ACTS: dict[str, Act] = {
    "gelu": "gelu", "gelu_new": "gelu_new", "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new", "silu": "silu", "swish": "silu", "relu": "relu",
}  # fmt: skip


def build(
    config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], name: str, dtype: Any
) -> LM:
    """A model of any family.

    Args:
        config: as `config.json` holds it.
        tensors: by Hugging Face's names.
        name: of the model, for manifests.
        dtype: of the weights, and so of the arithmetic.

    Raises:
        ToysaeError: a family, an activation or a rotary scaling that is not known, tensors that
            are missing or do not fit the config.
    """
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise unknown("model_type", kind, FAMILIES)
    read, weigh = FAMILIES[kind]
    try:
        c = read(config)
    except KeyError as error:
        raise ToysaeError(f"{name}: config.json has no {error}") from error

    def get(tensor: str) -> np.ndarray:
        for known in (tensor, f"transformer.{tensor}", f"model.{tensor}"):
            if known in tensors:
                return tensors[known]
        raise ToysaeError(f"{name}: the weights lack tensor {tensor}")

    def has(tensor: str) -> bool:
        return any(f"{before}{tensor}" in tensors for before in ("", "transformer.", "model."))

    weights, layers = weigh(c, get, has)
    blocks: dict[tuple[str, ...], np.ndarray] = {}
    for layer in range(c.n_layers):
        for place, array in _leaves(layers(layer)):
            stacked = blocks.setdefault(place, np.empty((c.n_layers, *array.shape), np.float32))
            require(
                array.shape == stacked.shape[1:],
                f"{name}: {place[-1]} of layer {layer} has shape {list(array.shape)}, that of "
                f"layer 0 {list(stacked.shape[1:])}",
            )
            stacked[layer] = array
    weights["blocks"] = _nested(blocks)
    model = LM(_cast(weights, dtype), c, name)
    _check(model)
    return model


def _neox_config(h: Mapping[str, Any]) -> LMConfig:
    d_head = h["hidden_size"] // h["num_attention_heads"]
    rope = {"rope_theta": h.get("rotary_emb_base", 10_000), **_rope(h)}
    share = rope.get("partial_rotary_factor", h.get("rotary_pct", 0.25))
    return LMConfig(
        family="gpt-neox", n_layers=h["num_hidden_layers"], d_model=h["hidden_size"],
        n_heads=h["num_attention_heads"], n_kv_heads=h["num_attention_heads"], d_head=d_head,
        d_mlp=h["intermediate_size"], n_vocab=h["vocab_size"], n_ctx=h["max_position_embeddings"],
        act=_act(h.get("hidden_act", "gelu")), norm="layer",
        norm_eps=h.get("layer_norm_eps", 1e-5), parallel=h.get("use_parallel_residual", True),
        rotary=_rotary(rope, int(share * d_head)),
    )  # fmt: skip


def _neox_weights(c: LMConfig, get: Get, has: Callable[[str], bool]):
    def layer(i: int) -> Weights:
        at = f"gpt_neox.layers.{i}."
        split = (c.n_heads, 3, c.d_head)
        qkv = get(at + "attention.query_key_value.weight").reshape(*split, c.d_model)
        own: Weights = {
            "ln1": _norm(get, at + "input_layernorm"),
            "ln2": _norm(get, at + "post_attention_layernorm"),
            "W_O": get(at + "attention.dense.weight").T,
            "W_in": get(at + "mlp.dense_h_to_4h.weight").T,
            "b_in": get(at + "mlp.dense_h_to_4h.bias"),
            "W_out": get(at + "mlp.dense_4h_to_h.weight").T,
            "b_out": get(at + "mlp.dense_4h_to_h.bias"),
        }
        for k, name in enumerate("QKV"):
            own[f"W_{name}"] = qkv[:, k].reshape(-1, c.d_model).T
        if has(at + "attention.query_key_value.bias"):
            bias = get(at + "attention.query_key_value.bias").reshape(split)
            own |= {f"b_{name}": bias[:, k].reshape(-1) for k, name in enumerate("QKV")}
            own["b_O"] = get(at + "attention.dense.bias")
        return own

    top = {
        "W_E": get("gpt_neox.embed_in.weight"),
        "ln_final": _norm(get, "gpt_neox.final_layer_norm"),
    }
    if has("embed_out.weight"):
        top["W_U"] = get("embed_out.weight").T
    return top, layer


def _gpt2_config(h: Mapping[str, Any]) -> LMConfig:
    d = h["n_embd"]
    for option in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        require(not h.get(option), f"{option} is set in config.json: not known here")
    return LMConfig(
        family="gpt2", n_layers=h["n_layer"], d_model=d, n_heads=h["n_head"],
        n_kv_heads=h["n_head"], d_head=d // h["n_head"], d_mlp=h.get("n_inner") or 4 * d,
        n_vocab=h["vocab_size"], n_ctx=h.get("n_positions", h.get("n_ctx", 1024)),
        act=_act(h.get("activation_function", "gelu_new")), norm="layer",
        norm_eps=h.get("layer_norm_epsilon", 1e-5),
    )  # fmt: skip


def _gpt2_weights(c: LMConfig, get: Get, has: Callable[[str], bool]):
    def layer(i: int) -> Weights:
        at = f"h.{i}."
        qkv = np.split(get(at + "attn.c_attn.weight"), 3, 1)
        bias = np.split(get(at + "attn.c_attn.bias"), 3)
        own: Weights = {"ln1": _norm(get, at + "ln_1"), "ln2": _norm(get, at + "ln_2")}
        own |= {f"W_{name}": W for name, W in zip("QKV", qkv, strict=True)}
        own |= {f"b_{name}": b for name, b in zip("QKV", bias, strict=True)}
        for name, theirs in (("O", "attn.c_proj"), ("in", "mlp.c_fc"), ("out", "mlp.c_proj")):
            own[f"W_{name}"] = get(f"{at}{theirs}.weight")
            own[f"b_{name}"] = get(f"{at}{theirs}.bias")
        return own

    top = {"W_E": get("wte.weight"), "W_pos": get("wpe.weight"), "ln_final": _norm(get, "ln_f")}
    if has("lm_head.weight"):
        top["W_U"] = get("lm_head.weight").T
    return top, layer


def _llama_config(h: Mapping[str, Any]) -> LMConfig:
    d_head = h.get("head_dim") or h["hidden_size"] // h["num_attention_heads"]
    window, n_ctx = h.get("sliding_window"), h["max_position_embeddings"]
    if window and h.get("use_sliding_window", True):
        n_ctx = min(n_ctx, window)  # within the window attention is what it is without one
    return LMConfig(
        family="llama", n_layers=h["num_hidden_layers"], d_model=h["hidden_size"],
        n_heads=h["num_attention_heads"], d_head=d_head,
        n_kv_heads=h.get("num_key_value_heads") or h["num_attention_heads"],
        d_mlp=h["intermediate_size"], n_vocab=h["vocab_size"], n_ctx=n_ctx,
        act=_act(h.get("hidden_act", "silu")), norm="rms", norm_eps=h.get("rms_norm_eps", 1e-6),
        gated=True, rotary=_rotary(_rope(h), d_head),
    )  # fmt: skip


def _llama_weights(c: LMConfig, get: Get, has: Callable[[str], bool]):
    names = {
        "Q": "self_attn.q_proj", "K": "self_attn.k_proj", "V": "self_attn.v_proj",
        "O": "self_attn.o_proj", "gate": "mlp.gate_proj", "in": "mlp.up_proj",
        "out": "mlp.down_proj",
    }  # fmt: skip

    def layer(i: int) -> Weights:
        at = f"layers.{i}."
        own: Weights = {
            "ln1": {"w": get(at + "input_layernorm.weight")},
            "ln2": {"w": get(at + "post_attention_layernorm.weight")},
        }
        for name, theirs in names.items():
            own[f"W_{name}"] = get(f"{at}{theirs}.weight").T
            if has(f"{at}{theirs}.bias"):
                own[f"b_{name}"] = get(f"{at}{theirs}.bias")
        return own

    top: Weights = {"W_E": get("embed_tokens.weight"), "ln_final": {"w": get("norm.weight")}}
    if has("lm_head.weight"):
        top["W_U"] = get("lm_head.weight").T
    return top, layer


FAMILIES: dict[str, tuple[Callable, Callable]] = {
    "gpt_neox": (_neox_config, _neox_weights),
    "gpt2": (_gpt2_config, _gpt2_weights),
    "llama": (_llama_config, _llama_weights),
    "mistral": (_llama_config, _llama_weights),
    "qwen2": (_llama_config, _llama_weights),
}
"""By `model_type` of config.json. Mistral and Qwen 2 are Llama's, with a sliding window and with
biases."""


def _act(name: str) -> Act:
    if name not in _ACTS:
        raise unknown("hidden_act", name, _ACTS)
    return _ACTS[name]


def _rope(h: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings, wherever this version of transformers wrote them."""
    old = {"rope_theta": h["rope_theta"]} if "rope_theta" in h else {}
    return {**old, **(h.get("rope_scaling") or {}), **(h.get("rope_parameters") or {})}


def _rotary(rope: Mapping[str, Any], dims: int) -> Rotary:
    kind = rope.get("rope_type", rope.get("type", "default"))
    base, factor = float(rope.get("rope_theta", 10_000)), float(rope.get("factor", 1))
    if kind == "default":
        return Rotary(dims, base)
    if kind == "linear":
        return Rotary(dims, base, factor)
    if kind == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        n_ctx = int(rope["original_max_position_embeddings"])
        return Rotary(dims, base, factor, "llama3", low, high, n_ctx)
    raise unknown("rope_type", str(kind), ("default", "linear", "llama3"))


def _norm(get: Get, name: str) -> Weights:
    return {"w": get(f"{name}.weight"), "b": get(f"{name}.bias")}


def _leaves(tree: Weights) -> list[tuple[tuple[str, ...], np.ndarray]]:
    found = []
    for name, value in tree.items():
        inner = value.items() if isinstance(value, dict) else ()
        found += [((name, k), v) for k, v in inner] if inner else [((name,), value)]
    return found


def _nested(flat: dict[tuple[str, ...], np.ndarray]) -> Weights:
    tree: Weights = {}
    for (*above, last), value in flat.items():
        place = tree
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
    return tree


def _cast(value: Any, dtype: Any) -> Any:
    if isinstance(value, dict):
        return {name: _cast(inner, dtype) for name, inner in value.items()}
    return jnp.asarray(value, dtype)


def _check(model: LM) -> None:
    """The shapes that the config promises."""
    c, b = model.config, model.weights["blocks"]
    heads, kv = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    wanted = {
        "W_E": (model.weights["W_E"], (c.n_vocab, c.d_model)),
        "W_U": (model.W_U, (c.d_model, c.n_vocab)),
        "W_Q": (b["W_Q"], (c.n_layers, c.d_model, heads)),
        "W_K": (b["W_K"], (c.n_layers, c.d_model, kv)),
        "W_V": (b["W_V"], (c.n_layers, c.d_model, kv)),
        "W_O": (b["W_O"], (c.n_layers, heads, c.d_model)),
        "W_in": (b["W_in"], (c.n_layers, c.d_model, c.d_mlp)),
        "W_out": (b["W_out"], (c.n_layers, c.d_mlp, c.d_model)),
    }
    for name, (array, shape) in wanted.items():
        require(
            array.shape == shape,
            f"{model.name}: {name} has shape {list(array.shape)}, config asks for {list(shape)}",
        )
