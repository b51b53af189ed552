"""Turns documents into sequences of token ids on disk, which a model reads in a fixed order.

A corpus is tokenised once, before any activation exists, so that a text that is too short is
noticed early and sequences can be read in any order.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ...checked import Fields, read_json
from ...disk import (
    TEMPORARY,
    file_sha256,
    remove_temporaries,
    telling_of_a_full_disk,
    write,
    write_bytes,
)
from ...errors import ToysaeError, require
from ..models.tokenizer import Tokenizer

_BATCH = 64  # documents tokenised at once
_PIECE = 100_000  # characters, about; a whole novel at once would be slow to tokenise
_ABOUT = "corpus.json"
_ARRAYS = ("tokens", "docs", "lengths")


@dataclass(frozen=True)
class TextLayout:
    """How documents become sequences of `n_ctx` tokens.

    Attributes:
        n_ctx: tokens of a sequence.
        pack: documents follow each other with the end token between them, cut every `n_ctx`
            tokens; otherwise each document is cut on its own, its last sequence padded.
        bos: each sequence starts with the token that begins a text (for GPT-2 and Pythia the end
            token), as in most SAE libraries.
        first: positions before this one are not kept: position 0 is the attention sink of most
            models, with a norm two orders larger.
    """

    n_ctx: int = 128
    pack: bool = True
    bos: bool = False
    first: int = 1

    def __post_init__(self) -> None:
        require(self.n_ctx >= 2, f"n_ctx {self.n_ctx} must be at least 2")
        require(
            0 <= self.first < self.n_ctx,
            f"first {self.first} is outside 0..{self.n_ctx - 1}: nothing would be left",
        )


@dataclass(frozen=True)
class Corpus:
    """Sequences of token ids, memory-mapped.

    Attributes:
        tokens: `[n_seq, n_ctx]`; 0 after a sequence's end.
        docs: `[n_seq, n_ctx]` the number of each token's document.
        lengths: `[n_seq]` tokens of each sequence.
        layout: of the sequences.
        about: where the text and the tokenizer came from, and checksums: `sha256` of the tokens.
    """

    tokens: Int[np.ndarray, "n_seq n_ctx"]
    docs: Int[np.ndarray, "n_seq n_ctx"]
    lengths: Int[np.ndarray, " n_seq"]
    layout: TextLayout
    about: dict

    @property
    def counts(self) -> Int[np.ndarray, " n_seq"]:
        """The number of positions kept of each sequence."""
        return np.maximum(self.lengths - self.layout.first, 0)


def documents(source: str | Path, column: str = "text") -> Iterator[str]:
    """Yields the documents of a text file (one), a folder of text files, a `.jsonl` file (one a
    line) or a data set of the Hugging Face hub.

    Raises:
        ToysaeError: nothing there, a line without the column, no network, or `datasets` missing.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(path.rglob("*.txt"))
        require(files, f"{path} holds no .txt files: give a file, or a folder of them")
        for file in files:
            yield from documents(file)
    elif path.suffix == ".jsonl" and path.is_file():
        with _utf8(path), path.open(encoding="utf-8") as lines:
            for i, line in enumerate(lines, 1):
                if line.strip():
                    yield _of_line(line, column, f"{path}, line {i}")
    elif path.is_file():
        with _utf8(path):
            text = path.read_text(encoding="utf-8")
        yield text
    else:
        yield from _of_hub(str(source), column)


