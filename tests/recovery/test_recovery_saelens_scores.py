"""SAELens' definitions: against NumPy, a case worked by hand, and SAELens itself."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from toysae import make_spec, make_world, train
from toysae.evaluation.score import score_sae
from toysae.interop import to_saelens
from toysae.keys import named_key, seed_key
from toysae.recovery import (
    Records,
    add_batch,
    add_detections,
    add_ratio,
    cosines,
    empty_ratio,
    empty_totals,
    match,
    measure,
    no_detections,
    saelens_scores,
    summarise,
)
from toysae.sae import SAE
from toysae.sae.component import Weights
from toysae.worlds import Batch, sample

DETECTION = ("precision", "recall", "f1", "accuracy")


def scores_of(cos, acts, z, x, x_hat):
    """The scores of one batch with the given signed cosines."""
    acts, z, x, x_hat = (jnp.asarray(a, jnp.float32) for a in (acts, z, x, x_hat))
    matched = match(np.float32(cos))
    indices = jnp.broadcast_to(jnp.arange(acts.shape[1], dtype=jnp.int32), acts.shape)
    batch = Batch(x, indices, acts, acts.shape[1], in_order=True)
    seen = jax.jit(add_detections)(no_detections(matched), batch, z)
    totals = jax.jit(add_batch)(empty_totals(x.shape[1], z.shape[1]), x, x_hat, z)
    freq = summarise(totals)["firing_freq"]
    records = measure(matched, seen, freq, np.ones(z.shape[1]))
    return saelens_scores(records, totals, add_ratio(empty_ratio(), x, x_hat)), records


def test_a_case_worked_by_hand():
    # Latents: one right, one its opposite (|cos| matches it), one dead, one on a feature never on.
    cos = [[0.9, -1.0, 0.1, 0.0], [0.2, 0.0, 0.8, 0.3], [0.0, 0.1, 0.0, 0.7]]
    acts = [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]]
    z = [[2, -1, 0, 0], [0, -1, 0, 1], [0, -1, 0, 0], [0, 0, 0, 0]]
    x = [[3, 4], [1e-7, 0], [0, 2], [0, 0]]  # two inputs too short for a shrinkage
    scores, records = scores_of(cos, acts, z, x, [[0, 4], [5, 5], [0, 1], [7, 0]])
    expected = {
        "saelens_mcc": (1.0 + 0.8 + 0.7) / 3,
        "saelens_uniqueness": 3 / 4,
        "saelens_precision": (1 + 2 / 3 + 0 + 0) / 4,
        "saelens_recall": (1 / 2 + 1 + 0 + 0) / 4,
        "saelens_f1": (2 / 3 + 4 / 5 + 0 + 0) / 4,
        "saelens_accuracy": (3 / 4 + 3 / 4 + 1 / 2 + 3 / 4) / 4,
        "saelens_dead_latents": 1,
        "saelens_shrinkage": (4 / 5 + 1 / 2) / 2,
    }
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-6), name
    error = 9 + 50 + 1 + 49
    variance = (25 + 4) / 4 - (3 / 4) ** 2 - (6 / 4) ** 2
    assert scores["saelens_explained_variance"] == pytest.approx(1 - error / 4 / variance)
    # Ours are signed and leave out what is dead or undefined.
    assert records.latents["f1"].isna().sum() == 0 and records.latents["precision"].isna()[2]
    assert records.features["best_latent"].tolist() == [0, 2, 3]


@pytest.mark.parametrize(("n_features", "d_sae"), [(7, 11), (11, 7)])
def test_random_samples_equal_numpy(n_features, d_sae):
    rng = np.random.default_rng(d_sae)
    cos = rng.uniform(-1, 1, (n_features, d_sae))
    acts = rng.random((400, n_features)) * (rng.random((400, n_features)) < 0.2)
    z = rng.standard_normal((400, d_sae)) * (rng.random((400, d_sae)) < 0.3)
    z[:, 2], acts[:, 3] = 0, 0
    x = rng.standard_normal((400, 4)) + 1
    x_hat = 0.7 * x + 0.1 * rng.standard_normal((400, 4))
    scores, _ = scores_of(cos, acts, z, x, x_hat)
    best = np.abs(cos).argmax(0)
    each = []
    for j, g in enumerate(best):
        on, fires = acts[:, g] > 0, z[:, j] != 0
        p = (on & fires).sum() / max(fires.sum(), 1)
        r = (on & fires).sum() / max(on.sum(), 1)
        each.append((p, r, 2 * p * r / (p + r) if p + r else 0, (on == fires).mean()))
    for name, value in zip(DETECTION, np.mean(each, 0), strict=True):
        assert scores[f"saelens_{name}"] == pytest.approx(value, rel=1e-6), name
    pairs = linear_sum_assignment(1 - np.abs(cos))
    assert scores["saelens_mcc"] == pytest.approx(np.abs(cos)[pairs].mean(), rel=1e-6)
    assert scores["saelens_uniqueness"] == len(set(best)) / d_sae
    norms = np.linalg.norm(x_hat, axis=1) / np.linalg.norm(x, axis=1)
    assert scores["saelens_shrinkage"] == pytest.approx(norms.mean(), rel=1e-5)


@pytest.mark.parametrize(("x_hat", "ev"), [(2.0, 1.0), (1.0, 0.0)])
def test_an_input_that_never_varies(x_hat, ev):
    x = np.full((8, 2), 2.0)
    scores, _ = scores_of(np.eye(2), np.ones((8, 2)), np.ones((8, 2)), x, np.full((8, 2), x_hat))
    assert scores["saelens_explained_variance"] == ev
    scores, _ = scores_of(np.eye(2), np.ones((8, 2)), np.ones((8, 2)), 0 * x, x)
    assert scores["saelens_shrinkage"] == 0


def test_detection_is_nan_where_what_fires_is_not_the_truth():
    matched = match(np.eye(3, dtype=np.float32))
    records = measure(matched, None, np.array([0.0, 0.5, 0.5]), np.ones(3))
    assert isinstance(records, Records)
    x = jnp.eye(3)
    totals = add_batch(empty_totals(3, 3), x, x, x)
    scores = saelens_scores(records, totals, add_ratio(empty_ratio(), x, x))
    assert all(np.isnan(scores[f"saelens_{name}"]) for name in DETECTION)
    assert scores["saelens_mcc"] == scores["saelens_uniqueness"] == 1
    assert scores["saelens_dead_latents"] == 1


GOLDEN = Path(__file__).parents[1] / "golden" / "saelens_scores"


@pytest.mark.parametrize("case", ["fewer_latents", "more_latents"])
def test_scores_are_those_that_saelens_gave(case):
    """Committed numbers of SAELens' own evaluation; see golden/make_saelens_scores.py."""
    arrays = np.load(GOLDEN / f"{case}.npz")
    theirs = json.loads((GOLDEN / "expected.json").read_text())[case]
    W_dec = jnp.asarray(arrays["W_dec"])
    weights = Weights(
        W_dec,
        jnp.asarray(arrays["b_dec"]),
        {name: jnp.asarray(arrays[name]) for name in ("W_enc", "b_enc")},
    )
    spec = make_spec("untied", *W_dec.shape[::-1]).at_inference()
    f = SAE(weights, {"progress": jnp.float32(1)}, {}, spec)(jnp.asarray(arrays["x"]))
    cos = cosines(jnp.asarray(arrays["directions"]), W_dec)
    scores, _ = scores_of(cos, arrays["feature_acts"], f.z, f.x, f.x_hat)
    for name in (*DETECTION, "mcc", "uniqueness", "dead_latents", "shrinkage"):
        assert scores[f"saelens_{name}"] == pytest.approx(theirs[name], rel=1e-5), name
    ev = theirs["explained_variance"]
    assert scores["saelens_explained_variance"] == pytest.approx(ev, rel=1e-5)
    assert float((f.z != 0).sum(1).mean()) == theirs["l0"]
    assert (arrays["feature_acts"] != 0).sum(1).mean() == theirs["true_l0"]
    assert theirs["dead_latents"] >= 1 and (arrays["feature_acts"] == 0).all(0)[7]


