"""Folders of dictionary_learning and sparsify, any SAE by its path, and its score on a world."""

import io
import json
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from toysae import ToysaeError, make_world
from toysae.interop import (
    from_dictionary_learning,
    from_saelens,
    from_sparsify,
    load_any,
    score,
    to_saelens,
)
from toysae.interop.torch_file import read_torch_file
from toysae.recovery.baselines import Dictionary
from toysae.sae import SAE
from toysae.sae.files import save_sae
from toysae.worlds import sample

GOLDEN = Path(__file__).parents[1] / "golden"
CLASSES = sorted(folder.name for folder in (GOLDEN / "dictionary_learning").iterdir())
READERS = [(f"dictionary_learning/{name}", from_dictionary_learning) for name in CLASSES]
READERS += [("sparsify/layers.0", from_sparsify)]


@pytest.mark.parametrize(("folder", "reader"), READERS)
def test_golden_folders_reconstruct_as_their_library_does(folder, reader):
    expected = np.load(GOLDEN / folder / "expected.npz")
    sae = reader(GOLDEN / folder)
    f = sae(jnp.asarray(expected["x"]))
    np.testing.assert_allclose(f.z, expected["z"], atol=1e-5)
    np.testing.assert_allclose(f.x_hat, expected["x_hat"], atol=1e-5)
    assert (expected["z"] != 0).any() and (expected["z"] == 0).any()
    assert load_any(GOLDEN / folder).spec == sae.spec


@pytest.mark.parametrize(("folder", "reader"), READERS)
def test_what_was_read_goes_on_to_saelens(folder, reader, tmp_path):
    expected = np.load(GOLDEN / folder / "expected.npz")
    f = from_saelens(to_saelens(reader(GOLDEN / folder), tmp_path))(jnp.asarray(expected["x"]))
    np.testing.assert_allclose(f.x_hat, expected["x_hat"], atol=1e-5)


def copied(folder, tmp_path, **config):
    shutil.copytree(GOLDEN / folder, tmp_path / "sae")
    file = next(f for f in (tmp_path / "sae").glob("*.json"))
    old = json.loads(file.read_text())
    file.write_text(json.dumps({**old, **config}))
    return tmp_path / "sae"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"transcode": True}, "a transcoder predicts another site"),
        ({"skip_connection": True}, "skip_connection adds to x_hat"),
        ({"activation": "groupmax"}, "activation 'groupmax' has no counterpart"),
        ({"k": 99}, "k 99 is out of range: write 1 to 12"),
    ],
)
def test_sparse_coders_that_are_no_sae_here_are_refused(tmp_path, config, message):
    with pytest.raises(ToysaeError, match=message):
        from_sparsify(copied("sparsify/layers.0", tmp_path, **config))


def test_a_missing_tensor_is_named(tmp_path):
    folder = copied("sparsify/layers.0", tmp_path)
    tensors = load_file(folder / "sae.safetensors")
    del tensors["encoder.bias"]
    save_file(tensors, folder / "sae.safetensors")
    with pytest.raises(ToysaeError, match="tensor encoder.bias is missing"):
        from_sparsify(folder)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"dict_class": "AutoEncoderTopp"}, "dict_class 'AutoEncoderTopp': did you mean"),
        ({"dict_class": "GatedAutoEncoder"}, "has no meaning in a GatedAutoEncoder"),
        ({}, "trainer has no field 'dict_class'"),
    ],
)
def test_bad_dictionary_learning_configs_are_refused(tmp_path, trainer, message):
    with pytest.raises(ToysaeError, match=message):
        from_dictionary_learning(
            copied("dictionary_learning/AutoEncoderTopK", tmp_path, trainer=trainer)
        )


# torch files


class _Call:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class _Storage:
    def __init__(self, *pid):
        self.pid = pid


