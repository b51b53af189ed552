"""Runs a model over a corpus and writes the activations of one or several sites to disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...disk import disk_is_full, free_bytes, remove_temporaries, write
from ...errors import ToysaeError, require, unknown
from ..models.forward import LM, traced_forward
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
    """The activations of each site, in the type in which they are stored."""
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
    """The manifest of a capture before any shard is written.

    Raises:
        ToysaeError: a site or type that does not exist, sequences longer than the model's context,
            or token ids that the model does not have.
    """
    c = model.config
    check_run(model, corpus.layout.n_ctx, dtype)
    largest = int(corpus.tokens.max())
    require(largest < c.n_vocab, f"the corpus has token ids up to {largest}, {model.name} only "
            f"{c.n_vocab} embeddings: tokenise it with the model's own tokenizer")  # fmt: skip
    d = width(parse_site(site, c), c)
    return empty_manifest(model.name, weights_sha256(model), site, d, corpus, dtype, centre, live)


def check_run(model: LM, n_ctx: int, dtype: str) -> None:
    """Refuses what can be refused before a text is read.

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
    """About how many bytes all shards take."""
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
    """Runs the model once over the corpus and writes the shards of every site. A capture that was
    stopped goes on where it stopped.

    Args:
        model: whose activations are captured.
        corpus: what it reads.
        sites: by TransformerLens' names.
        out: each site gets a folder of its own in it.
        dtype: of the activations on disk: "bfloat16", "float16" or "float32".
        centre: subtract each activation's mean over dimensions.
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
    manifests = [new_manifest(model, corpus, site, dtype, centre) for site in dict.fromkeys(sites)]
    run = runner(model, corpus, [m.site for m in manifests], dtype, centre, batch_size)
    start = partial(begin, model=model)
    return write_run(run, corpus, manifests, out, start, shard_bytes, on_batch)


def runner(
    model: LM, corpus: Corpus, sites: Sequence[str], dtype: str, centre: bool, batch_size: int
) -> "Run":
    """The function that :func:`write_run` calls to run a model over some sequences."""
    captured_sites = tuple(sites)

    def run(sequences: np.ndarray) -> Batches:
        batches = _batches(corpus, sequences, batch_size)
        return _ahead(model, batches, captured_sites, dtype, centre)

    return run


Batches = Iterator[tuple[np.ndarray, Mapping[str, Array | np.ndarray]]]
"""(sequences, the activations of each site in them `[n_seq or more, n_ctx, d]`)."""
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
        run: runs the model over some sequences, for all sites at once: a run for fewer sites might
            round differently.
        corpus: what is read.
        fresh: a manifest of each site, without shards.
        start: makes a site's folder and writes its manifest.
        out, shard_bytes, on_batch: see :func:`capture`.

    Raises:
        ToysaeError: see :func:`capture`.
    """
    folders = [out / m.site for m in fresh]
    manifests = [resumed(folder, m) for folder, m in zip(folders, fresh, strict=True)]
    for folder in folders:
        remove_temporaries(folder, is_ours)
    left = [replace(m, rows=m.rows - sum(s.rows for s in m.shards)) for m in manifests]
    need = capture_bytes(left)
    if free_bytes(out) < need:
        raise disk_is_full(out, need)
    for folder, m in zip(folders, manifests, strict=True):
        start(folder, m)
    n_tokens, n_bytes = 0, 0
    n_finished = [m.shards[-1].last if m.shards else 0 for m in manifests]
    for first, last in _edges(corpus, fresh, shard_bytes, n_finished):
        missing = [i for i, n in enumerate(n_finished) if n <= first]
        if missing:
            sites = [manifests[i].site for i in missing]
            rows_by_site = _rows(
                run(np.arange(first, last)), corpus, first, last, sites,
                on_rows=lambda n, before=n_tokens, size=n_bytes: on_batch(before + n, size),
            )  # fmt: skip
            for i in missing:
                rows, number = rows_by_site.pop(manifests[i].site), len(manifests[i].shards)
                shard = write_shard(folders[i], number, first, last, rows)
                manifests[i] = replace(manifests[i], shards=(*manifests[i].shards, shard))
                write_manifest(folders[i], manifests[i])
                n_bytes += rows.acts.nbytes
        n_tokens += int(corpus.counts[first:last].sum())
        on_batch(n_tokens, n_bytes)
    return folders


