"""Corpora against sequences cut one token at a time in plain Python."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers

import toysae.lm.capture.text as module
from toysae import ToysaeError
from toysae.lm import load_tokenizer
from toysae.lm.capture.text import TextLayout, build_corpus, documents, load_corpus
from toysae.lm.models.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent / "golden"
# Of very different lengths, some empty.
TEXTS = [
    "To be, or not to be:", "that is the question.\n", "a", "", "Whether 'tis nobler in the mind",
    "naïve café — ∑ x² ≤ 1984\n\n\ttabs and\r\nlines" * 3, "", "e", "", "the end", "",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(GOLDEN / "gpt2")


@pytest.fixture
def jsonl(tmp_path):
    return wrote(tmp_path / "texts.jsonl", TEXTS)


def wrote(path, texts):
    lines = [json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def expected(texts, tokenizer, layout, n_tokens):
    """(tokens, docs) of every sequence, without padding."""
    stream, sequences = [], []
    for number, text in enumerate(texts):
        (ids,) = tokenizer.encode([text])
        if ids and stream and layout.pack:
            stream.append((tokenizer.end, stream[-1][1], False))
        stream += [(token, number, i == 0) for i, token in enumerate(ids)]
    current = []
    for token, doc, starts in stream:
        if len(current) == layout.n_ctx or (current and starts and not layout.pack):
            sequences.append(current)
            current = []
        if not current and layout.bos:
            current.append((tokenizer.end, doc))
        current.append((token, doc))
    sequences.append(current)
    kept, left = [], n_tokens
    for sequence in sequences:
        short = []
        for place in sequence:
            if left == 0:
                break
            short.append(place)
            if left is not None and len(short) > layout.first:
                left -= 1
        if len(short) > layout.first:
            kept.append(short)
    return kept


def assert_is(corpus, sequences):
    """Padding is 0, of the last token's document."""
    assert len(corpus.tokens) == len(corpus.docs) == len(sequences)
    assert corpus.lengths.tolist() == [len(sequence) for sequence in sequences]
    n = corpus.layout.n_ctx
    for tokens, docs, sequence in zip(corpus.tokens, corpus.docs, sequences, strict=True):
        pad = n - len(sequence)
        assert tokens.tolist() == [token for token, _ in sequence] + [0] * pad
        assert docs.tolist() == [doc for _, doc in sequence] + [sequence[-1][1]] * pad
    counts = [len(sequence) - corpus.layout.first for sequence in sequences]
    assert corpus.counts.tolist() == counts


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("n_tokens", [None, 40, 41, 47])
def test_sequences_are_those_cut_token_by_token(
    jsonl, tmp_path, tokenizer, pack, bos, first, n_tokens
):
    layout = TextLayout(8, pack, bos, first)
    corpus = build_corpus(jsonl, tokenizer, tmp_path / "corpus", n_tokens, layout)
    assert_is(corpus, expected(TEXTS, tokenizer, layout, n_tokens))
    assert n_tokens in (None, corpus.counts.sum())
    assert corpus.about["text"] == str(jsonl) and corpus.about["tokenizer"] == tokenizer.sha256


@pytest.mark.parametrize("pack", [True, False])
def test_documents_that_fill_sequences_to_the_last_token(tmp_path, tokenizer, pack):
    """The end token between two of them may be the last of a sequence, or the first."""
    texts = [tokenizer.decode([7] * n) for n in (8, 7, 8, 16, 1)]
    assert [len(ids) for ids in tokenizer.encode(texts)] == [8, 7, 8, 16, 1]
    layout = TextLayout(8, pack, first=0)
    source = wrote(tmp_path / "even.jsonl", texts)
    corpus = build_corpus(source, tokenizer, tmp_path / "c", None, layout)
    assert_is(corpus, expected(texts, tokenizer, layout, None))


