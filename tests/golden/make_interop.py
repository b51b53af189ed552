"""Writes the golden folders of the interop tests with the libraries themselves.

In a throwaway environment: pip install torch sae-lens==6.54.12, then without dependencies
dictionary-learning==0.1.0 and eai-sparsify==1.3.3; then python tests/golden/make_interop.py.
"""

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
D_IN, D_SAE = 6, 12


def fill(module, seed=0):
    """Parameters that no code path can hide behind: nothing zero, nothing tied."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator) * (0.5 if p.ndim == 2 else 0.2)
        p.data = (noise.abs() if name == "threshold" else noise).to(p.dtype)
    return module


def inputs():
    return torch.randn((16, D_IN), generator=torch.Generator().manual_seed(1))


def expect(folder, x, z, x_hat):
    arrays = {"x": x, "z": z, "x_hat": x_hat}
    np.savez(folder / "expected.npz", **{n: a.detach().float().numpy() for n, a in arrays.items()})


def saelens():
    from sae_lens import SAE

    cases = {
        "standard": {"architecture": "standard"},
        "standard_post": {"architecture": "standard", "apply_b_dec_to_input": False},
        "standard_bf16": {"architecture": "standard", "dtype": "bfloat16"},
        "topk": {"architecture": "topk", "k": 3},
        "topk_rescaled": {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True},
        "abstopk": {"architecture": "abstopk", "k": 3},
        "jumprelu": {"architecture": "jumprelu"},
        "gated": {"architecture": "gated"},
    }
    for name, own in cases.items():
        metadata = {"model_name": "toy", "hook_name": "blocks.0.hook_resid_post"}
        config = {"d_in": D_IN, "d_sae": D_SAE, "metadata": metadata, **own}
        kind = SAE.get_sae_config_class_for_architecture(own["architecture"])
        sae = SAE.get_sae_class_for_architecture(own["architecture"])(kind.from_dict(config))
        sae = fill(sae)
        folder = HERE / "saelens" / name
        sae.save_model(folder)
        exact = sae.to(torch.float32)  # bfloat16 is a format of the file here, not of the sums
        x = inputs()
        z = exact.encode(x)
        expect(folder, x, z, exact.decode(z))


def package(name):
    """A package whose __init__, which would import a whole language model stack, does not run."""
    spec = importlib.util.find_spec(name)
    stub = types.ModuleType(name)
    stub.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = stub


def dictionary_learning():
    package("dictionary_learning")
    package("dictionary_learning.trainers")
    basic = importlib.import_module("dictionary_learning.dictionary")
    top = importlib.import_module("dictionary_learning.trainers.top_k")
    batch = importlib.import_module("dictionary_learning.trainers.batch_top_k")
    nested = importlib.import_module("dictionary_learning.trainers.matryoshka_batch_top_k")
    made = {
        "AutoEncoder": basic.AutoEncoder(D_IN, D_SAE),
        "AutoEncoderNew": basic.AutoEncoderNew(D_IN, D_SAE),
        "GatedAutoEncoder": basic.GatedAutoEncoder(D_IN, D_SAE),
        "JumpReluAutoEncoder": basic.JumpReluAutoEncoder(D_IN, D_SAE),
        "AutoEncoderTopK": top.AutoEncoderTopK(D_IN, D_SAE, 3),
        "BatchTopKSAE": batch.BatchTopKSAE(D_IN, D_SAE, 3),
        "MatryoshkaBatchTopKSAE": nested.MatryoshkaBatchTopKSAE(D_IN, D_SAE, 3, [4, 8]),
    }
    for name, ae in made.items():
        fill(ae)
        if "BatchTopK" in name:
            ae.threshold = torch.tensor(0.3)
        folder = HERE / "dictionary_learning" / name
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(ae.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D_IN, "dict_size": D_SAE, "k": 3}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
        x = inputs()
        z = ae.encode(x)
        z = z[0] if isinstance(z, tuple) else z
        expect(folder, x, z, ae.decode(z))


def sparsify():
    package("sparsify")
    coder = importlib.import_module("sparsify.sparse_coder")
    config = importlib.import_module("sparsify.config")
    cfg = config.SparseCoderConfig(num_latents=D_SAE, k=3)
    sae = fill(coder.SparseCoder(D_IN, cfg))
    folder = HERE / "sparsify" / "layers.0"
    sae.save_to_disk(folder)
    x = inputs()
    encoded = sae.encode(x)
    z = torch.zeros(len(x), D_SAE).scatter_(1, encoded.top_indices, encoded.top_acts)
    expect(folder, x, z, sae.decode(encoded.top_acts, encoded.top_indices))


if __name__ == "__main__":
    saelens()
    dictionary_learning()
    sparsify()