def begin(folder: Path, manifest: Manifest, model: LM) -> None:
    """Makes a site's folder with its manifest and the axes of the matrices that write and read the
    site, so that no training needs the model again."""
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
    """A matrix with the same left singular vectors and values that has at most d columns."""
    gram = np.asarray(W, np.float64) @ np.asarray(W, np.float64).T
    values, vectors = np.linalg.eigh(gram)
    return np.asarray(vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0)), np.float32, "C")


def run_sequences(
    model: LM, corpus: Corpus, sequences: Int[np.ndarray, " n"], manifest: Manifest,
    batch_size: int = 16,
) -> Float[np.ndarray, "rows d"]:  # fmt: skip
    """Computes anew what the shards of these sequences would hold."""
    pieces = [np.empty((0, manifest.d), DTYPES[manifest.dtype])]
    batches = _batches(corpus, sequences, batch_size)
    for some, acts in _ahead(model, batches, (manifest.site,), manifest.dtype, manifest.centred):
        pieces.append(np.asarray(acts[manifest.site])[: len(some)][_is_kept(corpus, some)])
    return np.concatenate(pieces)


def resumed(folder: Path, fresh: Manifest) -> Manifest:
    """The manifest of what a folder holds of this very capture; `fresh` if it holds nothing.

    Raises:
        ToysaeError: the folder holds another capture.
    """
    if not (folder / MANIFEST).exists():
        return fresh
    on_disk = read_manifest(folder)
    changed = on_disk.same_run(fresh)
    if changed:
        what = ", ".join(f"{n} {getattr(on_disk, n)!r}, now {getattr(fresh, n)!r}" for n in changed)
        raise ToysaeError(f"{folder} holds another capture ({what}): give another --out")
    return without_missing(folder, on_disk)


def _edges(
    corpus: Corpus, manifests: Sequence[Manifest], shard_bytes: int, n_finished: list[int]
) -> list[tuple[int, int]]:
    """The first and last sequence of each shard, the same for every site. Shards also end where a
    site goes on that was captured with other sites, or in shards of another size."""
    widest = max(capture_bytes([m]) / max(m.rows, 1) for m in manifests)
    rows = max(1, int(shard_bytes / widest))
    ends = np.cumsum(corpus.counts)
    cuts = np.searchsorted(ends, np.arange(rows, ends[-1], rows), "right")
    edges = np.unique([0, *cuts, *n_finished, len(ends)])
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
    """Computes each batch while the one before it is written to disk."""
    computed = []
    for some, tokens in batches:
        computed.append((some, activations(model, tokens, sites, dtype, centre)))
        if len(computed) == 2:
            yield computed.pop(0)
    yield from computed


def _is_kept(corpus: Corpus, sequences: np.ndarray) -> np.ndarray:
    """Whether each position of these sequences is kept, `[n, n_ctx]`."""
    pos = np.arange(corpus.layout.n_ctx)
    return (pos >= corpus.layout.first) & (pos < corpus.lengths[sequences, None])


def _rows(
    batches: Batches, corpus: Corpus, first: int, last: int, sites: Sequence[str],
    on_rows: Callable[[int], None],
) -> dict[str, Rows]:  # fmt: skip
    """The rows of a shard of each site."""
    acts_by_site: dict[str, list[np.ndarray]] = {site: [] for site in sites}
    n = 0
    for some, acts in batches:
        is_kept = _is_kept(corpus, some)
        for site in sites:
            acts_by_site[site].append(np.asarray(acts[site])[: len(some)][is_kept])
        n += int(is_kept.sum())
        on_rows(n)
    some = np.arange(first, last)
    is_kept = _is_kept(corpus, some)
    seq, pos = (a.astype(np.int32) for a in np.nonzero(is_kept))
    where = {
        "tokens": corpus.tokens[some][is_kept], "seq": seq + np.int32(first),
        "doc": corpus.docs[some][is_kept], "pos": pos,
    }  # fmt: skip
    return {site: Rows(np.concatenate(pieces), **where) for site, pieces in acts_by_site.items()}