def test_more_documents_than_are_tokenised_at_once(tmp_path, tokenizer, monkeypatch):
    texts = [f"document {i}\n" * (i % 3) for i in range(23)]
    source, layout = wrote(tmp_path / "many.jsonl", texts), TextLayout(16)
    monkeypatch.setattr(module, "_BATCH", 5)
    corpus = build_corpus(source, tokenizer, tmp_path / "c", None, layout)
    assert_is(corpus, expected(texts, tokenizer, layout, None))


def test_no_more_is_read_than_is_needed(tmp_path, tokenizer, monkeypatch):
    source = wrote(tmp_path / "broken.jsonl", ["document"] * 20)
    source.write_text(source.read_text() + "not json\n")
    monkeypatch.setattr(module, "_BATCH", 2)
    corpus = build_corpus(source, tokenizer, tmp_path / "c", 21, TextLayout(8))
    assert corpus.counts.sum() == 21
    with pytest.raises(ToysaeError, match="line 21: not an object"):
        build_corpus(source, tokenizer, tmp_path / "all", None, TextLayout(8))


def test_a_file_is_one_document_and_a_folder_one_of_each_in_the_order_of_names(tmp_path, tokenizer):
    folder = tmp_path / "texts"
    (folder / "m").mkdir(parents=True)
    names = ["z.txt", "a.txt", "m/one.txt", "m/two.txt"]
    for name in names:
        (folder / name).write_text(f"This is {name} — ∑\n" * 4, encoding="utf-8")
    (folder / "notes.md").write_text("not a text")
    texts = [(folder / name).read_text(encoding="utf-8") for name in sorted(names)]
    assert list(documents(folder)) == texts
    assert list(documents(folder / "z.txt")) == [texts[-1]]
    layout = TextLayout(16, pack=False)
    for source, wanted in ((folder, texts), (folder / "z.txt", texts[-1:])):
        corpus = build_corpus(source, tokenizer, tmp_path / f"{source.name}-c", None, layout)
        assert_is(corpus, expected(wanted, tokenizer, layout, None))


def test_another_column_of_a_jsonl_file(tmp_path, tokenizer):
    path = tmp_path / "other.jsonl"
    path.write_text('{"body": "one"}\n\n{"body": "two", "text": "no"}\n \n')
    assert list(documents(path, "body")) == ["one", "two"]
    made = build_corpus(path, tokenizer, tmp_path / "c", None, TextLayout(8), "body")
    assert tokenizer.decode(made.tokens[0, : made.lengths[0]].tolist()) == "one<|endoftext|>two"
    with pytest.raises(ToysaeError, match="line 1: not an object with 'text'"):
        build_corpus(path, tokenizer, tmp_path / "d", None, TextLayout(8))


def test_long_documents_are_cut_at_lines_and_keep_all_their_text(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 50)
    endless = "x" * 200
    texts = ["".join(f"{'word ' * (i % 23)}∑{i}\n" for i in range(60)) + endless, endless, "a\nb"]
    source = wrote(tmp_path / "long.jsonl", texts)
    pieces = list(module._pieces(documents(source)))
    of_first = [text for doc, text in pieces if doc == 0]
    assert len(of_first) > 10 and [doc for doc, _ in pieces[-2:]] == [1, 2]
    assert all(text.endswith("\n") and 50 < len(text) < 200 for text in of_first[:-1])
    corpus = build_corpus(source, tokenizer, tmp_path / "c", None, TextLayout(32, first=0))
    flat = np.concatenate([row[:n] for row, n in zip(corpus.tokens, corpus.lengths, strict=True)])
    assert tokenizer.decode(flat.tolist()) == "<|endoftext|>".join(texts)
    docs = np.concatenate([row[:n] for row, n in zip(corpus.docs, corpus.lengths, strict=True)])
    assert (docs[np.append(0, np.flatnonzero(flat == 0) + 1)] == [0, 1, 2]).all()
    assert (np.diff(docs) >= 0).all()