@contextmanager
def _utf8(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise ToysaeError(f"{path} is not a text in UTF-8 ({error})") from error


def _of_line(line: str, column: str, where: str) -> str:
    try:
        text = json.loads(line)[column]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ToysaeError(f"{where}: not an object with {column!r} ({error!r})") from error
    require(isinstance(text, str), f"{where}: {column!r} is {text!r:.80}, not a text")
    return text


def _of_hub(name: str, column: str) -> Iterator[str]:
    is_name = name.count("/") <= 1 and not name.startswith((".", "/", "~"))
    require(is_name and Path(name).suffix == "", f"there is no text {name}: give a .txt or .jsonl "
            "file, a folder of .txt files, or a data set on the hub")  # fmt: skip
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise ToysaeError(
            f"there is no file {name}; to read it as a data set of the hub, pip install datasets"
        ) from error
    try:
        for row in datasets.load_dataset(name, split="train", streaming=True):
            yield str(row[column])
    except Exception as error:  # of many libraries below it
        reason = " ".join(str(error).split())[:160]
        raise ToysaeError(
            f"cannot read data set {name!r} ({type(error).__name__}: {reason}): check the name, "
            "the column and the network, or give a local .txt or .jsonl file"
        ) from error


def build_corpus(
    source: str | Path, tokenizer: Tokenizer, folder: Path, n_tokens: int | None,
    layout: TextLayout, column: str = "text",
) -> Corpus:  # fmt: skip
    """Tokenises a text until `n_tokens` positions are kept, or to its end if None; reads the corpus
    that is in `folder` already, if there is one.

    Args:
        source: see :func:`documents`.
        tokenizer: of the model that is to read it.
        folder: where the token ids are written.
        n_tokens: positions to keep.
        layout: of the sequences.
        column: of a `.jsonl` file or a data set.

    Raises:
        ToysaeError: a text shorter than asked for, saying how long it is; a corpus of another text,
            tokenizer, length or layout in the folder; a tokenizer without an end token if one is
            needed.
    """
    about = {
        "text": str(source), "tokenizer": tokenizer.sha256, "n_tokens": n_tokens,
        "layout": asdict(layout), **_identity(Path(source), column),
    }  # fmt: skip
    if layout.bos:
        about["begin"] = tokenizer.begin
    if (folder / _ABOUT).exists():
        return _same_corpus(folder, about, tokenizer)
    require(
        tokenizer.end is not None or not layout.pack,
        "the tokenizer has no end token to put between documents: use pack=False",
    )
    require(
        tokenizer.begin is not None or not layout.bos,
        "the tokenizer has no token that begins a text: use bos=False",
    )
    folder.mkdir(parents=True, exist_ok=True)
    files = {_ABOUT, *(f"{name}.npy" for name in _ARRAYS)}
    remove_temporaries(folder, files.__contains__)
    sequences = _sequences(documents(source, column), tokenizer, layout)
    n_kept = _write(sequences, folder, n_tokens, layout)
    if n_tokens is not None and n_kept < n_tokens:
        raise ToysaeError(
            f"{source} has {n_kept:,} tokens to keep and {n_tokens:,} were asked for: give more "
            f"text, or --tokens {n_kept}"
        )
    require(n_kept > 0, f"{source} is empty: no token is left to keep")
    sums = {name: file_sha256(folder / f"{name}.npy") for name in _ARRAYS}
    about |= {"sha256": sums["tokens"], "sums": sums}
    write_bytes(folder / _ABOUT, json.dumps(about, indent=1).encode())
    return load_corpus(folder)


def _same_corpus(folder: Path, about: dict, tokenizer: Tokenizer) -> Corpus:
    """The corpus of a folder, refused if it is not the one that `about` describes."""
    corpus = load_corpus(folder)
    # Older corpora began sequences with the end token, and do not say so.
    on_disk = {**about, "begin": tokenizer.end, **corpus.about}
    changed = [name for name, value in about.items() if on_disk[name] != value]
    require(
        not changed,
        f"{folder} holds another corpus: {', '.join(changed)} differ, e.g. "
        f"{changed[:1] and on_disk[changed[0]]!r}; give another folder",
    )
    return corpus


def _identity(path: Path, column: str) -> dict[str, int | str]:
    """What tells a text from an edited one: its size, if it is a file, and its column, if any."""
    files = path.rglob("*.txt") if path.is_dir() else [path] if path.is_file() else []
    size = sum(file.stat().st_size for file in files)
    plain = path.is_dir() or path.suffix == ".txt"
    return ({"bytes": size} if size else {}) | ({} if plain else {"column": column})


def load_corpus(folder: Path) -> Corpus:
    """Loads a corpus that :func:`build_corpus` made.

    Raises:
        ToysaeError: no corpus there, or damaged files.
    """
    try:
        about = Fields(read_json(folder / _ABOUT), folder / _ABOUT).value
        for name in _ARRAYS:
            file = folder / f"{name}.npy"
            require(file.is_file(), f"{name}.npy is missing or not a regular file")
            same = file_sha256(file) == about["sums"][name]
            require(same, f"{name}.npy is not as it was written")
        tokens, docs = (np.load(folder / f"{name}.npy", "r") for name in ("tokens", "docs"))
        lengths = np.load(folder / "lengths.npy")
        layout = TextLayout(**about["layout"])
        require(tokens.shape == docs.shape == (len(lengths), layout.n_ctx), "shapes do not fit")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToysaeError(
            f"{folder} holds no corpus, or a damaged one ({error}): delete it and make it again"
        ) from error
    return Corpus(tokens, docs, lengths, layout, about)


def _pieces(texts: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Yields (document, text) of documents, long ones in pieces that end at a line."""
    for doc, text in enumerate(texts):
        start = 0
        while start < len(text):
            end = text.find("\n", start + _PIECE) + 1 or len(text)
            yield doc, text[start:end]
            start = end


def _tokenised(texts: Iterator[str], tokenizer: Tokenizer) -> Iterator[tuple[int, list[int]]]:
    pieces = _pieces(texts)
    while some := list(islice(pieces, _BATCH)):
        ids = tokenizer.encode([text for _, text in some])
        yield from zip((doc for doc, _ in some), ids, strict=True)


def _sequences(
    texts: Iterator[str], tokenizer: Tokenizer, layout: TextLayout
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (tokens, docs) of each sequence; only a last one may be short."""
    room = layout.n_ctx - layout.bos
    tokens, docs, last = [], [], None

    def cut(n: int) -> tuple[np.ndarray, np.ndarray]:
        head = [tokenizer.begin] * layout.bos
        out = np.array(head + tokens[:n], np.int32), np.array(docs[:1] * layout.bos + docs[:n])
        del tokens[:n], docs[:n]
        return out

    for doc, ids in _tokenised(texts, tokenizer):
        if last is not None and doc != last:
            if layout.pack:
                tokens.append(tokenizer.end)
                docs.append(last)
            elif tokens:
                yield cut(room)
        tokens += ids
        docs += [doc] * len(ids)
        last = doc
        while len(tokens) >= room:
            yield cut(room)
    if tokens:
        yield cut(room)


def _write(sequences, folder: Path, n_tokens: int | None, layout: TextLayout) -> int:
    """Appends sequences to files, then adds headers. Returns how many positions are kept."""
    lengths, n_kept = [], 0
    raw = [folder / f".{name}{TEMPORARY}" for name in ("tokens", "docs")]
    try:
        with (
            telling_of_a_full_disk(folder / "tokens.npy"),
            raw[0].open("wb") as token_file, raw[1].open("wb") as doc_file,
        ):  # fmt: skip
            for tokens, docs in sequences:
                if n_tokens is not None and n_kept >= n_tokens:
                    break
                room = layout.n_ctx if n_tokens is None else n_tokens - n_kept + layout.first
                tokens, docs = tokens[:room], docs[:room]
                if len(tokens) <= layout.first:
                    continue
                pad = (0, layout.n_ctx - len(tokens))
                token_file.write(np.pad(tokens, pad).astype(np.int32).tobytes())
                doc_file.write(np.pad(docs, pad, mode="edge").astype(np.int32).tobytes())
                lengths.append(len(tokens))
                n_kept += len(tokens) - layout.first
        shape = (len(lengths), layout.n_ctx)
        for name, file in zip(("tokens", "docs"), raw, strict=True):
            array = np.memmap(file, np.int32, "r", shape=shape) if lengths else np.zeros(shape)
            write(folder / f"{name}.npy", lambda path, a=array: _save(path, a), 4 * array.size)
        write(folder / "lengths.npy", lambda path: _save(path, np.array(lengths, np.int32)))
    finally:
        for file in raw:
            file.unlink(missing_ok=True)
    return n_kept


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)
