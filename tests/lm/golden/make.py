"""Writes the tiny language models of tests/lm, and what transformers itself computes with them.

In a throwaway environment of Python 3.11.7: pip install torch==2.13.0 transformers==5.23.0
tokenizers==0.23.3 safetensors==0.8.0 gguf==0.19.0; then python tests/lm/golden/make.py.
The same versions give the same bytes.

golden.safetensors holds `tokens` [3, 17], `logits`, `loss` (nats, for each next token) and, for
layers 0 and 2 and the first sequence alone, activations by TransformerLens's names (hook_z with
its heads flattened). They were computed in float64, but for what transformers always rounds to
float32: rotary tables, and in Llama and Qwen2 also RMSNorm and the softmax of attention.
"""

import argparse
import ast
import json
import textwrap
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent
VOCAB, EOT = 320, "<|endoftext|>"
SAVED_LAYERS = (0, 2)
IDS = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0}
NEOX = IDS | dict(
    model_type="gpt_neox", hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
    intermediate_size=64, max_position_embeddings=64, rotary_pct=0.25, hidden_act="gelu",
    tie_word_embeddings=False, use_parallel_residual=True,
)  # fmt: skip
LLAMA = IDS | dict(
    model_type="llama", hidden_size=48, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, intermediate_size=64, max_position_embeddings=64,
    rms_norm_eps=1e-5, rope_theta=1e5, tie_word_embeddings=True,
)  # fmt: skip
SMALL = dict(num_attention_heads=4, num_key_value_heads=2, intermediate_size=32)
# With these numbers some frequencies are kept, some blended and some divided by the factor.
LLAMA3_ROPE = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)  # fmt: skip
MODELS = {
    "gpt-neox": NEOX,
    "gpt-neox-sequential": NEOX | dict(use_parallel_residual=False, rotary_pct=0.5),
    "gpt2": IDS | dict(model_type="gpt2", n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "llama": LLAMA,
    "llama3": LLAMA | SMALL | dict(
        hidden_size=20, head_dim=16, rope_theta=2e4, rope_scaling=LLAMA3_ROPE,
        attention_bias=False, tie_word_embeddings=False,
    ),
    "qwen2": LLAMA | SMALL | dict(model_type="qwen2", hidden_size=24, rope_theta=1e6),
    "llama-gguf": LLAMA | SMALL | dict(hidden_size=64, intermediate_size=96),
}  # fmt: skip
# Of every family: its blocks; in a block, what writes attention and MLP out, and the second norm.
PARTS = {
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "mlp.dense_4h_to_h",
                 "post_attention_layernorm"),
    "gpt2": ("transformer.h", "attn.c_proj", "mlp.c_proj", "ln_2"),
    "llama": ("model.layers", "self_attn.o_proj", "mlp.down_proj", "post_attention_layernorm"),
}  # fmt: skip
PARTS["qwen2"] = PARTS["llama"]
GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def train_tokenizer():
    """Byte-level BPE on the docstrings of some modules of the standard library."""
    texts = []
    for module in (argparse, ast, textwrap):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                texts.append(ast.get_docstring(node) or "")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[EOT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == VOCAB and tokenizer.token_to_id(EOT) == 0
    return tokenizer


def random_model(config, rng):
    """No parameter zero or one; on a grid of 1/4096, so that git packs them to half."""
    config = AutoConfig.for_model(**config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, p in model.named_parameters():
        norm = p.ndim == 1 and name.endswith("weight")
        draw = np.round(4096 * (norm + rng.normal(0, 0.2, p.shape))) / 4096
        p.data = torch.tensor(draw, dtype=torch.float32)
    model.tie_weights()
    return model


def save_hf(folder, model):
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    if model.config.model_type == "gpt2":  # as on the hub: no prefix, and causal masks as "bias"
        path = folder / "model.safetensors"
        state = {n.removeprefix("transformer."): a for n, a in load_file(path).items()}
        mask = torch.ones(model.config.n_positions, model.config.n_positions).tril()[None, None]
        masks = {f"h.{i}.attn.bias": mask.clone() for i in range(model.config.n_layer)}
        save_file(state | masks, path, metadata={"format": "pt"})


def permute(weight, n_head):
    """Rotary pairs (i, i + d/2) of a head become neighbours, as llama.cpp's converter has them."""
    return weight.reshape(n_head, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def unpermute(weight, n_head):
    return weight.reshape(n_head, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def save_gguf(folder, model, tokenizer):
    """Writes model.gguf; the model's matrices become what Q8_0 left of them."""
    c, writer = model.config, gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_name("tiny llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_vocab_size(c.vocab_size)

    tokens = [tokenizer.id_to_token(i) for i in range(VOCAB)]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if t == EOT else kinds.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)

    heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}
    q8 = gguf.GGMLQuantizationType.Q8_0
    for hf_name, p in model.named_parameters():
        name, weight = hf_name, p.data.numpy()
        for theirs, ours in GGUF_NAMES.items():
            name = name.replace(f"{theirs}.", f"{ours}.")
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
            continue
        n_head = heads.get(hf_name.split(".")[-2])
        quantised = gguf.quants.quantize(permute(weight, n_head) if n_head else weight, q8)
        writer.add_tensor(name, quantised, raw_dtype=q8)
        kept = gguf.quants.dequantize(quantised, q8)
        p.data = torch.tensor(unpermute(kept, n_head) if n_head else kept)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def golden(model, tokens):
    blocks, attn_out, mlp_out, norm = PARTS[model.config.model_type]
    parallel = getattr(model.config, "use_parallel_residual", False)
    model, sites = model.double(), {}

    def record(module, before=None, after=None):
        def hook(_, args, output):
            seen = {before: args[0], after: output}
            sites.update({name: x[:1] for name, x in seen.items() if name})

        module.register_forward_hook(hook)

    for i in SAVED_LAYERS:
        block, at = model.get_submodule(blocks)[i], f"blocks.{i}"
        record(block, f"{at}.hook_resid_pre", f"{at}.hook_resid_post")
        record(block.get_submodule(attn_out), f"{at}.attn.hook_z", f"{at}.hook_attn_out")
        record(block.get_submodule(mlp_out), f"{at}.mlp.hook_post", f"{at}.hook_mlp_out")
        if not parallel:
            record(block.get_submodule(norm), f"{at}.hook_resid_mid")
    logits = model(tokens, use_cache=False).logits
    each = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    arrays = sites | {"logits": logits, "loss": each.reshape(len(tokens), -1)}
    floats = {name: x.float().contiguous() for name, x in arrays.items()}
    return {"tokens": tokens.int(), **floats}


def main():
    tokenizer = train_tokenizer()
    tokenizer.save(str(HERE / "tokenizer.json"), pretty=False)
    for seed, (name, config) in enumerate(MODELS.items()):
        folder, rng = HERE / name, np.random.default_rng(seed)
        folder.mkdir(exist_ok=True)
        model = random_model(config, rng)
        tokens = torch.tensor(rng.integers(0, VOCAB, (3, 17)))
        if name == "llama-gguf":  # a single file: configuration and tokenizer are in it
            save_gguf(folder, model, tokenizer)
        else:
            save_hf(folder, model)
            tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        save_file(golden(model, tokens), folder / "golden.safetensors")


if __name__ == "__main__":
    main()
