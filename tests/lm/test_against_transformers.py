"""toysae's forward passes beside transformers' own, on models drawn afresh."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from toysae.lm import forward, load_model

GOLDEN = Path(__file__).parent / "golden"
VOCAB = 320
LLAMA = {"model_type": "llama", "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 80,
         "num_attention_heads": 6, "num_key_value_heads": 3, "rms_norm_eps": 1e-5}  # fmt: skip
NEOX = {"model_type": "gpt_neox", "hidden_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 3, "intermediate_size": 96}  # fmt: skip
CONFIGS = {
    "gpt-neox": NEOX,
    "gpt-neox-sequential": NEOX | {"use_parallel_residual": False},
    "gpt2": {"model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 64},
    "llama": LLAMA,
    "qwen2": LLAMA | {"model_type": "qwen2", "tie_word_embeddings": True},
}


@pytest.mark.peers
@pytest.mark.parametrize("case", CONFIGS)
def test_transformers_itself_computes_the_same_logits(case, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(
        **CONFIGS[case], vocab_size=VOCAB, bos_token_id=0, eos_token_id=0
    )
    theirs = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    rng = np.random.default_rng(0)
    for name, p in theirs.named_parameters():
        norm = p.ndim == 1 and name.endswith("weight")
        p.data = torch.tensor(norm + rng.normal(0, 0.1, p.shape), dtype=torch.float32)
    theirs.save_pretrained(tmp_path)  # safetensors, unless told otherwise
    shutil.copy(GOLDEN / "tokenizer.json", tmp_path)

    tokens = rng.integers(0, VOCAB, (2, 23))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    logits = forward(load_model(tmp_path), jnp.asarray(tokens, jnp.int32)).logits
    np.testing.assert_allclose(np.asarray(logits), expected, rtol=1e-4, atol=1e-4)
