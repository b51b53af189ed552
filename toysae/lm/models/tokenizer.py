"""Turns text into token ids and back, by the `tokenizers` library."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import ToysaeError, require

_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>")
_BEGINS = ("<|begin_of_text|>", "<bos>", "<s>")


def need(package: str) -> Any:
    """Imports a package of the `lm` extra.

    Raises:
        ToysaeError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ToysaeError(
            f"{package} is not installed: pip install 'toysae[lm]', or in a checkout "
            "pip install -e '.[lm]'"
        ) from error


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer.

    Attributes:
        inner: of the `tokenizers` library.
        end: id of the token that ends a document, put between documents; None without one.
        begin: id of the token that a text starts with, if the model was trained with one: a token
            of its own for Llamas, the end token for GPT-2 and Pythia.
    """

    inner: Any
    end: int | None
    begin: int | None = None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, without special tokens."""
        encodings = self.inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text, including special tokens."""
        return self.inner.decode(list(map(int, ids)), skip_special_tokens=False)

    @property
    def n_vocab(self) -> int:
        """One more than the largest id."""
        return max(self.inner.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def sha256(self) -> str:
        """A checksum of all that decides the ids."""
        return sha256(self.inner.to_str().encode()).hexdigest()

    def check(self, n_vocab: int, model: str) -> None:
        """Refuses a tokenizer whose ids a model does not have.

        Raises:
            ToysaeError: naming both sizes.
        """
        require(
            self.n_vocab <= n_vocab,
            f"the tokenizer has ids up to {self.n_vocab - 1}, {model} only {n_vocab} embeddings: "
            "take the model's own tokenizer",
        )


def tokenizer_from_file(path: Path) -> Tokenizer:
    """Reads a `tokenizer.json`.

    Raises:
        ToysaeError: a damaged file.
    """
    try:
        inner = need("tokenizers").Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        if isinstance(error, ToysaeError):
            raise
        raise ToysaeError(f"{path} is not a tokenizer ({error})") from error
    return with_end(inner)


def with_end(inner: Any) -> Tokenizer:
    """Finds the token that ends a document among the usual names, and the one that begins a text:
    the one that the tokenizer itself puts there, else a usual name, else the end token."""
    inner.no_padding()
    inner.no_truncation()

    def first_of(names: Sequence[str]) -> int | None:
        ids = (inner.token_to_id(name) for name in names)
        return next((i for i in ids if i is not None), None)

    end, own = first_of(_ENDS), inner.encode("", add_special_tokens=True).ids[:1]
    begin = own[0] if own else first_of(_BEGINS)
    return Tokenizer(inner, end, end if begin is None else begin)