def test_the_token_that_begins_a_text_is_not_the_one_that_ends_it(tmp_path):
    inner = Inner(models.WordLevel({"</s>": 0, "<s>": 1, "a": 2, "b": 3}, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "tokenizer.json"))
    own, source = load_tokenizer(tmp_path), wrote(tmp_path / "ab.jsonl", ["a b " * 20, "b"])
    corpus = build_corpus(source, own, tmp_path / "c", None, TextLayout(8, bos=True))
    assert (own.begin, own.end) == (1, 0)
    assert corpus.tokens[:, 0].tolist() == [1] * len(corpus.tokens) and len(corpus.tokens) == 6
    assert (corpus.tokens[:, 1:] != 1).all() and 0 in corpus.tokens[-1, 1 : corpus.lengths[-1]]


# Folders


def test_the_same_call_again_reads_what_is_there(jsonl, tmp_path, tokenizer, monkeypatch):
    made = build_corpus(jsonl, tokenizer, tmp_path / "c", 30, TextLayout(8))
    assert sorted(file.name for file in (tmp_path / "c").iterdir()) == [
        "corpus.json", "docs.npy", "lengths.npy", "tokens.npy"
    ]  # fmt: skip
    monkeypatch.setattr(module, "_sequences", None)
    again = build_corpus(jsonl, tokenizer, tmp_path / "c", 30, TextLayout(8))
    for found in (again, load_corpus(tmp_path / "c")):
        for name in ("tokens", "docs", "lengths"):
            np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
        assert (found.layout, found.about) == (made.layout, made.about)


def test_the_same_text_gives_the_same_bytes(jsonl, tmp_path, tokenizer):
    for name in "ab":
        build_corpus(jsonl, tokenizer, tmp_path / name, 30, TextLayout(8))
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_another_corpus_in_the_folder_is_refused_by_what_differs(jsonl, tmp_path, tokenizer):
    folder = tmp_path / "c"
    build_corpus(jsonl, tokenizer, folder, 30, TextLayout(8))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    other = Tokenizer(load_tokenizer(GOLDEN / "gpt2").inner, 0)
    other.inner.add_tokens(["more"])
    text = wrote(tmp_path / "other.jsonl", TEXTS)
    for call, differs in [
        ((text, tokenizer, folder, 30, TextLayout(8)), "text differ"),
        ((jsonl, other, folder, 30, TextLayout(8)), "tokenizer differ"),
        ((jsonl, tokenizer, folder, 31, TextLayout(8)), "n_tokens differ, e.g. 30"),
        ((jsonl, tokenizer, folder, None, TextLayout(8)), "n_tokens differ"),
        ((jsonl, tokenizer, folder, 30, TextLayout(8, bos=True)), "layout differ"),
        ((text, tokenizer, folder, 31, TextLayout(9)), "text, n_tokens, layout differ"),
    ]:
        with pytest.raises(ToysaeError, match=f"c holds another corpus: {differs}"):
            build_corpus(*call)
    wrote(jsonl, [*TEXTS, "more"])
    with pytest.raises(ToysaeError, match=r"c holds another corpus: bytes differ, e.g. \d+; give"):
        build_corpus(jsonl, tokenizer, folder, 30, TextLayout(8))
    jsonl.unlink()  # what is finished needs it no longer
    assert len(build_corpus(jsonl, tokenizer, folder, 30, TextLayout(8)).lengths) > 0
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_text_that_is_too_short_is_refused_with_its_length(jsonl, tmp_path, tokenizer):
    layout = TextLayout(8, first=2)
    there = sum(len(s) - 2 for s in expected(TEXTS, tokenizer, layout, None))
    with pytest.raises(ToysaeError, match=f"has {there} tokens to keep and 5,000 were asked for.*"
                       f"--tokens {there}"):  # fmt: skip
        build_corpus(jsonl, tokenizer, tmp_path / "c", 5000, layout)
    with pytest.raises(ToysaeError, match="holds no corpus"):
        load_corpus(tmp_path / "c")
    corpus = build_corpus(jsonl, tokenizer, tmp_path / "c", there, layout)
    assert_is(corpus, expected(TEXTS, tokenizer, layout, None))


