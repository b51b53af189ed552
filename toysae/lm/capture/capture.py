"""Running a model over a corpus and keeping the activations of one or several sites."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...disk import disk_is_full, free_bytes, remove_temporaries, size, write
from ...errors import ToysaeError, require, unknown
from ..models import LM, traced_forward
from ..models.matrices import reading_matrix, writing_matrix
from ..models.sites import parse_site, width
from .shards import (
    DTYPES,
    MANIFEST,
    MATRICES,
    Manifest,
    Rows,
    is_ours,
    read_manifest,
    without_missing,
    write_manifest,
    write_shard,
)
from .text import Corpus

SHARD_BYTES = 256 * 2**20
_PER_ROW = 4 * 4  # tokens, seq, doc, pos


@partial(jax.jit, static_argnames=("sites", "dtype", "centre"))
def activations(
    model: LM, tokens: Int[Array, "batch seq"], sites: tuple[str, ...], dtype: str, centre: bool
) -> dict[str, Float[Array, "batch seq d"]]:
    """Of each site, in the type that is kept."""
    acts, _ = traced_forward(model, tokens, sites, logits=False)
    if centre:
        acts = {site: x - x.mean(-1, keepdims=True) for site, x in acts.items()}
    return {site: x.astype(DTYPES[dtype]) for site, x in acts.items()}


def weights_sha256(model: LM) -> str:
    """A checksum of a model's weights, whatever file they came from."""
    total = sha256()
    for leaf in jax.tree.leaves(model.weights):
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()


def new_manifest(
    model: LM, corpus: Corpus, site: str, dtype: str = "bfloat16", centre: bool = False,
    live: bool = False,
) -> Manifest:  # fmt: skip
    """The manifest of a capture before any shard.

    Raises:
        ToysaeError: a site or type that does not exist, sequences longer than the model's context,
            token ids that it does not have.
    """
    c = model.config
    check_run(model, corpus.layout.n_ctx, dtype)
    largest = int(corpus.tokens.max())
    require(largest < c.n_vocab, f"the corpus has token ids up to {largest}, {model.name} only "
            f"{c.n_vocab} embeddings: tokenise it with the model's own tokenizer")  # fmt: skip
    d = width(parse_site(site, c), c)
    return empty_manifest(model.name, weights_sha256(model), site, d, corpus, dtype, centre, live)


def check_run(model: LM, n_ctx: int, dtype: str) -> None:
    """What can be refused before a text is read.

    Raises:
        ToysaeError: sequences longer than the model's context, an unknown type.
    """
    longest = model.config.n_ctx
    require(n_ctx <= longest, f"sequences of {n_ctx} tokens are longer than the model's {longest}")
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)


