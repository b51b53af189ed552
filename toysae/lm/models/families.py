"""The three families: from a Hugging Face config and its tensors to a model of ours.

Traps: NeoX keeps queries, keys and values head by head, [q | k | v]; GPT-2's matrices are [in, out]
and its files on the hub have no `transformer.` before their names; transformers 5 writes
`rope_parameters` where older versions wrote `rope_theta` and `rope_scaling`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...checked import Fields
from ...errors import ToysaeError, require
from .config import LMConfig, MLPAct, Rotary
from .forward import LM, LMWeights

Get = Callable[[str], np.ndarray]
"""Returns a tensor by its name, float32; raises a :class:`ToysaeError` if it is missing."""

_ACTS: dict[str, MLPAct] = {
    "gelu": "gelu", "gelu_new": "gelu_new", "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new", "silu": "silu", "swish": "silu", "relu": "relu",
}  # fmt: skip


def build_model(
    config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], name: str, dtype: Any
) -> LM:
    """Builds a model of any family.

    Args:
        config: as `config.json` holds it.
        tensors: by Hugging Face's names.
        name: of the model, for manifests.
        dtype: of the weights, and so of the arithmetic.

    Raises:
        ToysaeError: an unknown family, activation or rotary scaling; tensors that are missing, not
            used, or do not fit the config.
    """
    h = Fields(config, f"{name}: config.json")
    read_config, read_weights, tied = FAMILIES[h.text("model_type", choices=FAMILIES)]
    c, used = read_config(h), set()
    tied = h.flag("tie_word_embeddings", tied)
    unread = [field for field in h.unread() if field not in _HARMLESS]
    require(not unread, f"{name}: config.json has {', '.join(unread)}, of which it is not known "
            "what it changes: take it out if the model is the same without it")  # fmt: skip

    def get(tensor: str) -> np.ndarray:
        for known in (tensor, f"transformer.{tensor}", f"model.{tensor}"):
            if known in tensors:
                used.add(known)
                return tensors[known]
        raise ToysaeError(f"{name}: the weights lack tensor {tensor}")

    def has(tensor: str) -> bool:
        return any(f"{before}{tensor}" in tensors for before in ("", "transformer.", "model."))

    weights, layer_weights = read_weights(c, get, has)
    weights["blocks"] = _stacked(name, c.n_layers, layer_weights)
    require("W_U" in weights or tied, f"{name}: tie_word_embeddings is false and the weights lack "
            "the output matrix")  # fmt: skip
    same = not tied or "W_U" not in weights or np.array_equal(weights["W_U"].T, weights["W_E"])
    require(same, f"{name}: tie_word_embeddings is true, and the output matrix is not the input's: "
            "which one is meant?")  # fmt: skip
    unused = sorted(t for t in set(tensors) - used if not t.endswith(HARMLESS_TENSORS))
    require(not unused, f"{name}: {len(unused)} tensors have no place in a {c.family}, the first "
            f"of them {unused[:1]}: they are not read past")  # fmt: skip
    model = LM(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), weights), c, name)
    _check_shapes(model)
    return model


def _stacked(name: str, n_layers: int, layer_weights: Callable[[int], LMWeights]) -> LMWeights:
    """The weights of all layers with a leading layer axis, filled in one layer at a time."""
    first = layer_weights(0)
    blocks = jax.tree.map(lambda leaf: np.empty((n_layers, *leaf.shape), np.float32), first)
    for layer in range(n_layers):
        own = layer_weights(layer)
        same = jax.tree.structure(own) == jax.tree.structure(first)
        require(same, f"{name}: layer {layer} has other tensors than layer 0: is a file missing?")
        stacked_leaves = jax.tree_util.tree_leaves_with_path(blocks)
        for (path, stacked), leaf in zip(stacked_leaves, jax.tree.leaves(own), strict=True):
            require(
                leaf.shape == stacked.shape[1:],
                f"{name}: {path[-1].key} of layer {layer} has shape {list(leaf.shape)}, that of "
                f"layer 0 {list(stacked.shape[1:])}",
            )
            stacked[layer] = leaf
    return blocks


def _neox_config(h: Fields) -> LMConfig:
    d, n_heads = _size(h, "hidden_size"), _size(h, "num_attention_heads")
    rope = _rope(h, {"rope_theta": h.any("rotary_emb_base", 10_000)})
    share = rope.number("partial_rotary_factor", h.number("rotary_pct", 0.25, low=0, high=1))
    h.flag("attention_bias", True)  # seen by which tensors there are
    return LMConfig(
        family="gpt-neox", n_layers=_size(h, "num_hidden_layers"), d_model=d,
        n_heads=n_heads, n_kv_heads=n_heads, d_head=_per_head(d, n_heads),
        d_mlp=_size(h, "intermediate_size"), n_vocab=_size(h, "vocab_size"),
        n_ctx=_size(h, "max_position_embeddings"), act=_act(h, "hidden_act", "gelu"), norm="layer",
        norm_eps=_eps(h, "layer_norm_eps", 1e-5), parallel=h.flag("use_parallel_residual", True),
        rotary=_rotary(rope, int(share * _per_head(d, n_heads))),
    )  # fmt: skip


def _neox_weights(c: LMConfig, get: Get, has: Callable[[str], bool]):
    def layer(i: int) -> LMWeights:
        at = f"gpt_neox.layers.{i}."
        split = (c.n_heads, 3, c.d_head)
        qkv = get(at + "attention.query_key_value.weight").reshape(*split, c.d_model)
        own: LMWeights = {
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


def _gpt2_config(h: Fields) -> LMConfig:
    d, n_heads = _size(h, "n_embd"), _size(h, "n_head")
    for option in (
        "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"
    ):  # fmt: skip
        require(not h.flag(option, False), f"{h.where}: {option} is set: not known here")
    require(h.flag("scale_attn_weights", True), f"{h.where}: scale_attn_weights is false: not "
            "known here")  # fmt: skip
    n_inner = h.any("n_inner", None)
    h.any("n_ctx", None)
    return LMConfig(
        family="gpt2", n_layers=_size(h, "n_layer"), d_model=d, n_heads=n_heads,
        n_kv_heads=n_heads, d_head=_per_head(d, n_heads),
        d_mlp=4 * d if n_inner is None else _size(h, "n_inner"), n_vocab=_size(h, "vocab_size"),
        n_ctx=_size(h, "n_positions" if "n_positions" in h else "n_ctx"),
        act=_act(h, "activation_function", "gelu_new"), norm="layer",
        norm_eps=_eps(h, "layer_norm_epsilon", 1e-5),
    )  # fmt: skip


def _gpt2_weights(c: LMConfig, get: Get, has: Callable[[str], bool]):
    def layer(i: int) -> LMWeights:
        at = f"h.{i}."
        qkv = np.split(get(at + "attn.c_attn.weight"), 3, 1)
        bias = np.split(get(at + "attn.c_attn.bias"), 3)
        own: LMWeights = {"ln1": _norm(get, at + "ln_1"), "ln2": _norm(get, at + "ln_2")}
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


def _llama_config(h: Fields) -> LMConfig:
    d, n_heads = _size(h, "hidden_size"), _size(h, "num_attention_heads")
    d_head = _per_head(d, n_heads) if h.any("head_dim", None) is None else _size(h, "head_dim")
    n_ctx = _size(h, "max_position_embeddings")
    for name in ("layer_types", "max_window_layers"):  # which layers have a window
        h.any(name, None)
    slides, window = h.flag("use_sliding_window", True), h.any("sliding_window", None)
    if slides and window is not None:
        # Within the window attention is what it is without one.
        n_ctx = min(n_ctx, _size(h, "sliding_window"))
    for option in ("mlp_bias", "rope_interleaved"):
        require(not h.flag(option, False), f"{h.where}: {option} is set: not known here")
    h.flag("attention_bias", False)  # seen by which tensors there are
    kv = h.any("num_key_value_heads", None)
    return LMConfig(
        family="llama", n_layers=_size(h, "num_hidden_layers"), d_model=d, n_heads=n_heads,
        d_head=d_head, n_kv_heads=n_heads if kv is None else _size(h, "num_key_value_heads"),
        d_mlp=_size(h, "intermediate_size"), n_vocab=_size(h, "vocab_size"), n_ctx=n_ctx,
        act=_act(h, "hidden_act", "silu"), norm="rms", norm_eps=_eps(h, "rms_norm_eps", 1e-6),
        gated=True, rotary=_rotary(_rope(h), d_head),
    )  # fmt: skip


def _llama_weights(c: LMConfig, get: Get, has: Callable[[str], bool]):
    names = {
        "Q": "self_attn.q_proj", "K": "self_attn.k_proj", "V": "self_attn.v_proj",
        "O": "self_attn.o_proj", "gate": "mlp.gate_proj", "in": "mlp.up_proj",
        "out": "mlp.down_proj",
    }  # fmt: skip

    def layer(i: int) -> LMWeights:
        at = f"layers.{i}."
        own: LMWeights = {
            "ln1": {"w": get(at + "input_layernorm.weight")},
            "ln2": {"w": get(at + "post_attention_layernorm.weight")},
        }
        for name, theirs in names.items():
            own[f"W_{name}"] = get(f"{at}{theirs}.weight").T
            if has(f"{at}{theirs}.bias"):
                own[f"b_{name}"] = get(f"{at}{theirs}.bias")
        return own

    top: LMWeights = {"W_E": get("embed_tokens.weight"), "ln_final": {"w": get("norm.weight")}}
    if has("lm_head.weight"):
        top["W_U"] = get("lm_head.weight").T
    return top, layer


FAMILIES: dict[str, tuple[Callable, Callable, bool]] = {
    "gpt_neox": (_neox_config, _neox_weights, False),
    "gpt2": (_gpt2_config, _gpt2_weights, True),
    "llama": (_llama_config, _llama_weights, False),
    "mistral": (_llama_config, _llama_weights, False),
    "qwen2": (_llama_config, _llama_weights, False),
}
"""By `model_type` of config.json: the readers of its config and weights, and whether input and
output embeddings are the same if the config does not say. Mistral is a Llama with a sliding window,
Qwen 2 one with biases."""

_HARMLESS = frozenset({
    "_name_or_path", "architectures", "model_type", "torch_dtype", "dtype",
    "transformers_version", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id",
    "unk_token_id", "sep_token_id", "initializer_range", "attention_dropout", "hidden_dropout",
    "classifier_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "task_specific_params", "layer_norm_eps", "pretraining_tp",
    "is_llama_config", "output_attentions", "output_hidden_states", "return_dict",
    "return_dict_in_generate", "torchscript", "chunk_size_feed_forward",
    "gradient_checkpointing", "use_bfloat16", "pruned_heads", "id2label", "label2id",
    "problem_type", "finetuning_task", "tokenizer_class", "prefix", "num_labels", "is_decoder",
    "is_encoder_decoder", "cross_attention_hidden_size", "tie_encoder_decoder", "auto_map",
})  # fmt: skip
"""Fields of config.json that change nothing a model computes outside of training."""

HARMLESS_TENSORS = (
    ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias",
    "rotary_emb.inv_freq",
)  # fmt: skip
"""How names of tensors end that older versions of transformers stored: masks and wavelengths."""


def _size(h: Fields, name: str) -> int:
    return h.integer(name, low=1, high=2**31)


def _eps(h: Fields, name: str, default: float) -> float:
    return h.number(name, default, above=0, high=1)


def _per_head(d: int, n_heads: int) -> int:
    require(d % n_heads == 0, f"{d} dimensions do not divide among {n_heads} heads")
    return d // n_heads


def _act(h: Fields, name: str, default: str) -> MLPAct:
    return _ACTS[h.text(name, default, _ACTS)]


def _rope(h: Fields, default: Mapping[str, Any] | None = None) -> Fields:
    """The rotary settings, wherever this version of transformers wrote them."""
    own_theta = {"rope_theta": h.any("rope_theta")} if "rope_theta" in h else {}
    settings = {**(default or {}), **own_theta}
    for name in ("rope_scaling", "rope_parameters"):
        if h.any(name, None) is not None:
            settings |= h.object(name).value
    return Fields(settings, f"{h.where}: rope_parameters")


def _rotary(rope: Fields, dims: int) -> Rotary:
    older_name = rope.any("type", None) or "default"
    kind = rope.text("rope_type", older_name, ("default", "linear", "llama3"))
    base = rope.number("rope_theta", 10_000.0, above=0)
    require(dims >= 2, f"{rope.where}: {dims} dimensions of a head are rotated")
    factor = 1.0 if kind == "default" else rope.number("factor", above=0)
    rotary = Rotary(dims, base, factor)
    if kind == "llama3":
        low = rope.number("low_freq_factor", above=0)
        high = rope.number("high_freq_factor", above=low)
        n_ctx = rope.integer("original_max_position_embeddings", low=1)
        rotary = Rotary(dims, base, factor, "llama3", low, high, n_ctx)
    unread = [n for n in rope.unread() if n not in ("partial_rotary_factor", "factor")]
    require(not unread, f"{rope.where} has {', '.join(unread)}, of which it is not known what it "
            "changes")  # fmt: skip
    return rotary


def _norm(get: Get, name: str) -> LMWeights:
    return {"w": get(f"{name}.weight"), "b": get(f"{name}.bias")}


def _check_shapes(model: LM) -> None:
    """Compares the weights' shapes with those that the config promises."""
    c, b = model.config, model.weights["blocks"]
    heads, kv = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    expected = {
        "W_E": (model.weights["W_E"], (c.n_vocab, c.d_model)),
        "W_U": (model.W_U, (c.d_model, c.n_vocab)),
        "W_Q": (b["W_Q"], (c.n_layers, c.d_model, heads)),
        "W_K": (b["W_K"], (c.n_layers, c.d_model, kv)),
        "W_V": (b["W_V"], (c.n_layers, c.d_model, kv)),
        "W_O": (b["W_O"], (c.n_layers, heads, c.d_model)),
        "W_in": (b["W_in"], (c.n_layers, c.d_model, c.d_mlp)),
        "W_out": (b["W_out"], (c.n_layers, c.d_mlp, c.d_model)),
    }
    for name, (array, shape) in expected.items():
        require(
            array.shape == shape,
            f"{model.name}: {name} has shape {list(array.shape)}, config asks for {list(shape)}",
        )
