"""Opens the activations of a site: shards on disk, or the model run anew. Either is a
:class:`toysae.lm.capture.stream.Source`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ...errors import ToysaeError, require
from ..models.forward import LM
from ..models.load import load_model
from .capture import new_manifest, run_sequences, weights_sha256
from .shards import DTYPES, MATRICES, Manifest, Shards, read_manifest
from .stream import Source
from .text import Corpus, load_corpus

CORPUS = "corpus"
"""The folder of the token ids, next to those of the sites."""


@dataclass(frozen=True)
class Live:
    """A model that is run whenever the activations of a sequence are needed; nothing is stored.

    Attributes:
        model: whose activations they are.
        corpus: what it reads.
        manifest: of the site.
        batch_size: sequences at once.
    """

    model: LM
    corpus: Corpus
    manifest: Manifest
    batch_size: int = 16

    @property
    def d(self) -> int:
        return self.manifest.d

    @property
    def dtype(self) -> Any:
        return DTYPES[self.manifest.dtype]

    @property
    def counts(self) -> Int[np.ndarray, " n_seq"]:
        return self.corpus.counts

    def read(self, sequences: Int[np.ndarray, " n"]) -> Float[np.ndarray, "rows d"]:
        """Returns the activations of some sequences, one sequence after the other."""
        return run_sequences(self.model, self.corpus, sequences, self.manifest, self.batch_size)


def open_site(folder: Path, model: LM | None = None, verify: bool = True) -> Source:
    """Opens the activations of a captured site.

    Args:
        folder: of the site.
        model: run if the capture is live; loaded by its name if not given.
        verify: whether to compare every shard's checksum.

    Raises:
        ToysaeError: see :class:`.Shards`; another model or text than the capture's.
    """
    manifest = read_manifest(folder)
    if not manifest.live:
        return Shards(folder, verify)
    model = load_captured(manifest.model, manifest, folder) if model is None else model
    corpus = load_corpus(folder.parent / CORPUS)
    fresh = new_manifest(model, corpus, manifest.site, manifest.dtype, manifest.centred, live=True)
    changed = manifest.same_run(fresh)
    require(not changed, f"{folder}: the model or the text is not that of the capture "
            f"({', '.join(changed)} differ)")  # fmt: skip
    return Live(model, corpus, manifest)


def load_captured(model: str | LM, manifest: Manifest, folder: Path) -> LM:
    """Loads the model that a site was captured from, in the arithmetic of the capture.

    Args:
        model: what to load it from, or the model itself.
        manifest: of the site.
        folder: of the site, for messages.

    Raises:
        ToysaeError: another model.
    """
    if isinstance(model, LM):
        name, models = model.name, iter([model])
    else:
        name, models = model, (load_model(model, dtype=t) for t in (jnp.float32, jnp.bfloat16))
    for each in models:
        if weights_sha256(each) == manifest.weights:
            return each
    raise ToysaeError(
        f"{name} is not the model that {folder} was captured from: its weights differ; give the "
        "right one to `toysae lm eval --model`, or capture again (a capture through hooks has no "
        "model here)"
    )


def matrix_axes(folder: Path, which: str) -> Float[np.ndarray, "d r"]:
    """Reads the axes of the matrix that "writes" a site or "reads" it.

    Raises:
        ToysaeError: the capture's file is missing or damaged.
    """
    file = folder / MATRICES
    try:
        require(file.is_file(), f"{file} is not a regular file")
        with np.load(file) as matrices:
            return matrices[which]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ToysaeError(
            f"{file} is missing or damaged: capture again (a capture through hooks has no "
            "matrices: take another init)"
        ) from error