def empty_manifest(
    model: str, weights: str, site: str, d: int, corpus: Corpus, dtype: str, centre: bool,
    live: bool = False,
) -> Manifest:  # fmt: skip
    """A manifest without shards; see :class:`toysae.lm.capture.shards.Manifest`.

    Raises:
        ToysaeError: an unknown type.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    layout = corpus.layout
    return Manifest(
        model=model, weights=weights, site=site, d=d, dtype=dtype, centred=centre,
        corpus=corpus.about["sha256"], first=layout.first, n_ctx=layout.n_ctx,
        n_seq=len(corpus.lengths), rows=int(corpus.counts.sum()), live=live,
    )  # fmt: skip


def capture_bytes(manifests: Sequence[Manifest]) -> int:
    """Of all shards, about."""
    return sum(m.rows * (m.d * np.dtype(DTYPES[m.dtype]).itemsize + _PER_ROW) for m in manifests)


def capture(
    model: LM,
    corpus: Corpus,
    sites: Sequence[str],
    out: Path,
    *,
    dtype: str = "bfloat16",
    centre: bool = False,
    batch_size: int = 16,
    shard_bytes: int = SHARD_BYTES,
    on_batch: Callable[[int, int], None] = lambda tokens, n_bytes: None,
) -> list[Path]:
    """Runs the model once over the corpus and writes the shards of every site; goes on where a
    capture that was stopped has stopped.

    Args:
        model: whose activations.
        corpus: what it reads.
        sites: by TransformerLens' names.
        out: each site gets a folder of its own in it.
        dtype: of the activations on disk: "bfloat16", "float16" or "float32".
        centre: take each activation's mean over dimensions out.
        batch_size: sequences at once.
        shard_bytes: about the size of a shard of the widest site.
        on_batch: called with the tokens done and the bytes written so far.

    Returns:
        The sites' folders.

    Raises:
        ToysaeError: a site that does not exist, too little room on the disk, or a folder that
            holds another capture, naming what differs.
    """
    require(sites, "name at least one site")
    require(batch_size >= 1, f"batch_size {batch_size} must be at least 1")
    fresh = [new_manifest(model, corpus, site, dtype, centre) for site in dict.fromkeys(sites)]
    run = runner(model, corpus, [m.site for m in fresh], dtype, centre, batch_size)
    return write_run(
        run, corpus, fresh, out, lambda folder, m: begin(folder, model, m), shard_bytes, on_batch
    )


def runner(
    model: LM, corpus: Corpus, sites: Sequence[str], dtype: str, centre: bool, batch_size: int
) -> "Run":
    """What :func:`write_run` runs."""
    every = tuple(sites)

    def run(some: np.ndarray) -> Batches:
        return _ahead(model, _batches(corpus, some, batch_size), every, dtype, centre)

    return run


Batches = Iterator[tuple[np.ndarray, Mapping[str, Array | np.ndarray]]]
"""(sequences, of each site their activations `[n_seq or more, n_ctx, d]`)."""
Run = Callable[[Int[np.ndarray, " n"]], Batches]


def write_run(
    run: Run,
    corpus: Corpus,
    fresh: Sequence[Manifest],
    out: Path,
    start: Callable[[Path, Manifest], None],
    shard_bytes: int = SHARD_BYTES,
    on_batch: Callable[[int, int], None] = lambda tokens, n_bytes: None,
) -> list[Path]:
    """Writes the shards of every site from whatever runs a model, and goes on where it stopped.

    Args:
        run: over some sequences, all sites at once: a run of fewer might round differently.
        corpus: what is read.
        fresh: a manifest without shards of each site.
        out: see :func:`capture`.
        start: makes a site's folder and writes its manifest.
        shard_bytes: about the size of a shard of the widest site.
        on_batch: see :func:`capture`.

    Raises:
        ToysaeError: see :func:`capture`.
    """
    folders = [out / m.site for m in fresh]
    manifests = [found(folder, m) for folder, m in zip(folders, fresh, strict=True)]
    for folder in folders:
        remove_temporaries(folder, is_ours)
    left = [replace(m, rows=m.rows - sum(s.rows for s in m.shards)) for m in manifests]
    need = capture_bytes(left)
    if free_bytes(out) < need:
        raise disk_is_full(out, need)
    for folder, m in zip(folders, manifests, strict=True):
        start(folder, m)
    done, written = 0, 0
    begun = [m.shards[-1].last if m.shards else 0 for m in manifests]
    for first, last in _edges(corpus, fresh, shard_bytes, begun):
        missing = [i for i, at in enumerate(begun) if at <= first]
        if missing:
            tell = partial(_tell, on_batch, done, written)
            wanted = [manifests[i].site for i in missing]
            parts = _collected(run(np.arange(first, last)), corpus, first, last, wanted, tell)
            for i in missing:
                rows, number = parts.pop(manifests[i].site), len(manifests[i].shards)
                shard = write_shard(folders[i], number, first, last, rows)
                manifests[i] = replace(manifests[i], shards=(*manifests[i].shards, shard))
                write_manifest(folders[i], manifests[i])
                written += rows.acts.nbytes
        done += int(corpus.counts[first:last].sum())
        on_batch(done, written)
    return folders


def _tell(on_batch: Callable[[int, int], None], done: int, written: int, rows: int) -> None:
    on_batch(done + rows, written)


def begin(folder: Path, model: LM, manifest: Manifest) -> None:
    """Makes a site's folder: its manifest, and the axes of the matrices that write and read there,
    so that no training needs the model again."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MATRICES).exists():
        site = parse_site(manifest.site, model.config)
        writes, reads = writing_matrix(model, site), reading_matrix(model, site)
        axes = {"writes": _axes(writes), "reads": _axes(reads)}
        write(folder / MATRICES, lambda path: _savez(path, axes))
    if not (folder / MANIFEST).exists() or read_manifest(folder) != manifest:
        write_manifest(folder, manifest)


