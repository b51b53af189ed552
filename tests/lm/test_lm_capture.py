"""Shards against a direct forward pass, and what is left of captures that were stopped."""

import errno
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import toysae.lm.capture.shards as shards_module
from toysae import ToysaeError
from toysae.lm import forward, load_model, load_tokenizer
from toysae.lm.capture.capture import capture, capture_bytes, new_manifest, run_sequences
from toysae.lm.capture.shards import (
    MANIFEST,
    Shards,
    find_site,
    read_manifest,
    site_folders,
    write_manifest,
)
from toysae.lm.capture.text import TextLayout, build_corpus

# The package has a function of the same name.
module = importlib.import_module("toysae.lm.capture.capture")
ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
POST, MLP = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_post"
SITES = (POST, MLP)
LAYOUTS = {"padded": TextLayout(16, pack=False), "packed": TextLayout(16, first=3)}
SMALL = 18_000  # bytes of a shard: there are about seven
N_SHARDS = range(6, 10)


def no_more(*args):
    raise AssertionError("the model was run")


@pytest.fixture(scope="module")
def model():
    return load_model(GOLDEN / "gpt-neox")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """One padded and one packed, each of documents of 1 to about 60 tokens."""
    path, tokenizer = tmp_path_factory.mktemp("corpora"), load_tokenizer(GOLDEN / "gpt-neox")
    rng = random.Random(0)
    words = ["the", "argument", "of", "parser", "café", "∑", "None", "return", "string", "12", "x"]
    texts = [" ".join(rng.choices(words, k=rng.randrange(1, 25))) for _ in range(24)]
    source = path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {
        name: build_corpus(source, tokenizer, path / name, 500, layout)
        for name, layout in LAYOUTS.items()
    }


@pytest.fixture(scope="module", params=LAYOUTS)
def corpus(request, corpora):
    return corpora[request.param]


@pytest.fixture(scope="module")
def packed(corpora):
    return corpora["packed"]


@pytest.fixture(scope="module")
def go(model, packed):
    """The capture that most tests stop, damage or repeat."""
    return partial(capture, model, packed, SITES, dtype="float32", batch_size=4, shard_bytes=SMALL)


@pytest.fixture(scope="module")
def whole(go, tmp_path_factory):
    """The folder of an uninterrupted one."""
    out = tmp_path_factory.mktemp("whole") / "out"
    go(out=out)
    assert len(read_manifest(out / POST).shards) in N_SHARDS
    return out


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def files(out):
    return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}


def assert_same_files(out, whole):
    one, two = files(out), files(whole)
    assert sorted(one) == sorted(two)
    assert [name for name in one if one[name] != two[name]] == []


def kept(corpus):
    """(sequence, position) of every row, one by one."""
    first = corpus.layout.first
    return [(i, p) for i, n in enumerate(corpus.lengths.tolist()) for p in range(first, n)]


def direct(model, corpus, site):
    tokens = np.pad(corpus.tokens, ((0, -len(corpus.tokens) % 4), (0, 0)))
    batches = (tokens[i : i + 4] for i in range(0, len(tokens), 4))
    acts = [forward(model, batch, SITES, logits=False).acts[site] for batch in batches]
    acts = np.concatenate(acts)
    return np.stack([acts[place] for place in kept(corpus)])


def sequences(corpus):
    return np.arange(len(corpus.lengths))


# What shards hold


