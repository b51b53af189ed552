"""SAELens folders: golden ones that SAELens 6.54 wrote, and ours out and back."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from toysae import ToysaeError
from toysae.interop import from_saelens, to_saelens
from toysae.interop.linear import build_sae
from toysae.sae import SAE, InitData, finished, init_params, init_stats, make_spec
from toysae.sae.activations import BatchTopK, TopK
from toysae.sae.decoders import Normalised, UnitNorm
from toysae.sae.encoders import TiedGain
from toysae.sae.jumprelu import JumpReLU
from toysae.sae.penalties import Sum

GOLDEN = Path(__file__).parents[1] / "golden" / "saelens"
CASES = sorted(folder.name for folder in GOLDEN.iterdir())
D, S = 6, 10


def make_sae(recipe="untied", *, k=3.0, d_sae=S, **axes) -> SAE:
    """A random SAE with no parameter at zero."""
    rng = np.random.default_rng(0)
    spec = make_spec(recipe, D, d_sae, **axes)
    x, truth = rng.normal(size=(64, D)), rng.normal(size=(12, D))
    data = InitData(*(jnp.asarray(a, jnp.float32) for a in (x, truth.T, truth)))
    h = {n: jnp.float32(hyper.default or 0.2) for n, hyper in spec.hypers().items()}
    h |= {"k": jnp.float32(k)} if "k" in h else {}
    params = init_params(spec, jax.random.key(0), data, h)
    params = jax.tree.map(lambda a: a + 0.3 * rng.normal(size=a.shape).astype(np.float32), params)
    run = init_stats(spec)
    run |= {"threshold": jnp.array([0.15, 0.5])} if "threshold" in run else {}
    return finished(spec, params, run, h)


def inputs(n=200):
    return jnp.asarray(np.random.default_rng(5).normal(size=(n, D)), jnp.float32)


EXPORTED = {
    "tied": {"recipe": "tied"},
    "untied": {"recipe": "untied"},
    "anthropic-april-2024": {"recipe": "anthropic-april-2024"},
    "post": {"decoder": UnitNorm("post")},
    "none": {"decoder": Normalised("none")},
    "orthogonal": {"recipe": "held-orthogonal-tied", "d_sae": 5},
    "gain": {"encoder": TiedGain()},
    "topk": {"recipe": "topk"},
    "fractional": {"activation": TopK(), "penalty": Sum(), "k": 2.5},
    "batchtopk": {"recipe": "batchtopk", "k": 2.5},
    "gated": {"recipe": "gated"},
    "jumprelu": {"activation": JumpReLU(), "penalty": Sum()},
}


@pytest.mark.parametrize("case", EXPORTED)
def test_out_and_back_is_the_same_function(case, tmp_path):
    sae = make_sae(**EXPORTED[case])
    again = from_saelens(to_saelens(sae, tmp_path / "sae"))
    x = inputs()
    ours, theirs = sae(x), again(x)
    np.testing.assert_allclose(theirs.z, ours.z, atol=2e-6)
    np.testing.assert_allclose(theirs.x_hat, ours.x_hat, atol=5e-6)
    np.testing.assert_array_equal(np.asarray(theirs.z) != 0, np.asarray(ours.z) != 0)
    assert 0 < (np.asarray(ours.z) != 0).mean() < 1
    # A second round changes no bit.
    once = {f: (tmp_path / "sae" / f).read_bytes() for f in ("cfg.json",)}
    tensors = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    to_saelens(again, tmp_path / "twice")
    for name, array in load_file(tmp_path / "twice" / "sae_weights.safetensors").items():
        np.testing.assert_array_equal(array, tensors[name])
    folded = case in ("none", "tied", "orthogonal")  # no bias is one of zero, after the decoder
    if not folded:
        assert (tmp_path / "twice" / "cfg.json").read_bytes() == once["cfg.json"]


def test_an_exported_folder_can_be_read_by_whoever_reads_other_files(tmp_path):
    folder = to_saelens(make_sae(), tmp_path / "sae")
    (tmp_path / "plain").touch()
    modes = {file.stat().st_mode for file in (*folder.iterdir(), tmp_path / "plain")}
    assert len(modes) == 1


@pytest.mark.parametrize("case", CASES)
def test_golden_folders_reconstruct_as_saelens_does(case):
    expected = np.load(GOLDEN / case / "expected.npz")
    f = from_saelens(GOLDEN / case)(jnp.asarray(expected["x"]))
    np.testing.assert_allclose(f.z, expected["z"], atol=1e-5)
    np.testing.assert_allclose(f.x_hat, expected["x_hat"], atol=1e-5)
    assert (expected["z"] != 0).any() and (expected["z"] == 0).any()


@pytest.mark.parametrize("case", CASES)
def test_our_folders_have_the_keys_and_shapes_that_saelens_wrote(case, tmp_path):
    if case == "standard_bf16":
        pytest.skip("we write float32")
    to_saelens(from_saelens(GOLDEN / case), tmp_path)
    theirs, ours = (json.loads((f / "cfg.json").read_text()) for f in (GOLDEN / case, tmp_path))
    assert set(ours) == set(theirs)
    volatile = {"metadata", "rescale_acts_by_decoder_norm"}  # the latter is folded
    assert {n: v for n, v in ours.items() if n not in volatile} == {
        n: v for n, v in theirs.items() if n not in volatile
    }
    theirs, ours = (load_file(f / "sae_weights.safetensors") for f in (GOLDEN / case, tmp_path))
    assert {n: (a.shape, a.dtype) for n, a in ours.items()} == {
        n: (a.shape, a.dtype) for n, a in theirs.items()
    }


def test_an_input_scale_is_folded(tmp_path):
    shutil.copytree(GOLDEN / "standard", tmp_path / "scaled")
    config = json.loads((tmp_path / "scaled" / "cfg.json").read_text())
    config["normalize_activations"] = "expected_average_only_in"
    (tmp_path / "scaled" / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(ToysaeError, match="does not say by how much: give input_scale="):
        from_saelens(tmp_path / "scaled")
    plain, scaled = from_saelens(GOLDEN / "standard"), from_saelens(tmp_path / "scaled", 2.5)
    x = inputs()
    np.testing.assert_allclose(scaled(x).z, plain(2.5 * x).z, atol=1e-5)
    np.testing.assert_allclose(2.5 * scaled(x).x_hat, plain(2.5 * x).x_hat, atol=1e-5)
    (tmp_path / "scaled" / "activation_scaler.json").write_text('{"scaling_factor": 2.5}')
    np.testing.assert_array_equal(from_saelens(tmp_path / "scaled")(x).z, scaled(x).z)
    with pytest.raises(ToysaeError, match="input_scale is given, but"):
        from_saelens(GOLDEN / "standard", 2.5)


@pytest.mark.parametrize("recipe", ["fista"])
def test_what_saelens_cannot_express_is_refused(recipe, tmp_path):
    with pytest.raises(ToysaeError, match="FISTA has no SAELens counterpart .*save_sae, or export"):
        to_saelens(make_sae(recipe), tmp_path)
    assert not list(tmp_path.iterdir())


def test_training_specs_and_ensembles_are_refused(tmp_path):
    sae = make_sae("batchtopk")
    training = SAE(sae.weights, sae.run, sae.hypers, make_spec("batchtopk", D, S))
    assert isinstance(training.spec.activation, BatchTopK)
    with pytest.raises(ToysaeError, match="BatchTopK has no SAELens counterpart"):
        to_saelens(training, tmp_path)
    ensemble = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), make_sae())
    with pytest.raises(ToysaeError, match="export one SAE at a time"):
        to_saelens(ensemble, tmp_path)


def changed(tmp_path, tensors=None, **config):
    folder = tmp_path / "changed"
    shutil.copytree(GOLDEN / "topk", folder)
    old = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**old, **config}))
    if tensors is not None:
        save_file(tensors(load_file(folder / "sae_weights.safetensors")),
                  folder / "sae_weights.safetensors")  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": None}, "architecture None is not a text"),
        ({"architecture": "topkk"}, "unknown architecture 'topkk': did you mean 'topk'"),
        ({"architecture": "batchtopk"}, "training checkpoint .*save_inference_model"),
        ({"architecture": "jumprelu"}, "tensor threshold is missing"),
        ({"architecture": "gated"}, "tensor b_gate is missing: it has W_dec, W_enc, b_dec, b_enc"),
        ({"normalize_activations": "layer_norm"}, "'layer_norm' divides each input by its own"),
        ({"normalize_activations": "covariance_whitening"}, "whitens it"),
        ({"d_in": 7}, "cfg.json says d_in 7, W_dec has 6"),
        ({"k": 13}, "k 13 is out of range: write 1 to 12"),
        ({"k": None}, "k None is not a whole number"),
        ({"k": 0}, "k 0 is out of range: write 1 to 12"),
        ({"l1_coefficient": float("nan")}, "cfg.json holds NaN, which is not a number"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor is set"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, config, message):
    folder = changed(tmp_path, **config)
    with pytest.raises(ToysaeError, match=message) as error:
        from_saelens(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda t: {n: a for n, a in t.items() if n != "b_dec"}, "tensor b_dec is missing"),
        (lambda t: {**t, "W_enc": t["W_enc"].T.copy()}, r"W_enc has shape \[12, 6\], W_dec's"),
        (lambda t: {**t, "b_enc": t["b_enc"][:3].copy()}, r"b_enc has shape \[3\]"),
    ],
)
def test_missing_and_misshapen_tensors_are_named(tmp_path, tensors, message):
    with pytest.raises(ToysaeError, match=message):
        from_saelens(changed(tmp_path, tensors))


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ToysaeError, match=r"there is no .*cfg.json"):
        from_saelens(tmp_path)
    folder = changed(tmp_path)
    (folder / "sae_weights.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ToysaeError, match="truncated or not a safetensors file"):
        from_saelens(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(ToysaeError, match="is not JSON"):
        from_saelens(folder)


def test_early_saelens_configs_are_read(tmp_path):
    folder = changed(tmp_path)
    config = json.loads((folder / "cfg.json").read_text())
    config = {n: config[n] for n in ("d_in", "d_sae", "dtype", "apply_b_dec_to_input")}
    config |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3},
               "normalize_activations": False}  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    x = inputs()
    np.testing.assert_array_equal(from_saelens(folder)(x).z, from_saelens(GOLDEN / "topk")(x).z)


@pytest.mark.peers
@pytest.mark.parametrize("case", EXPORTED)
def test_saelens_itself_computes_the_same(case, tmp_path):
    torch = pytest.importorskip("torch")
    sae_lens = pytest.importorskip("sae_lens")
    sae = make_sae(**EXPORTED[case])
    theirs = sae_lens.SAE.load_from_disk(to_saelens(sae, tmp_path))
    x, f = torch.tensor(np.asarray(inputs())), sae(inputs())
    z = theirs.encode(x)
    np.testing.assert_allclose(z.detach().numpy(), f.z, atol=1e-5)
    np.testing.assert_allclose(theirs.decode(z).detach().numpy(), f.x_hat, atol=1e-5)


# Nothing is read past


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activation_fn_str": "tanh-relu"}, "activation_fn 'tanh-relu' has no counterpart"),
        ({"architecture": "transcoder"}, "a transcoder predicts another site"),
        ({"architecture": "skip_transcoder"}, "a skip_transcoder predicts another site"),
        ({"architecture": "standart"}, "did you mean 'standard'"),
        ({"k": -1}, "k -1 is out of range"), ({"k": 2.5}, "k 2.5 is not a whole"),
        ({"k": "3"}, "k '3' is not a whole"), ({"k": True}, "k True is not a whole"),
        ({"k": 10**9}, "out of range"), ({"apply_b_dec_to_input": "no"}, "neither true nor false"),
        ({"d_sae": None}, "d_sae None is not a whole"), ({"reshape_activations": "x"}, "unknown"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor is set"),
        ({"gate_temperature": 2.0}, "has gate_temperature, of which it is not known"),
        ({"activation_fn_kwargs": {"k": 2, "postact": "exp"}}, "postact, which has no counterpart"),
        ({"activation_fn_kwargs": {"k": 5}}, "k is 2 and 5 in activation_fn_kwargs: which one"),
        ({"activation_fn_str": "relu", "activation_fn": "topk"}, "which one is meant"),
        ({"architecture": "standard", "rescale_acts_by_decoder_norm": True}, "no meaning in a st"),
    ],
)  # fmt: skip
def test_fields_of_other_meaning_are_refused(tmp_path, changes, said):
    folder = tmp_path / "sae"
    sae = baseline_sae(activation=TopK(), k=2)
    to_saelens(sae, folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ToysaeError, match=said):
        from_saelens(folder)


def baseline_sae(**parts):
    rng = np.random.default_rng(0)
    tensors = {"W_enc": rng.normal(size=(4, 6)), "W_dec": rng.normal(size=(6, 4)),
               "b_enc": np.zeros(6), "b_dec": np.zeros(4)}  # fmt: skip
    return build_sae(tensors, pre_bias=True, **parts)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("scaling_factor", np.full(6, 2.0), "tensor scaling_factor is not 1"),
        ("b_skip", np.ones(4), "tensor b_skip has no meaning"),
        ("b_dec", np.full(4, np.inf), "b_dec holds values that are not finite"),
    ],
)
def test_tensors_of_other_meaning_are_refused(tmp_path, name, value, said):
    folder = to_saelens(baseline_sae(), tmp_path / "sae")
    tensors = load_file(folder / "sae_weights.safetensors")
    save_file({**tensors, name: value.astype(np.float32)}, folder / "sae_weights.safetensors")
    with pytest.raises(ToysaeError, match=said):
        from_saelens(folder)
    save_file({**tensors, "scaling_factor": np.ones(6, np.float32)},
              folder / "sae_weights.safetensors")  # fmt: skip
    from_saelens(folder)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.bool_])
def test_weights_are_floating_point_numbers(tmp_path, kind):
    folder = to_saelens(baseline_sae(), tmp_path / "sae")
    tensors = load_file(folder / "sae_weights.safetensors")
    for wide in (np.float64, np.float16):
        save_file({**tensors, "b_dec": np.ones(4, wide)}, folder / "sae_weights.safetensors")
        assert from_saelens(folder).weights.b_dec.tolist() == [1.0] * 4
    save_file({**tensors, "b_dec": np.ones(4, kind)}, folder / "sae_weights.safetensors")
    with pytest.raises(ToysaeError, match="tensor b_dec is of type .*: weights are numbers"):
        from_saelens(folder)
    save_file({**tensors, "b_dec": np.full(4, 1e300)}, folder / "sae_weights.safetensors")
    with pytest.raises(ToysaeError, match="b_dec holds values that are not finite"):
        from_saelens(folder)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_a_batch_sae_with_its_threshold_is_a_jumprelu(tmp_path, architecture):
    folder = to_saelens(baseline_sae(), tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    more = {"architecture": architecture, "k": 2.5, "topk_threshold_lr": 0.01}
    (folder / "cfg.json").write_text(json.dumps({**config, **more}))
    with pytest.raises(ToysaeError, match="a training checkpoint without a threshold"):
        from_saelens(folder)
    tensors = load_file(folder / "sae_weights.safetensors")
    save_file(
        {**tensors, "topk_threshold": np.array(0.3, np.float32)}, folder / "sae_weights.safetensors"
    )
    x = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    pre_acts = (x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    wanted = np.where(pre_acts > 0.3, pre_acts, 0)
    np.testing.assert_allclose(from_saelens(folder).encode(jnp.asarray(x)), wanted, atol=1e-5)


@pytest.mark.parametrize("value", ["0", "-2", "NaN", "1e999", '"2"', "true", "null", "[2]"])
def test_scales_that_are_none_are_refused(tmp_path, value):
    folder = to_saelens(baseline_sae(), tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    more = {"normalize_activations": "expected_average_only_in"}
    (folder / "cfg.json").write_text(json.dumps({**config, **more}))
    (folder / "activation_scaler.json").write_text(f'{{"scaling_factor": {value}}}')
    with pytest.raises(ToysaeError, match="scaling_factor|holds"):
        from_saelens(folder)
    with pytest.raises(ToysaeError, match="input_scale"):
        from_saelens(folder, input_scale=0)
