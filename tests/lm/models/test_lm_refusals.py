"""Folders that are no model, or one that would compute something else: refused in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from toysae import ToysaeError
from toysae.lm.capture.shards import Manifest, Shard, write_manifest
from toysae.lm.models import load_model

GOLDEN = Path(__file__).parents[1] / "golden"


def refused(folder):
    """The line that a model was refused with."""
    with pytest.raises(ToysaeError) as error:
        load_model(folder)
    said = str(error.value)
    assert said and "\n" not in said and len(said) < 500
    return said


@pytest.mark.parametrize(
    ("name", "config", "tensors", "words"),
    [
        ("gpt2", {"scale_attn_weights": False}, {}, "scale_attn_weights is false"),
        ("llama3", {}, {"lm_head.weight": None},
         "tie_word_embeddings is false and the weights lack the output matrix"),
        ("llama", {"logit_scale": 2.0}, {}, "has logit_scale, of which it is not known"),
        ("llama", {}, {"x.weight": np.ones(3)},
         "1 tensors have no place in a llama, the first of them ['x.weight']"),
        ("llama", {}, {"lm_head.weight": np.ones((320, 48), np.float32)}, "which one is meant?"),
    ],
    ids=["unscaled", "no-output", "field", "tensor", "two-outputs"],
)  # fmt: skip
def test_a_model_that_would_be_read_as_another_is_refused(tmp_path, name, config, tensors, words):
    folder = Path(shutil.copytree(GOLDEN / name, tmp_path / "model"))
    file, weights = folder / "config.json", load_file(folder / "model.safetensors") | tensors
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    kept = {key: value for key, value in weights.items() if value is not None}
    save_file(kept, folder / "model.safetensors")
    assert words in refused(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7", "is not a JSON object but 7"),
        ('"x"', "is not a JSON object but 'x'"),
        ("[]", "is not a JSON object but []"),
        ("[" * 100_000, "is nested too deep to be read"),
    ],
    ids=["number", "text", "list", "nested"],
)
def test_a_config_that_is_no_object_is_refused(tmp_path, text, words):
    file = tmp_path / "config.json"
    file.write_text(text)
    assert f"{file} {words}" in refused(tmp_path)


def test_a_folder_in_place_of_a_config_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    assert f"{tmp_path} holds no config.json: give a model's folder" in refused(tmp_path)


READ = """
import sys
from pathlib import Path
from toysae import ToysaeError
from toysae.lm.capture.shards import Shards
from toysae.lm.capture.sources import matrix_axes
from toysae.lm.capture.text import load_corpus
from toysae.lm.models import load_model, load_tokenizer

def axes(folder):
    return matrix_axes(folder, "writes")

def gguf(folder):
    return load_model(folder / "model.gguf")

folder = Path(sys.argv[1])
for read in (load_model, gguf, load_tokenizer, load_corpus, axes, Shards):
    try:
        read(folder)
    except ToysaeError as error:
        print(error)
"""


def test_a_pipe_in_place_of_any_file_is_refused_and_never_waited_for(tmp_path):
    """In a process of its own, which can be ended if it waits."""
    pipes = ["model.safetensors", "model.gguf", "tokenizer.json", "tokens.npy", "matrices.npz",
             "00000.safetensors"]  # fmt: skip
    for name in pipes:
        os.mkfifo(tmp_path / name)
    shutil.copy(GOLDEN / "llama" / "config.json", tmp_path)
    (tmp_path / "corpus.json").write_text(json.dumps({"sums": {"tokens": ""}, "layout": {}}))
    shard = Shard(pipes[-1], 0, 1, 7, "", (0.0, 0.0))
    write_manifest(
        tmp_path, Manifest("m", "w", "s", 4, "float32", False, "c", 1, 8, 1, 7, (shard,))
    )
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == len(pipes), done.stderr
    assert f"{tmp_path / pipes[0]} is not a regular file" in lines[0]
    for line, name in zip(lines, pipes, strict=True):
        assert name in line