@pytest.fixture(scope="module")
def captured(model, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("captured")
    return capture(model, corpus, SITES, out, dtype="float32", batch_size=4, shard_bytes=SMALL)


def test_they_hold_what_the_model_computes_and_where(model, corpus, captured):
    assert [folder.name for folder in captured] == list(SITES)
    where = kept(corpus)
    assert len(where) == 500
    for folder, d in zip(captured, (32, 64), strict=True):
        shards = Shards(folder)
        assert len(shards.manifest.shards) in N_SHARDS
        assert (shards.d, shards.dtype, shards.manifest.rows) == (d, np.float32, 500)
        acts = shards.read(sequences(corpus))
        assert acts.shape == (500, d) and acts.dtype == np.float32
        np.testing.assert_allclose(acts, direct(model, corpus, folder.name), atol=1e-6)
        assert shards.counts.tolist() == corpus.counts.tolist()
        columns = {
            "seq": [i for i, _ in where], "pos": [p for _, p in where],
            "tokens": [corpus.tokens[place] for place in where],
            "doc": [corpus.docs[place] for place in where],
        }  # fmt: skip
        for name, wanted in columns.items():
            np.testing.assert_array_equal(shards.column(name), wanted)
    with pytest.raises(ToysaeError, match="unknown column 'docs': did you mean 'doc'"):
        shards.column("docs")


def test_any_sequences_in_any_order_and_batches_in_that_of_the_text(corpus, captured):
    shards = Shards(captured[1])
    acts, seq = shards.read(sequences(corpus)), shards.column("seq")
    some = np.random.default_rng(0).integers(0, len(corpus.lengths), 70)
    wanted = np.concatenate([acts[seq == i] for i in some])
    np.testing.assert_array_equal(shards.read(some), wanted)
    assert shards.read(some[:0]).shape == (0, 64)
    batches = list(shards.batches(7))
    assert max(map(len, batches)) == 7
    np.testing.assert_array_equal(np.concatenate(batches), acts)


def test_moments_are_those_of_numpy_in_float64(corpus, captured):
    for folder in captured:
        shards = Shards(folder)
        acts = shards.read(sequences(corpus)).astype(np.float64)
        np.testing.assert_allclose(shards.mean, acts.mean(0), rtol=1e-12, atol=1e-14)
        assert shards.mean.dtype == np.float64
        seq = shards.column("seq")
        ends = [0, *(shard.last for shard in shards.manifest.shards)]
        assert ends[-1] == len(corpus.lengths)
        for first, shard in zip(ends, shards.manifest.shards, strict=False):
            x = acts[(seq >= first) & (seq < shard.last)]
            assert (shard.first, shard.rows) == (first, len(x))
            norms = np.linalg.norm(x, axis=1)
            np.testing.assert_allclose(shard.moments, [(norms**2).sum(), norms.sum()], rtol=1e-12)


def test_one_shard_holds_the_same_as_many(model, corpus, captured, tmp_path):
    one = capture(model, corpus, SITES, tmp_path, dtype="float32", batch_size=4)
    for few, many in zip(map(Shards, one), map(Shards, captured), strict=True):
        assert len(few.manifest.shards) == 1
        whole, parts = (shards.read(sequences(corpus)) for shards in (few, many))
        np.testing.assert_allclose(parts, whole, atol=1e-6)
        np.testing.assert_allclose(many.mean, few.mean, atol=1e-7)
        for name in ("tokens", "seq", "doc", "pos"):
            np.testing.assert_array_equal(few.column(name), many.column(name))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_shorter_types_are_float32_rounded(model, packed, whole, tmp_path, dtype):
    (folder,) = capture(
        model, packed, [POST], tmp_path, dtype=dtype, batch_size=4, shard_bytes=SMALL
    )
    found = Shards(folder).read(sequences(packed))
    assert found.dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
    wanted = Shards(whole / POST).read(sequences(packed))
    eps = float(ml_dtypes.finfo(found.dtype).eps)
    error = np.abs(found.astype(np.float32) - wanted)
    assert (error <= eps / 2 * np.abs(wanted) + 2e-6).all()
    assert (found != wanted.astype(found.dtype)).mean() < 0.001


def test_running_again_gives_the_bits_of_the_shards(model, corpus, tmp_path):
    """Of a site captured alone; other programs, of more sites or sequences, round differently."""
    (folder,) = capture(model, corpus, [POST], tmp_path, batch_size=4, shard_bytes=SMALL)
    shards = Shards(folder)
    order = np.random.default_rng(1).permutation(len(corpus.lengths))
    for some in (sequences(corpus), order, order[:3], order[:0]):
        again = run_sequences(model, corpus, some, shards.manifest, batch_size=4)
        assert again.tobytes() == shards.read(some).tobytes() and again.dtype == shards.dtype


def test_running_other_programs_agrees_to_rounding(model, packed, whole):
    for site in SITES:
        shards = Shards(whole / site)
        again = run_sequences(model, packed, sequences(packed), shards.manifest)
        np.testing.assert_allclose(again, shards.read(sequences(packed)), atol=1e-5)


def test_centred_rows_have_no_mean(model, packed, tmp_path):
    (folder,) = capture(model, packed, [POST], tmp_path, dtype="float32", centre=True, batch_size=4)
    shards = Shards(folder)
    x = direct(model, packed, POST)
    assert np.abs(x.mean(1)).min() < 0.01 < np.abs(x.mean(1)).max()
    acts = shards.read(sequences(packed))
    np.testing.assert_allclose(acts, x - x.mean(1, keepdims=True), atol=1e-6)
    assert shards.manifest.centred
    again = run_sequences(model, packed, sequences(packed), shards.manifest, 4)
    np.testing.assert_array_equal(again, acts)


def test_progress_counts_every_token_and_byte(go, packed, tmp_path):
    told = []
    go(out=tmp_path / "out", on_batch=lambda *now: told.append(now))
    tokens, n_bytes = zip(*told, strict=True)
    assert list(tokens) == sorted(tokens) and list(n_bytes) == sorted(n_bytes)
    assert told[-1] == (500, 500 * 4 * (32 + 64)) and 0 < tokens[0] < 100
    fresh = [new_manifest(go.args[0], packed, site, "float32") for site in SITES]
    shards = {k: v for k, v in files(tmp_path / "out").items() if k.endswith(".safetensors")}
    sizes = [len(data) for data in shards.values()]
    assert capture_bytes(fresh) == 500 * (4 * (32 + 64) + 2 * 16)
    # Beside the rows there are a header and the sums.
    assert 0 < sum(sizes) - capture_bytes(fresh) < 1200 * len(sizes)


# Stopped and run again


def test_captured_twice_they_are_the_same_bytes(go, whole, tmp_path):
    folders = go(out=tmp_path / "out")
    assert_same_files(tmp_path / "out", whole)
    assert folders == [tmp_path / "out" / site for site in SITES]


def test_what_is_finished_is_not_computed_again(go, copy, whole, monkeypatch):
    monkeypatch.setattr(module, "activations", no_more)
    go(out=copy)
    assert_same_files(copy, whole)


@pytest.mark.parametrize("n", [0, 3, 8])
def test_stopped_after_some_batches_it_goes_on(go, whole, tmp_path, n):
    out, told = tmp_path / "out", []

    def stop(*now):
        told.append(now)
        if len(told) > n:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(out=out, on_batch=stop)
    there = len(read_manifest(out / POST).shards)
    assert there < 7 and (there > 1 or n < 8)
    with pytest.raises(ToysaeError, match=r"holds \d+ of 500 activations: run the same .*again"):
        Shards(out / POST)
    go(out=out)
    assert_same_files(out, whole)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_stopped_between_two_sites_it_goes_on(go, whole, tmp_path, monkeypatch, n):
    """The program of the site that is left alone would round differently."""
    write, written = module.write_shard, []
    activations, programs = module.activations, set()

    def run(model, tokens, *program):
        programs.add(program)
        return activations(model, tokens, *program)

    monkeypatch.setattr(module, "activations", run)

    def stop(folder, *args):
        if len(written) == n:
            raise KeyboardInterrupt
        written.append(folder)
        return write(folder, *args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            go(out=tmp_path / "out")
    numbers = [len(read_manifest(tmp_path / "out" / site).shards) for site in SITES]
    assert numbers == [n - n // 2, n // 2]
    go(out=tmp_path / "out")
    assert_same_files(tmp_path / "out", whole)
    assert programs == {(SITES, "float32", False)}


def test_what_killed_processes_left_is_cleared_away(go, copy, whole):
    """In the folder of a file that was being written; what only looks like it is somebody's."""
    for site in SITES:
        room = copy / site / ".00003.safetensors.ab_d3fgh.tmp"
        room.mkdir()
        (room / ".tmpAb3dEf").write_bytes(b"half")  # as safetensors names its own
        (copy / site / ".notes.txt.ab_d3fgh.tmp").mkdir()
        (copy / site / ".tmpAb3dEf").write_bytes(b"mine")
    go(out=copy)
    for site in SITES:
        assert (copy / site / ".tmpAb3dEf").read_bytes() == b"mine"
        (copy / site / ".tmpAb3dEf").unlink()
        (copy / site / ".notes.txt.ab_d3fgh.tmp").rmdir()
    assert_same_files(copy, whole)


CHILD = """
import os, signal, sys
from pathlib import Path
out, n = sys.argv[1], int(sys.argv[2])
count, events = 0, ("open", "os.rename", "os.remove", "os.mkdir")
def tick():
    global count
    count += 1
    return count == n
def hook(event, args):
    if event in events and out in str(args[0]) and tick():
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
import toysae.lm.capture.shards as shards
from toysae.lm import load_model
from toysae.lm.capture.capture import capture
from toysae.lm.capture.text import load_corpus
save_file = shards.save_file
def half(tensors, path):
    save_file(tensors, path)
    if tick():
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
shards.save_file = half
capture(load_model(sys.argv[3]), load_corpus(Path(sys.argv[4])), sys.argv[6:], Path(out),
        dtype="float32", batch_size=4, shard_bytes=int(sys.argv[5]),
        on_batch=lambda *now: print(*now, flush=True))
print("whole", flush=True)
sys.stdin.read()
"""
"""A capture that kills itself just before it touches its folder, or half way through a shard, for
the n-th time; or else waits to be killed."""


@pytest.fixture
def child(packed, tmp_path, corpora):
    """Starts one in another process, as `child(n)`, with the same compiler."""
    folder = Path(packed.tokens.filename).parent
    given = [GOLDEN / "gpt-neox", folder, SMALL, *SITES]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
    }
    started = []

    def start(n=0):
        command = [sys.executable, "-c", CHILD, tmp_path / "out", n, *given]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        one = subprocess.Popen(list(map(str, command)), env=environment, text=True, **pipes)
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_killed_from_outside_at_any_moment_it_goes_on(child, go, whole, tmp_path):
    one = child()
    lines = [one.stdout.readline() for _ in range(random.randrange(1, 20))]
    one.kill()
    assert lines[-1], one.stderr.read()
    assert one.wait() == -signal.SIGKILL
    go(out=tmp_path / "out")
    assert_same_files(tmp_path / "out", whole)


# An event of a shard is about one in ten; there are 14 shards.
@pytest.mark.parametrize("n", [
    random.Random(0).randrange(20, 120),
    *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 120, 9)),
])  # fmt: skip
def test_killed_at_any_step_on_the_disk_it_goes_on(child, go, whole, tmp_path, n):
    one = child(n)
    _, said = one.communicate()
    assert one.returncode == -signal.SIGKILL, said
    assert (
        not (tmp_path / "out" / MLP / MANIFEST).exists()
        or not read_manifest(tmp_path / "out" / MLP).is_complete
    )
    go(out=tmp_path / "out")
    assert_same_files(tmp_path / "out", whole)