def test_a_text_with_nothing_to_keep_is_refused(tmp_path, tokenizer):
    (tmp_path / "empty.txt").write_text("")
    wrote(tmp_path / "short.jsonl", ["a", "b"])
    for name, layout in (
        ("empty.txt", TextLayout(8)),
        ("short.jsonl", TextLayout(8, False, first=3)),
    ):
        with pytest.raises(ToysaeError, match=f"{name} is empty: no token is left"):
            build_corpus(tmp_path / name, tokenizer, tmp_path / "c", None, layout)


@pytest.mark.parametrize("name", ["tokens.npy", "docs.npy", "lengths.npy", "corpus.json"])
def test_damaged_files_are_refused(jsonl, tmp_path, tokenizer, name):
    call = (jsonl, tokenizer, tmp_path / "c", 30, TextLayout(8))
    build_corpus(*call)
    file = tmp_path / "c" / name
    whole = file.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in (1, 60, -2)]
    text = [whole.replace(b'"n_ctx": 8', b'"n_ctx": 9'), whole.replace(b'"sums"', b'"some"')]
    for damaged in (whole[:-8], b"", b"[]", *(flipped if name != "corpus.json" else text)):
        file.write_bytes(damaged)
        for again in (lambda: load_corpus(tmp_path / "c"), lambda: build_corpus(*call)):
            with pytest.raises(ToysaeError, match="c holds no corpus, or a damaged one"):
                again()
    file.unlink()
    with pytest.raises(ToysaeError, match="c holds no corpus"):
        load_corpus(tmp_path / "c")
    file.write_bytes(whole)
    load_corpus(tmp_path / "c")


@pytest.mark.parametrize("name", ["tokens", "docs", "lengths"])
def test_a_full_disk_leaves_no_corpus_and_no_rubbish(jsonl, tmp_path, tokenizer, monkeypatch, name):
    def full(path, array):
        path.write_bytes(b"\x93NUMPY")
        if name in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "_save", full)
    folder = tmp_path / "c"
    with pytest.raises(ToysaeError, match=f"cannot write .*{name}.npy: the disk is full"):
        build_corpus(jsonl, tokenizer, folder, 30, TextLayout(8))
    assert not (folder / "corpus.json").exists() and not list(folder.glob("*.tmp"))
    monkeypatch.undo()
    corpus = build_corpus(jsonl, tokenizer, folder, 30, TextLayout(8))
    assert_is(corpus, expected(TEXTS, tokenizer, TextLayout(8), 30))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_disk_that_fills_up_while_sequences_are_written(jsonl, tmp_path, tokenizer, monkeypatch):
    original = Path.open

    def full(self, *args, **kwargs):
        away = self.name == ".docs.tmp" and args == ("wb",)
        return original(Path("/dev/full") if away else self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ToysaeError, match="cannot write .*tokens.npy: the disk is full"):
        build_corpus(jsonl, tokenizer, tmp_path / "c", None, TextLayout(8))
    assert not list((tmp_path / "c").iterdir())


# Sources


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("latin.txt", "café".encode("latin-1"), "latin.txt is not a text in UTF-8"),
        ("deep.jsonl", b"[" * 100_000, "deep.jsonl, line 1: not an object with 'text'"),
        ("latin.jsonl", '{"text": "café"}'.encode("latin-1"), "latin.jsonl is not a text in UTF-8"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"body": "b"}\n',
            "a.jsonl, line 2: not an object with 'text'",
        ),
        ("b.jsonl", b'{"text": "a"}\n{"text": \n', "b.jsonl, line 2: not an object"),
        ("c.jsonl", b'{"text": "a"}\n["text"]\n', "c.jsonl, line 2: not an object"),
        ("d.jsonl", b'{"text": null}\n', "d.jsonl, line 1: 'text' is None, not a text"),
    ],
)
def test_files_that_are_no_texts_are_named(tmp_path, tokenizer, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ToysaeError, match=words):
        build_corpus(tmp_path / name, tokenizer, tmp_path / "c", None, TextLayout(8))
    assert not (tmp_path / "c" / "corpus.json").exists()