def _savez(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def _axes(W: Float[Array, "d h"]) -> Float[np.ndarray, "d r"]:
    """A matrix with the same left singular vectors and values, no wider than long."""
    gram = np.asarray(W, np.float64) @ np.asarray(W, np.float64).T
    values, vectors = np.linalg.eigh(gram)
    return np.asarray(vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0)), np.float32, "C")


def run_sequences(
    model: LM, corpus: Corpus, sequences: Int[np.ndarray, " n"], manifest: Manifest,
    batch_size: int = 16,
) -> Float[np.ndarray, "rows d"]:  # fmt: skip
    """What shards of these sequences would hold, computed anew."""
    parts = [np.empty((0, manifest.d), DTYPES[manifest.dtype])]
    which = (manifest.site,)
    batches = _batches(corpus, sequences, batch_size)
    for some, acts in _ahead(model, batches, which, manifest.dtype, manifest.centred):
        kept = _kept(corpus, some)
        parts.append(np.asarray(acts[manifest.site])[: len(some)][kept])
    return np.concatenate(parts)


def found(folder: Path, fresh: Manifest) -> Manifest:
    """What is finished of this very capture; `fresh` if nothing is.

    Raises:
        ToysaeError: the folder holds another one.
    """
    if not (folder / MANIFEST).exists():
        return fresh
    there = read_manifest(folder)
    changed = there.same_run(fresh)
    if changed:
        what = ", ".join(f"{n} {getattr(there, n)!r}, now {getattr(fresh, n)!r}" for n in changed)
        raise ToysaeError(f"{folder} holds another capture ({what}): give another --out")
    return without_missing(folder, there)


def _edges(
    corpus: Corpus, manifests: Sequence[Manifest], shard_bytes: int, begun: list[int]
) -> list[tuple[int, int]]:
    """Sequences of each shard, the same for every site; cut also where a site that was captured
    with others, or in shards of another size, goes on."""
    widest = max(capture_bytes([m]) / max(m.rows, 1) for m in manifests)
    rows = max(1, int(shard_bytes / widest))
    done = np.cumsum(corpus.counts)
    cuts = np.searchsorted(done, np.arange(rows, done[-1], rows), "right")
    edges = np.unique([0, *cuts, *begun, len(done)])
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _batches(
    corpus: Corpus, sequences: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, Array]]:
    for start in range(0, len(sequences), size):
        some = sequences[start : start + size]
        tokens = np.zeros((size, corpus.layout.n_ctx), np.int32)  # one shape, one program
        tokens[: len(some)] = corpus.tokens[some]
        yield some, jnp.asarray(tokens)


def _ahead(model: LM, batches, sites: tuple[str, ...], dtype: str, centre: bool):
    """One batch is computed while the one before it is written down."""
    before = None
    for some, tokens in batches:
        now = some, activations(model, tokens, sites, dtype, centre)
        if before is not None:
            yield before
        before = now
    if before is not None:
        yield before


def _kept(corpus: Corpus, some: np.ndarray) -> np.ndarray:
    """`[n, n_ctx]`: which positions are kept."""
    pos = np.arange(corpus.layout.n_ctx)
    return (pos >= corpus.layout.first) & (pos < corpus.lengths[some, None])


def _collected(run, corpus: Corpus, first: int, last: int, sites, tell) -> dict[str, Rows]:
    acts: dict[str, list[np.ndarray]] = {site: [] for site in sites}
    n = 0
    for some, found in run:
        kept = _kept(corpus, some)
        for site in sites:
            acts[site].append(np.asarray(found[site])[: len(some)][kept])
        n += int(kept.sum())
        tell(n)
    some = np.arange(first, last)
    kept = _kept(corpus, some)
    seq, pos = (a.astype(np.int32) for a in np.nonzero(kept))
    where = {
        "tokens": corpus.tokens[some][kept], "seq": seq + np.int32(first),
        "doc": corpus.docs[some][kept], "pos": pos,
    }  # fmt: skip
    return {site: Rows(np.concatenate(parts), **where) for site, parts in acts.items()}


def told(tokens: int, n_bytes: int) -> str:
    """For a progress bar."""
    return f"{tokens:,} tokens, {size(n_bytes)}"
