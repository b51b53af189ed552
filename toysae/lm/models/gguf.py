"""llama.cpp's file format: weights (dequantised), config and tokenizer of Llama-type models.

llama.cpp's converter reorders the rows of queries and keys: it pairs neighbours where Hugging Face
pairs halves. That is undone here.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ...errors import ToysaeError, require, unknown
from .gguf_sizes import check_gguf
from .tokenizer import Tokenizer, need, with_end

_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
_TOP = {
    "token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
}  # fmt: skip


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads a GGUF file as Hugging Face's config and tensors, in float32.

    Raises:
        ToysaeError: not a GGUF file, a damaged one, or one of another architecture than Llama.
    """
    gguf, reader = need("gguf"), _reader(path)
    kind = str(_field(reader, "general.architecture"))
    require(kind == "llama", f"{path} is of architecture {kind!r}: only 'llama' is read from GGUF; "
            "give the model's folder of safetensors")  # fmt: skip
    heads = int(_field(reader, "llama.attention.head_count"))
    kv_heads = int(_field(reader, "llama.attention.head_count_kv", heads))
    tensors = {}
    for tensor in reader.tensors:
        array = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = _hf_name(tensor.name)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = _halves(array, heads if ".q_proj" in name else kv_heads)
        tensors[name] = array
    config = {
        "model_type": "llama",
        "num_hidden_layers": int(_field(reader, "llama.block_count")),
        "hidden_size": int(_field(reader, "llama.embedding_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": int(_field(reader, "llama.feed_forward_length")),
        "vocab_size": len(tensors["embed_tokens.weight"]),
        "max_position_embeddings": int(_field(reader, "llama.context_length")),
        "rms_norm_eps": float(_field(reader, "llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": float(_field(reader, "llama.rope.freq_base", 10_000.0)),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }
    scaling = str(_field(reader, "llama.rope.scaling.type", "none"))
    scaled = scaling != "none" or "rope_freqs.weight" in tensors
    require(not scaled, f"{path} scales its rotary embedding ({scaling}): give the model's folder "
            "of safetensors")  # fmt: skip
    return config, tensors


def gguf_tokenizer(path: Path) -> Tokenizer:
    """Reads the byte-level BPE tokenizer inside a GGUF file.

    Raises:
        ToysaeError: another kind of tokenizer.
    """
    lib, reader = need("tokenizers"), _reader(path)
    kind = str(_field(reader, "tokenizer.ggml.model"))
    require(kind == "gpt2", f"{path} holds a tokenizer of kind {kind!r}: only byte-level BPE "
            "('gpt2') is read from GGUF; give a folder with tokenizer.json")  # fmt: skip
    pre, byte_level = lib.pre_tokenizers, lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
    before = {
        "gpt-2": byte_level,
        "smollm": pre.Sequence([pre.Digits(individual_digits=True), byte_level]),
    }
    splits = str(_field(reader, "tokenizer.ggml.pre", "gpt-2"))
    if splits not in before:
        raise unknown("tokenizer.ggml.pre", splits, before)
    tokens = _strings(reader, "tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ", 1)) for pair in _strings(reader, "tokenizer.ggml.merges")]
    vocab = {token: i for i, token in enumerate(tokens)}
    inner = lib.Tokenizer(lib.models.BPE(vocab, merges, ignore_merges=False))
    inner.pre_tokenizer, inner.decoder = before[splits], lib.decoders.ByteLevel()
    types = np.asarray(reader.fields["tokenizer.ggml.token_type"].contents())
    inner.add_special_tokens([tokens[i] for i in np.flatnonzero(types == _CONTROL)])
    return with_end(inner)


_CONTROL = 3  # llama.cpp's token type of special tokens


def _reader(path: Path) -> Any:
    check_gguf(path)
    try:
        return need("gguf").GGUFReader(path)
    except Exception as error:  # it raises many kinds
        if isinstance(error, ToysaeError):
            raise
        raise ToysaeError(f"{path} is truncated or not a GGUF file ({error})") from error


def _field(reader: Any, name: str, default: Any = None) -> Any:
    if name not in reader.fields:
        require(
            default is not None, f"the GGUF file lacks {name}: it is damaged or of another kind"
        )
        return default
    return reader.fields[name].contents()


def _strings(reader: Any, name: str) -> list[str]:
    require(name in reader.fields, f"the GGUF file lacks {name}: give a folder with tokenizer.json")
    field = reader.fields[name]
    return [bytes(field.parts[i]).decode("utf-8") for i in field.data]


def _hf_name(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    if not name.startswith("blk."):
        return name
    _, layer, part, end = name.split(".")
    require(part in _NAMES, f"tensor {name} is not one of a Llama-type model")
    return f"layers.{layer}.{_NAMES[part]}.{end}"


def _halves(W: Float[np.ndarray, "out d"], n_heads: int) -> Float[np.ndarray, "out d"]:
    """The rows in Hugging Face's order: first the even rows of each head, then the odd ones."""
    return W.reshape(n_heads, -1, 2, W.shape[1]).swapaxes(1, 2).reshape(W.shape)
