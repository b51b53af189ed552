"""Captures of what is not ported, beside the captures of what is."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.lm import load_model, load_tokenizer
from toysae.lm.capture.capture import capture
from toysae.lm.capture.hooks import capture_from, hooked
from toysae.lm.capture.shards import Shards, read_manifest
from toysae.lm.capture.sources import CORPUS
from toysae.lm.capture.text import TextLayout, build_corpus
from toysae.lm.models import forward
from toysae.lm.saes.train import Training, train_site

GOLDEN = Path(__file__).parent / "golden"
SITES = ["blocks.0.mlp.hook_post", "blocks.1.hook_resid_post"]
SMALL = 20_000  # bytes a shard


@pytest.fixture(scope="module")
def model():
    return load_model(GOLDEN / "gpt2")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "text.txt").write_text("the cat sat on the mat, and it came and went\n" * 80)
    tokenizer = load_tokenizer(GOLDEN / "gpt2")
    return build_corpus(folder / "text.txt", tokenizer, folder / CORPUS, 900, TextLayout(16))


@pytest.fixture(scope="module")
def other(model):
    """The ported model as if it were somebody else's."""

    def acts(tokens):
        found = forward(model, jnp.asarray(tokens, jnp.int32), SITES, logits=False).acts
        return {site: np.asarray(x) for site, x in found.items()}

    return acts


@pytest.mark.parametrize("centre", [False, True])
def test_shards_are_those_of_a_capture(model, corpus, other, centre, tmp_path):
    how = {"dtype": "float32", "centre": centre, "shard_bytes": SMALL}
    ours = capture(model, corpus, SITES, tmp_path / "ours", **how)
    theirs = capture_from(other, corpus, tmp_path / "theirs", "other", **how)
    assert [folder.name for folder in theirs] == SITES
    every = np.arange(len(corpus.lengths))
    for mine, foreign in zip(map(Shards, ours), map(Shards, theirs), strict=True):
        np.testing.assert_allclose(foreign.read(every), mine.read(every), atol=1e-5)
        assert len(foreign.manifest.shards) > 2
        np.testing.assert_array_equal(foreign.column("tokens"), mine.column("tokens"))


def test_stopped_it_goes_on_to_the_same_bits(corpus, other, tmp_path):
    calls = []

    def failing(tokens):
        calls.append(len(tokens))
        if len(calls) == 9:
            raise KeyboardInterrupt
        return other(tokens)

    how = {"batch_size": 4, "shard_bytes": SMALL}
    whole = capture_from(other, corpus, tmp_path / "whole", "other", **how)
    with pytest.raises(KeyboardInterrupt):
        capture_from(failing, corpus, tmp_path / "part", "other", **how)
    shards = read_manifest(tmp_path / "part" / SITES[0]).shards
    assert 0 < len(shards) < len(read_manifest(whole[0]).shards)
    for mine, again in zip(
        whole, capture_from(other, corpus, tmp_path / "part", "other", **how), strict=True
    ):
        files = sorted(file.name for file in mine.iterdir())
        assert files == sorted(file.name for file in again.iterdir())
        assert all((mine / name).read_bytes() == (again / name).read_bytes() for name in files)
    with pytest.raises(ToysaeError, match="holds another capture .*weights"):
        capture_from(other, corpus, tmp_path / "part", "other", "of another day", **how)


def test_saes_train_on_them_but_not_from_matrices_that_are_not_there(corpus, other, tmp_path):
    folder = capture_from(other, corpus, tmp_path / "cap", "other")[1]
    t = Training(sizes=(1.0,), l1_coeff=(0.3,), n_steps=30, batch_size=16, curve_points=2)
    table = train_site(folder, t, tmp_path / "saes").table
    assert np.isfinite(table["fvu"]).all()
    with pytest.raises(ToysaeError, match="through hooks has no matrices: take another init"):
        svd = Training(
            inits=("svd-write",), sizes=(1.0,), l1_coeff=(0.3,), n_steps=30, batch_size=16
        )
        train_site(folder, svd, tmp_path / "more")


@pytest.mark.parametrize(
    ("acts", "words"),
    [
        (lambda tokens: {}, "no site has given activations"),
        (lambda tokens: {"here": np.zeros((len(tokens), 8))}, r"here gave .* \[1, 8\]"),
        (lambda tokens: {"here": np.full((*tokens.shape, 8), np.nan)}, "are not finite"),
    ],
)
def test_activations_that_cannot_be_are_refused(corpus, acts, words, tmp_path):
    with pytest.raises(ToysaeError, match=words):
        capture_from(acts, corpus, tmp_path, "other")


@pytest.mark.peers
def test_hooks_of_a_torch_model_see_what_the_port_sees(corpus, model, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(GOLDEN / "gpt2").float().eval()
    site = "blocks.1.hook_resid_post"
    acts = hooked(theirs, {site: theirs.transformer.h[1]})
    (folder,) = capture_from(acts, corpus, tmp_path / "torch", "gpt2", dtype="float32")
    (mine,) = capture(model, corpus, [site], tmp_path / "jax", dtype="float32")
    every = np.arange(len(corpus.lengths))
    np.testing.assert_allclose(Shards(folder).read(every), Shards(mine).read(every), atol=1e-4)
    assert not theirs.transformer.h[1]._forward_hooks