class _Pickler(pickle.Pickler):
    """Writes what torch.save would, with the names that torch's reader looks up."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, _Storage) else None


def torch_file(path, state, storages):
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(state)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


def test_a_pickle_that_would_run_something_is_not_read(tmp_path):
    marker = tmp_path / "ran"
    path = torch_file(tmp_path / "a.pt", {"x": _Call(Path.touch, marker)}, {})
    with pytest.raises(ToysaeError, match=r"it would load .*, which no plain tensor needs"):
        read_torch_file(path)
    assert not marker.exists()
    for function in (eval, getattr, __import__):
        path = torch_file(tmp_path / "b.pt", {"x": _Call(function, "1", "2")}, {})
        with pytest.raises(ToysaeError, match=f"would load .*{function.__name__}"):
            read_torch_file(path)


def test_other_contents_and_damage_are_named(tmp_path):
    with pytest.raises(ToysaeError, match="there is no"):
        read_torch_file(tmp_path / "none.pt")
    with pytest.raises(ToysaeError, match="holds more than tensors by name"):
        read_torch_file(torch_file(tmp_path / "a.pt", OrderedDict(x=3), {}))
    data = (GOLDEN / "dictionary_learning" / "AutoEncoder" / "ae.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ToysaeError, match="truncated or not in torch's zip format"):
        read_torch_file(tmp_path / "half.pt")


def test_strided_tensors_are_read_as_torch_lays_them_out():
    saved = read_torch_file(GOLDEN / "dictionary_learning" / "AutoEncoder" / "ae.pt")
    assert saved["encoder.weight"].shape == (12, 6) and saved["bias"].shape == (6,)
    torch = pytest.importorskip("torch")
    theirs = torch.load(GOLDEN / "dictionary_learning" / "AutoEncoder" / "ae.pt")
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(saved[name], tensor.numpy())


# Any path, and scores


@pytest.fixture(scope="module")
def world():
    return make_world("orthogonal", 0, d_in=6, n_features=6, l0=1.5)


def truth(world) -> SAE:
    return Dictionary(world.directions, None, "truth").sae(0.01)


def test_the_truth_scores_one(world, tmp_path):
    row = score(save_sae(truth(world), tmp_path / "truth.safetensors"), world, 4096).table.iloc[0]
    assert row["sae"] == str(tmp_path / "truth.safetensors")
    assert (row["d_in"], row["n_features"], row["d_sae"], row["n_eval"]) == (6, 6, 6, 4096)
    for name in ("mmcs", "mmcs_abs", "mmcs_latents", "mcc", "mcc_abs", "mcs_above_0.95"):
        assert row[name] == pytest.approx(1, abs=1e-5)
    assert row["distinct_above_0.95"] == 6 and row["dead_latents"] == 0
    assert row["ev"] > 0.999 and row["l0"] == pytest.approx(row["true_l0"], rel=0.02)


def test_a_score_equals_numpy_on_a_fresh_sample(world):
    sae = load_any(GOLDEN / "dictionary_learning" / "AutoEncoderTopK")
    row = score(sae, world, 16_384).table.iloc[0]
    x = sample(world, jax.random.key(77), 16_384).x
    f, x = sae(x), np.asarray(x, np.float64)
    assert row["l0"] == pytest.approx((np.asarray(f.z) != 0).sum(1).mean(), rel=0.02)
    ev = 1 - ((x - np.asarray(f.x_hat)) ** 2).sum(1).mean() / x.var(0).sum()
    assert row["ev"] == pytest.approx(ev, rel=0.05)
    W = np.asarray(sae.W_dec, np.float64)
    cos = np.asarray(world.directions) @ W.T / np.linalg.norm(W, axis=1)
    assert row["mmcs"] == pytest.approx(cos.max(1).mean(), abs=1e-5)
    assert "sae" not in row and row["floor"] < 1


def test_the_sample_follows_its_seed(world):
    one, same, other = (score(truth(world), world, 2048, seed).table["ev"][0] for seed in (0, 0, 1))
    assert one == same != other


def test_bad_paths_and_worlds_are_refused(world, tmp_path):
    with pytest.raises(ToysaeError, match="there is no"):
        load_any(tmp_path / "none")
    with pytest.raises(ToysaeError, match=r"is not an SAE folder: it has none of .*SAELens"):
        load_any(tmp_path)
    for folder in ("saelens/topk", "sparsify/layers.0"):
        shutil.copytree(GOLDEN / folder, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ToysaeError, match="put each SAE in its own folder"):
        load_any(tmp_path)
    with pytest.raises(ToysaeError, match="d_in 6 is not the d_in 8 of world 'sphere'"):
        score(truth(world), make_world("sphere", 0, d_in=8, n_features=8, l0=1.5))
    with pytest.raises(ToysaeError, match="n_samples 0"):
        score(truth(world), world, 0)