def test_what_is_not_there_is_said_with_what_to_give(tmp_path, monkeypatch):
    (tmp_path / "bare").mkdir()
    with pytest.raises(ToysaeError, match="bare holds no .txt files"):
        next(documents(tmp_path / "bare"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    for nothing in (tmp_path / "nothing", "./nothing", "~/nothing", "nothing.txt", "a/b/c"):
        with pytest.raises(ToysaeError, match="there is no text .*nothing|a/b/c: give a .txt"):
            next(documents(nothing))
    with pytest.raises(ToysaeError, match="there is no file some/text; .*pip install datasets"):
        next(documents("some/text"))


def test_a_data_set_of_the_hub_is_streamed_and_its_errors_are_one_line(monkeypatch):
    asked = []

    def load_dataset(name, split, streaming):
        asked.append((name, split, streaming))
        yield from ({"text": "one"}, {"text": "two"}, {"body": "three"})
        raise AssertionError("read on behind an error")

    hub = SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    rows = documents("some/text")
    assert [next(rows), next(rows)] == ["one", "two"] and asked == [("some/text", "train", True)]
    with pytest.raises(ToysaeError, match="cannot read data set 'some/text' \\(KeyError: 'text'"):
        next(rows)

    def no_network(*args, **kwargs):
        raise ConnectionError("Name or service\nnot known " + "x" * 500)

    monkeypatch.setattr(hub, "load_dataset", no_network)
    with pytest.raises(ToysaeError, match="ConnectionError: Name or service not known.*local .txt"):
        next(documents("some/text"))


def test_without_an_end_token_only_padded_documents_go(jsonl, tmp_path, tokenizer):
    bare = Tokenizer(tokenizer.inner, None)
    for layout, words in (
        (TextLayout(8), "no end token .*pack=False"),
        (TextLayout(8, pack=False, bos=True), "no token that begins a text: use bos=False"),
    ):
        with pytest.raises(ToysaeError, match=words):
            build_corpus(jsonl, bare, tmp_path / "c", None, layout)
    layout = TextLayout(8, pack=False)
    corpus = build_corpus(jsonl, bare, tmp_path / "c", None, layout)
    assert_is(corpus, expected(TEXTS, tokenizer, layout, None))


@pytest.mark.parametrize(("n_ctx", "first"), [(1, 0), (0, 0), (8, 8), (8, -1)])
def test_layouts_that_keep_nothing_are_refused(n_ctx, first):
    with pytest.raises(ToysaeError, match="n_ctx|first"):
        TextLayout(n_ctx, first=first)


def test_what_a_killed_process_left_is_no_corpus(jsonl, tmp_path, tokenizer):
    """Of every state between two files."""
    folder, layout = tmp_path / "c", TextLayout(8)
    wanted = expected(TEXTS, tokenizer, layout, 30)
    build_corpus(jsonl, tokenizer, folder, 30, layout)
    for there in ([], ["tokens.npy"], ["tokens.npy", "docs.npy", "lengths.npy"]):
        part = tmp_path / f"part{len(there)}"
        part.mkdir()
        for name in there:
            shutil.copy(folder / name, part / name)
        (part / ".tokens.tmp").write_bytes(b"12345")
        (part / ".docs.npy.abcd1234.tmp").mkdir()
        (part / ".docs.npy.abcd1234.tmp" / "docs.npy").write_bytes(b"12345")
        assert_is(build_corpus(jsonl, tokenizer, part, 30, layout), wanted)
        assert not list(part.glob(".*"))
