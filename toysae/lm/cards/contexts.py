"""In which contexts latents fire: over the whole range of their activations, not only the top.

The strongest examples alone make most latents look clean; what they mean below is seen from
examples drawn from every part of (0, max]. Sequences go through the SAE some at a time, and what
is kept does not depend on how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ...errors import require
from ..capture.stream import Source
from ..capture.text import Corpus
from ..saes.firing import (
    LatentFiring,
    OnBatch,
    activation_batches,
    checked_latents,
    latent_firing,
    of_latents,
    silent,
)
from ..saes.site_sae import SiteSAE

_CANDIDATE = np.dtype([("group", "i4"), ("key", "f8"), ("seq", "i8"), ("pos", "i4")])


@dataclass(frozen=True)
class Example:
    """One token at which a latent fires, in its sequence.

    Attributes:
        seq: number of the sequence in the corpus.
        pos: position of the token.
        band: the interval of (0, max] that it was drawn from, 1 the weakest; 0 for one of the
            strongest.
        z: `[positions]` the latent's activation at every position of the sequence from `first` on.
        first: the position of z[0].
        tokens: `[window]` token ids around the token.
        start: the position of tokens[0].
    """

    seq: int
    pos: int
    band: int
    z: Float[np.ndarray, " positions"]
    first: int
    tokens: Int[np.ndarray, " window"]
    start: int

    @property
    def activation(self) -> float:
        """At the token itself."""
        return float(self.z[self.pos - self.first])

    @property
    def window_z(self) -> Float[np.ndarray, " window"]:
        """Activations at the tokens of the window; 0 before `first`."""
        whole = np.concatenate([np.zeros(self.first, self.z.dtype), self.z])
        return whole[self.start : self.start + len(self.tokens)]


@dataclass(frozen=True)
class Contexts:
    """Where one latent fires.

    Attributes:
        latent: its number.
        count: tokens at which it fires.
        share: of all tokens seen.
        largest: its largest activation.
        histogram: `[bins]` firing tokens in equal parts of (0, largest].
        band_counts: `[n_bands]` firing tokens in each interval, the weakest first.
        examples: the strongest in order, then those of each interval from the strongest interval
            down; of no two is the sequence the same.
    """

    latent: int
    count: int
    share: float
    largest: float
    histogram: Int[np.ndarray, " bins"]
    band_counts: Int[np.ndarray, " n_bands"]
    examples: tuple[Example, ...]


def latent_contexts(
    sae: SiteSAE,
    source: Source,
    corpus: Corpus,
    latents: Sequence[int] | Int[np.ndarray, " n_latents"],
    sequences: Int[np.ndarray, " n"],
    seen: LatentFiring | None = None,
    *,
    top: int = 5,
    n_bands: int = 5,
    per_band: int = 2,
    bins: int = 40,
    before: int = 24,
    after: int = 8,
    seed: int = 0,
    batch_size: int | None = None,
    on_batch: OnBatch = silent,
) -> list[Contexts]:
    """Examples of each latent's contexts, from the strongest to the weakest.

    An interval's examples are tokens drawn evenly from those that fall in it, the same whatever the
    batch size and whichever other latents are asked for.

    Args:
        sae: of the site.
        source: of its activations.
        corpus: the text that they are of.
        latents: which.
        sequences: which to look into.
        seen: what :func:`firing` gave for the same sequences; found if not given.
        top: strongest examples.
        n_bands: intervals of equal width that (0, max] is cut into.
        per_band: examples drawn from each.
        bins: of the histogram.
        before, after: tokens of the window on either side.
        seed: of what is drawn.
        batch_size: sequences at once; as many as fit a bound on memory if not given.
        on_batch: called with the tokens done so far.

    Raises:
        ToysaeError: a latent that the SAE does not have, or a number below 1.
    """
    chosen = checked_latents(latents, len(sae.W_dec))
    for name, value in {"n_bands": n_bands, "bins": bins}.items():
        require(value >= 1, f"{name} {value} must be at least 1")
    seen = latent_firing(sae, source, sequences, batch_size) if seen is None else seen
    largest = seen.largest[chosen]
    histograms = np.zeros((len(chosen), bins), np.int64)
    bands = np.zeros((len(chosen), n_bands), np.int64)
    kept = [np.empty(0, _CANDIDATE)] * len(chosen)
    # So many of each group that those used up by the groups before it can be passed over.
    room, done = top + n_bands * per_band, 0
    for some, acts, used in activation_batches(sae, source, sequences, batch_size):
        z = np.asarray(of_latents(sae, acts, jnp.asarray(chosen)))
        for j, latent in enumerate(chosen):
            at = np.nonzero(used & (z[..., j] > 0))
            values = z[..., j][at]
            histograms[j] += np.bincount(_interval(values, largest[j], bins), minlength=bins)
            band = _interval(values, largest[j], n_bands)
            bands[j] += np.bincount(band, minlength=n_bands)
            where = some[at[0]], at[1] + corpus.layout.first
            drawn = _draws(seed, int(latent), *where)
            fresh = [_candidates(0, -values, *where), _candidates(n_bands - band, drawn, *where)]
            kept[j] = _smallest(np.concatenate([kept[j], *fresh]), room)
        done += int(used.sum())
        on_batch(done)
    picked = [_picked(found, top, per_band) for found in kept]
    rows = _rows_of(sae, source, chosen, picked, batch_size)
    return [
        Contexts(
            int(latent), int(seen.counts[latent]), float(seen.freq[latent]), float(largest[j]),
            histograms[j], bands[j],
            tuple(_example(c, n_bands, z, corpus, before, after)
                  for c, z in zip(picked[j], rows[j], strict=True)),
        )
        for j, latent in enumerate(chosen)
    ]  # fmt: skip


def _interval(values: np.ndarray, largest: float, n: int) -> np.ndarray:
    """Which of n equal parts of (0, largest], closed above, each value is in; 0 the lowest."""
    return np.clip(np.ceil(values / largest * n).astype(int) - 1, 0, n - 1)


def _draws(seed: int, latent: int, seq: np.ndarray, pos: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each place, by a hash (splitmix64): the same in whatever order."""
    x = np.zeros(len(seq), np.uint64)
    for part in (np.full(len(seq), seed), np.full(len(seq), latent), seq, pos):
        x = (x ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return x / 2.0**64


def _candidates(group: int | np.ndarray, key: np.ndarray, seq: np.ndarray, pos: np.ndarray):
    out = np.empty(len(key), _CANDIDATE)
    for name, value in {"group": group, "key": key, "seq": seq, "pos": pos}.items():
        out[name] = value
    return out


def _smallest(found: np.ndarray, room: int) -> np.ndarray:
    """Of each group those with the smallest keys, one a sequence; sorted by group and key."""
    found = found[np.lexsort((found["pos"], found["seq"], found["key"], found["group"]))]
    own = found["seq"] * (int(found["group"].max(initial=0)) + 1) + found["group"]
    found = found[np.sort(np.unique(own, return_index=True)[1])]
    rank = np.arange(len(found)) - np.searchsorted(found["group"], found["group"])
    return found[rank < room]


def _picked(found: np.ndarray, top: int, per_band: int) -> list[np.void]:
    """Group after group, passing over sequences that are taken."""
    chosen, taken, n = [], set(), {}
    for one in found:
        group, seq = int(one["group"]), int(one["seq"])
        if seq not in taken and n.get(group, 0) < (per_band if group else top):
            chosen.append(one)
            taken.add(seq)
            n[group] = n.get(group, 0) + 1
    return chosen


def _rows_of(
    sae: SiteSAE, source: Source, chosen: np.ndarray, picked: list[list[np.void]],
    batch_size: int | None,
) -> list[list[np.ndarray]]:  # fmt: skip
    """Of each example the latent's activations over its sequence, which are read once more."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for j, examples in enumerate(picked):
        for i, one in enumerate(examples):
            wanted.setdefault(int(one["seq"]), []).append((j, i))
    rows: list[list[np.ndarray]] = [[np.empty(0)] * len(examples) for examples in picked]
    if not wanted:
        return rows
    for some, acts, used in activation_batches(sae, source, np.array(sorted(wanted)), batch_size):
        z = np.asarray(of_latents(sae, acts, jnp.asarray(chosen)))
        for b, seq in enumerate(some):
            for j, i in wanted[int(seq)]:
                rows[j][i] = z[b, used[b], j]
    return rows


def _example(
    one: np.void, n_bands: int, z: np.ndarray, corpus: Corpus, before: int, after: int
) -> Example:
    seq, pos, group = int(one["seq"]), int(one["pos"]), int(one["group"])
    start = max(0, pos - before)
    tokens = corpus.tokens[seq, start : min(pos + after + 1, int(corpus.lengths[seq]))]
    band = n_bands - group + 1 if group else 0
    return Example(seq, pos, band, z, corpus.layout.first, np.asarray(tokens), start)
