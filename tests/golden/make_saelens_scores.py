"""Writes the golden scores of the SAELens definitions with SAELens' own evaluation.

In a throwaway environment: pip install torch sae-lens==6.54.12; then
python tests/golden/make_saelens_scores.py. It writes, for each case, saelens_scores/NAME.npz (the
samples, the features and the SAE) and saelens_scores/expected.json (versions and what
``sae_lens.synthetic.evals.eval_sae_on_synthetic_data`` said of them).
"""

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import sae_lens
import torch
from sae_lens.synthetic.evals import eval_sae_on_synthetic_data
from sae_lens.synthetic.feature_dictionary import FeatureDictionary

FOLDER = Path(__file__).parent / "saelens_scores"
N_FEATURES, D_IN, N_SAMPLES = 20, 8, 512
CASES = {"fewer_latents": 12, "more_latents": 30}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def arrays(d_sae):
    """Superposed features and an SAE that knows some of them, none exactly: one latent is dead,
    one points away from its feature, and one feature never fires."""
    rng = np.random.default_rng(d_sae)
    directions = unit(rng.standard_normal((N_FEATURES, D_IN)))
    on = rng.random((N_SAMPLES, N_FEATURES)) < np.linspace(0.02, 0.3, N_FEATURES)
    on[:, 7], on[0] = False, False
    known = directions[rng.permutation(np.arange(d_sae) % N_FEATURES)]
    W_dec = unit(known + 0.15 * rng.standard_normal((d_sae, D_IN)))
    W_dec[1] *= -1
    b_enc = -0.3 - 0.3 * rng.random(d_sae)
    b_enc[3] = -100
    bias = rng.normal(0, 0.5, D_IN)
    made = {
        "directions": directions,
        "bias": bias,
        "feature_acts": on * rng.uniform(0.5, 1.5, on.shape),
        "W_enc": (W_dec + 0.1 * rng.standard_normal((d_sae, D_IN))).T,
        "W_dec": W_dec * rng.uniform(0.8, 1.2, (d_sae, 1)),
        "b_enc": b_enc,
        "b_dec": bias + rng.normal(0, 0.05, D_IN),
    }
    return {name: np.float32(value) for name, value in made.items()}


def theirs(made):
    """Its evaluation, and the x that it made of the feature activations."""
    tensors = {name: torch.tensor(value) for name, value in made.items()}
    features = FeatureDictionary(N_FEATURES, D_IN, initializer=None)
    features.feature_vectors.data, features.bias.data = tensors["directions"], tensors["bias"]
    d_sae = made["W_dec"].shape[0]
    kind = sae_lens.SAE.get_sae_config_class_for_architecture("standard")
    config = kind.from_dict({"architecture": "standard", "d_in": D_IN, "d_sae": d_sae})
    sae = sae_lens.SAE.get_sae_class_for_architecture("standard")(config)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        getattr(sae, name).data = tensors[name]

    class Same:
        def sample(self, n):
            assert n == N_SAMPLES
            return tensors["feature_acts"]

    result = eval_sae_on_synthetic_data(sae, features, Same(), N_SAMPLES)
    names = ("mcc", "uniqueness", "dead_latents", "shrinkage", "explained_variance")
    of = result.classification
    scores = {name: getattr(result, name) for name in names}
    scores |= {name: getattr(of, name) for name in ("precision", "recall", "accuracy")}
    scores |= {"f1": of.f1_score, "l0": result.sae_l0, "true_l0": result.true_l0}
    with torch.no_grad():
        x = features(tensors["feature_acts"]).numpy()
    return {name: float(value) for name, value in scores.items()}, x


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    packages = ("sae-lens", "torch", "numpy")
    expected = {"made_by": {name: importlib.metadata.version(name) for name in packages}}
    for name, d_sae in CASES.items():
        made = arrays(d_sae)
        expected[name], x = theirs(made)
        np.savez_compressed(FOLDER / f"{name}.npz", x=x, **made)
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
