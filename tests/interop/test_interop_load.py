"""Folders of dictionary_learning and sparsify, any SAE by its path, and its score on a world."""

import io
import json
import pickle
import re
import shutil
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from toysae import ToysaeError, make_world
from toysae.cli import main
from toysae.interop import (
    from_dictionary_learning,
    from_saelens,
    from_sparsify,
    load_any,
    score,
    to_saelens,
)
from toysae.interop.torch_file import read_torch_file
from toysae.lm.saes.site_sae import SiteSAE, save_site_sae
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
        ({"k": None}, "k None is not a whole number: write 1 to 12"),
        ({"k": [3]}, r"k \[3\] is not a whole number: write 1 to 12"),
        ({"signed": True}, "signed codes are not read"),
        ({"gain": 2}, "has gain, of which it is not known"),
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
    return zipped(path, buffer.getvalue(), {f"data/{k}": a.tobytes() for k, a in storages.items()})


def zipped(path, pickled, files, deflated=()):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": pickled, **files}.items():
            kind = zipfile.ZIP_DEFLATED if name in deflated else zipfile.ZIP_STORED
            archive.writestr(f"archive/{name}", data, kind)
    return path


def one_tensor(shape, stride):
    """The pickle of {"x": a tensor on the first float of data/0}."""
    shape, stride = ("(" + "".join(f"I{n}\n" for n in numbers) + "t" for numbers in (shape, stride))
    storage = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI1\ntQ"
    return f"(dS'x'\nctorch._utils\n_rebuild_tensor_v2\n({storage}I0\n{shape}{stride}tRs.".encode()


FLOAT = {"data/0": np.float32(7).tobytes()}


def test_files_that_would_fill_the_memory_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    assert read_torch_file(zipped(path, one_tensor([1], [1]), FLOAT))["x"].tolist() == [7]
    large = zipped(path, one_tensor([10**9], [0]), FLOAT)
    with pytest.raises(ToysaeError, match="a tensor of 1,000,000,000 elements on 1 in its file"):
        read_torch_file(large)
    memo = b"\x80\x02}r" + (2**30).to_bytes(4, "little") + b"."
    with pytest.raises(ToysaeError, match="place 1,073,741,824 in a memo of at most 2"):
        read_torch_file(zipped(path, memo, {}))


@pytest.mark.parametrize("name", ["byteorder", "data/0", "data.pkl"])
def test_compressed_files_are_refused_before_they_are_read(tmp_path, name):
    files = {**FLOAT, name: bytes(2**25)}
    path = zipped(tmp_path / "a.pt", one_tensor([1], [1]), files, [name])
    del files
    tracemalloc.start()
    try:
        with pytest.raises(ToysaeError, match=f"{name} is compressed, which torch never does"):
            read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name", ["torch.nn.Linear", "torch.ComplexFloatStorage", "torch._utils._rebuild_sparse_tensor"]
)
def test_a_class_that_is_not_read_is_named_and_no_damage(tmp_path, name):
    place = "\n".join(name.rsplit(".", 1))
    path = zipped(tmp_path / "a.pt", f"(dS'x'\nc{place}\ns.".encode(), {})
    with pytest.raises(ToysaeError, match=f"load {name}, which no plain tensor needs") as error:
        read_torch_file(path)
    assert "damaged" not in str(error.value) and "\n" not in str(error.value)


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
    with pytest.raises(ToysaeError, match=r"b.pt: it is big-endian: save it again"):
        read_torch_file(zipped(tmp_path / "b.pt", b"", {"byteorder": b"big"}))
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


def test_a_score_says_that_samples_come_in_whole_batches(world):
    with pytest.warns(UserWarning, match="scored on 1,024 samples, not 256"):
        assert score(truth(world), world, 256).table["n_eval"][0] == 1024
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        score(truth(world), world, 1024)


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


def test_an_sae_of_a_language_model_is_not_read_without_its_normalisation(world, tmp_path, capsys):
    whole = SiteSAE(truth(world), jnp.zeros(6), jnp.float32(1))
    folder = save_site_sae(whole, tmp_path / "sae")
    said = r"is an SAE on a language model's activations.*`toysae export`"
    for path in (folder, folder / "sae.safetensors"):
        with pytest.raises(ToysaeError, match=said):
            load_any(path)
    with pytest.raises(SystemExit) as stop:
        main(["score", str(folder), "--world", "sphere"])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.count("\n") == 1 and re.search(said, line)