@pytest.mark.parametrize("number", [0, 3, -1])
@pytest.mark.parametrize("how", ["gone", "short", "flipped", "other"])
def test_shards_that_went_bad_are_made_again(go, copy, whole, number, how):
    paths = sorted((copy / MLP).glob("*.safetensors"))
    path, data = paths[number], paths[number].read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "short":
        path.write_bytes(data[:-5])
    elif how == "flipped":
        path.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    else:
        path.write_bytes(paths[1].read_bytes())
    go(out=copy)
    assert_same_files(copy, whole)


def test_another_site_beside_a_finished_one_leaves_it_alone(model, packed, go, whole, tmp_path):
    """The wider site has more shards, cut elsewhere."""
    out = tmp_path / "out"
    go_narrow = partial(capture, model, packed, [POST], out, dtype="float32", batch_size=4)
    go_narrow(shard_bytes=SMALL)
    before = files(out / POST)
    assert len(read_manifest(out / POST).shards) not in N_SHARDS
    go(out=out)
    assert files(out / POST) == before
    assert_same_files(out / MLP, whole / MLP)


@pytest.mark.parametrize("shard_bytes", [SMALL // 2, 2 * SMALL, 10**9])
def test_going_on_in_shards_of_another_size_leaves_no_gap(go, whole, packed, tmp_path, shard_bytes):
    out, told = tmp_path / "out", []

    def stop(*now):
        told.append(now)
        if len(told) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(out=out, on_batch=stop)
    begun = read_manifest(out / POST).shards
    assert 0 < len(begun) < 7
    go(out=out, shard_bytes=shard_bytes)
    for site in SITES:
        found, wanted = Shards(out / site), Shards(whole / site)
        assert found.manifest.shards[: len(begun)] == wanted.manifest.shards[: len(begun)]
        assert found.manifest.shards != wanted.manifest.shards
        for name in ("tokens", "seq", "doc", "pos"):
            np.testing.assert_array_equal(found.column(name), wanted.column(name))
        acts = (shards.read(sequences(packed)) for shards in (found, wanted))
        np.testing.assert_allclose(*acts, atol=1e-6)


# Damage


def place(data, where):
    """A byte of a region of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    if where == "length":
        return 0
    if where == "header":
        return data.index(b'"acts"') + 2
    name, _, part = where.partition(" ")
    start, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + {"first": start, "middle": (start + end) // 2, "last": end - 1}[part]


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("where", [
    "length", "header", "acts first", "acts middle", "acts last", "tokens first", "seq middle",
    "doc last", "pos middle", "sum first", "sum last",
])  # fmt: skip
def test_a_changed_byte_is_refused_by_the_name_of_the_file(copy, where, number):
    path = copy / POST / f"{number:05d}.safetensors"
    data = bytearray(path.read_bytes())
    data[place(data, where)] ^= 4
    path.write_bytes(data)
    with pytest.raises(ToysaeError, match=f"shard {path} is not as it was written"):
        Shards(copy / POST)
    Shards(copy / MLP)
    if where in ("length", "header"):
        with pytest.raises(ToysaeError, match=f"shard {path} is damaged"):
            Shards(copy / POST, verify=False)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_short_file_is_refused_even_unverified(copy, length):
    path = copy / POST / "00002.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    for verify, words in ((True, "is not as it was written"), (False, "is damaged")):
        with pytest.raises(ToysaeError, match=f"shard {path} {words}"):
            Shards(copy / POST, verify)


def test_a_shard_of_another_capture_or_none_is_refused(model, packed, copy, tmp_path):
    path = copy / POST / "00002.safetensors"
    wide, narrow = copy / MLP / path.name, tmp_path / "other"
    (folder,) = capture(model.replace(name="same"), packed, [POST], narrow, batch_size=4)
    for other in (wide, folder / "00000.safetensors", copy / POST / "00001.safetensors"):
        path.write_bytes(other.read_bytes())
        with pytest.raises(ToysaeError, match=f"shard {path} is not as it was written"):
            Shards(copy / POST)
    path.write_bytes(wide.read_bytes())
    with pytest.raises(ToysaeError, match=f"shard {path} has activations .*64], its manifest says"):
        Shards(copy / POST, verify=False)
    path.unlink()
    for verify in (True, False):
        with pytest.raises(ToysaeError, match=f"shard {path} is missing: run the same"):
            Shards(copy / POST, verify)


def test_manifests_that_are_damaged_newer_or_missing_are_refused(copy, go):
    file = copy / POST / MANIFEST
    whole = file.read_bytes()
    raw = json.loads(whole)
    bad = [
        whole[: len(whole) // 2], b"", b"[]", b"\xff", json.dumps({"version": 1}).encode(),
        json.dumps({k: v for k, v in raw.items() if k != "rows"}).encode(),
        json.dumps({**raw, "rows_": 1}).encode(),
        json.dumps({**raw, "shards": [{"file": "00000.safetensors"}]}).encode(),
    ]  # fmt: skip
    for data in bad:
        file.write_bytes(data)
        for read in (read_manifest, Shards, lambda folder: go(out=folder.parent)):
            with pytest.raises(ToysaeError, match=f"{file} is (damaged|not)"):
                read(copy / POST)
    for version in (2, None, "1"):
        file.write_text(json.dumps({**raw, "version": version}))
        with pytest.raises(ToysaeError, match=f"is of version {version!r}, this toysae reads 1"):
            Shards(copy / POST)
    file.unlink()
    with pytest.raises(ToysaeError, match="holds no manifest.json: give the folder of a captured"):
        Shards(copy / POST)
    go(out=copy)
    assert file.read_bytes() == whole


def test_what_is_run_live_holds_no_activations(model, packed, tmp_path):
    write_manifest(tmp_path, new_manifest(model, packed, POST, live=True))
    assert read_manifest(tmp_path).is_complete
    with pytest.raises(ToysaeError, match="holds no activations: its model is run"):
        Shards(tmp_path)


# Refusals


def scaled(model, by):
    return model.replace(weights={**model.weights, "W_E": by * model.weights["W_E"]})


def test_another_capture_in_the_folder_is_refused_by_what_differs(model, corpora, copy, whole, go):
    packed, padded = corpora["packed"], corpora["padded"]
    moved = replace(packed, about={**packed.about, "sha256": "0" * 64})
    sha = packed.about["sha256"]
    for changes, words in [
        ({"model": scaled(model, 1.0001)}, r"\(weights '\w{64}', now '\w{64}'\)"),
        ({"corpus": moved}, rf"\(corpus '{sha}', now '0{{64}}'\)"),
        ({"corpus": padded}, r"\(corpus '\w{64}', now .*, first 3, now 1, n_seq \d+, now \d+\)"),
        ({"dtype": "bfloat16"}, r"\(dtype 'float32', now 'bfloat16'\)"),
        ({"centre": True}, r"\(centred False, now True\)"),
    ]:
        given = {"model": model, "corpus": packed, "sites": SITES, "dtype": "float32", **changes}
        with pytest.raises(ToysaeError, match=f"{POST} holds another capture {words}"):
            capture(**given, out=copy, batch_size=4, shard_bytes=SMALL)
    assert_same_files(copy, whole)
    go.func(model.replace(name="elsewhere"), *go.args[1:], copy, **go.keywords)
    assert_same_files(copy, whole)  # the same weights, wherever they came from


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sites": []}, "name at least one site"),
        ({"sites": [POST, "blocks.1.hook_resid_pots"]}, "did you mean 'hook_resid_post'"),
        ({"sites": ["blocks.3.hook_resid_post"]}, "layers 0 to 2"),
        ({"sites": ["blocks.1.hook_resid_mid"]}, "parallel"),
        ({"sites": ["blocks.01.hook_resid_post"]}, "is not one of blocks.L.hook_resid_pre"),
        ({"dtype": "bfloat"}, "unknown dtype 'bfloat': did you mean 'bfloat16'"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
    ],
)
def test_what_cannot_be_captured_is_refused_before_a_folder_is_made(
    model, packed, tmp_path, changes, words
):
    with pytest.raises(ToysaeError, match=words):
        capture(
            **{"model": model, "corpus": packed, "sites": [POST], **changes}, out=tmp_path / "o"
        )
    assert not (tmp_path / "o").exists()


def test_corpora_that_a_model_cannot_read_are_refused(model, packed):
    short = model.replace(config=replace(model.config, n_ctx=15))
    with pytest.raises(ToysaeError, match="sequences of 16 tokens are longer than the model's 15"):
        new_manifest(short, packed, POST)
    largest = int(packed.tokens.max())
    small = model.replace(config=replace(model.config, n_vocab=largest), name="small")
    with pytest.raises(ToysaeError, match=f"ids up to {largest}, small only {largest} embeddings"):
        new_manifest(small, packed, POST)


def test_too_little_room_is_refused_before_anything_is_written(go, whole, tmp_path, monkeypatch):
    need = 500 * (4 * (32 + 64) + 2 * 16)
    monkeypatch.setattr(module, "free_bytes", lambda path: need - 1)
    with pytest.raises(ToysaeError, match="cannot write .*out: the disk is full, it needs 203 KiB"):
        go(out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(module, "free_bytes", lambda path: need)
    go(out=tmp_path / "out")
    assert_same_files(tmp_path / "out", whole)
    monkeypatch.setattr(module, "free_bytes", lambda path: 0)
    go(out=tmp_path / "out")  # nothing is left to write


@pytest.mark.parametrize("kind", [OSError, shards_module.SafetensorError])
def test_a_disk_that_fills_up_keeps_what_is_finished(go, whole, tmp_path, monkeypatch, kind):
    out, save, saved = tmp_path / "out", shards_module.save_file, []

    def full(tensors, path):
        saved.append(path)
        if len(saved) == 6:
            path.write_bytes(b"half")
            words = os.strerror(errno.ENOSPC)
            raise OSError(errno.ENOSPC, words) if kind is OSError else kind(f"I/O error: {words}")
        save(tensors, path)

    monkeypatch.setattr(shards_module, "save_file", full)
    with pytest.raises(ToysaeError, match="cannot write .*00002.safetensors: the disk is full, it "
                       "needs .* are free; what is finished is kept"):  # fmt: skip
        go(out=out)
    assert [len(read_manifest(out / site).shards) for site in SITES] == [3, 2]
    monkeypatch.undo()
    kept, complete = files(out), files(whole)
    assert len(kept) == 9  # three shards and two, manifests, matrices
    assert all(complete[name] == data for name, data in kept.items() if "manifest" not in name)
    go(out=out)
    assert_same_files(out, whole)


def test_a_disk_that_is_really_full(small_disk, go, whole, tmp_path, monkeypatch):
    disk = small_disk(120)
    with pytest.raises(ToysaeError, match="the disk is full, it needs 203 KiB"):
        go(out=disk / "out")
    monkeypatch.setattr(module, "free_bytes", lambda path: 2**40)
    with pytest.raises(ToysaeError, match="cannot write .*: the disk is full, it needs"):
        go(out=disk / "out")
    assert 0 < len(read_manifest(disk / "out" / POST).shards) < 7
    roomy = shutil.copytree(disk / "out", tmp_path / "roomy")
    assert not list(roomy.rglob("*.tmp"))
    go(out=roomy)
    assert_same_files(roomy, whole)


def test_activations_that_are_not_finite_are_refused_with_their_sequence(
    model, packed, go, whole, tmp_path
):
    """The token that first stands furthest back."""
    ids, firsts = np.unique(packed.tokens, return_index=True)
    late = int(ids[firsts.argmax()])
    seq, pos = divmod(int(firsts.max()), 16)
    W = jnp.asarray(model.weights["W_E"]).at[late, 3].set(jnp.nan)
    broken = model.replace(weights={**model.weights, "W_E": W})
    bad = sum(1 for i, p in kept(packed) if i == seq and p >= pos)
    with pytest.raises(ToysaeError, match=rf"\d+ of \d+ activations are not finite, the first in "
                       rf"sequence \[{seq}\]: keep them in another type"):  # fmt: skip
        capture(broken, packed, SITES, tmp_path, dtype="float32", batch_size=4, shard_bytes=SMALL)
    shards = read_manifest(tmp_path / POST).shards
    assert bad > 0 and len(shards) > 1 and shards[-1].last <= seq
    assert shards == read_manifest(whole / POST).shards[: len(shards)]


def test_activations_too_large_for_float16_are_refused(model, packed, tmp_path):
    with pytest.raises(ToysaeError, match="are not finite, the first in sequence \\[0\\]"):
        capture(scaled(model, 1e6), packed, [POST], tmp_path, dtype="float16", batch_size=4)


# Folders


def test_a_site_is_found_by_its_name_or_as_the_only_one(whole, tmp_path):
    assert site_folders(whole) == [whole / POST, whole / MLP]
    for site in SITES:
        assert find_site(whole, site) == find_site(whole / site) == whole / site
        assert find_site(str(whole / site), site) == whole / site
    (tmp_path / "one").mkdir()
    shutil.copytree(whole / POST, tmp_path / "one" / POST)
    assert find_site(tmp_path / "one") == tmp_path / "one" / POST
    for given, words in [
        ((whole,), f"holds {POST}, {MLP}: name one with --site"),
        ((whole, "blocks.1.hook_resid_pre"), f"unknown site .* did you mean '{POST}'"),
        ((whole / POST, MLP), f"is one site, and not {MLP}"),
        ((tmp_path,), "holds no captured site: make one with"),
        ((tmp_path / "nowhere",), "holds no captured site"),
    ]:
        with pytest.raises(ToysaeError, match=words):
            find_site(*given)


def test_a_checksum_is_of_the_weights_alone(model):
    again = load_model(GOLDEN / "gpt-neox")
    assert module.weights_sha256(again) == module.weights_sha256(model)
    assert module.weights_sha256(scaled(model, 1.0001)) != module.weights_sha256(model)
    flat = jax.tree.leaves(model.weights)
    assert len(flat) > 10