@pytest.mark.peers
@pytest.mark.parametrize("d_sae", [12, 30])
def test_saelens_itself_scores_the_same(d_sae, tmp_path):
    torch = pytest.importorskip("torch")
    sae_lens = pytest.importorskip("sae_lens")
    evals = pytest.importorskip("sae_lens.synthetic.evals")
    from sae_lens.synthetic.feature_dictionary import FeatureDictionary

    n = 4096
    world = make_world("sphere", 0, d_in=8, n_features=20, l0=2.0, bias=0.5)
    key = named_key(seed_key(3, "data"), "evaluation")
    batches = [sample(world, jax.random.fold_in(key, i), 1024) for i in range(n // 1024)]
    acts = torch.tensor(np.concatenate([batch.feature_acts for batch in batches]))
    sae = train(world, "untied", d_sae=d_sae, l1_coeff=0.2, n_steps=300, batch_size=128,
                curve_points=2, quiet=True).sae(0)  # fmt: skip

    dictionary = FeatureDictionary(20, 8, initializer=None)
    dictionary.feature_vectors.data = torch.tensor(np.asarray(world.directions))
    dictionary.bias.data = torch.tensor(np.asarray(world.bias))

    class Same:
        def sample(self, n):
            assert n == len(acts)
            return acts

    theirs = evals.eval_sae_on_synthetic_data(
        sae_lens.SAE.load_from_disk(to_saelens(sae, tmp_path)), dictionary, Same(), n
    )
    ours = score_sae(sae, world, n, seed=3).table.iloc[0]
    assert ours["l0"] == pytest.approx(theirs.sae_l0, rel=1e-6)
    assert ours["true_l0"] == pytest.approx(theirs.true_l0, rel=1e-6)
    for name in ("mcc", "uniqueness", "dead_latents", "shrinkage", "explained_variance"):
        expected = getattr(theirs, name)
        assert ours[f"saelens_{name}"] == pytest.approx(expected, rel=1e-5), name
    for name in DETECTION:
        expected = getattr(theirs.classification, "f1_score" if name == "f1" else name)
        assert ours[f"saelens_{name}"] == pytest.approx(expected, rel=1e-5), name
