"""The contexts in which latents fire, over the whole range of their activations, not only the top.

The strongest examples alone make most latents look clean; examples drawn from every part of
(0, max] show what weaker activations mean. The SAE reads some sequences at a time, and the examples
do not depend on how many.
"""

from collections import Counter
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
)
from ..saes.site_sae import SiteSAE

_CANDIDATE = np.dtype([("bin", "i4"), ("key", "f8"), ("seq", "i8"), ("pos", "i4")])
"""A place that may become an example. Bin 0 is for the strongest, bins 1, 2, ... are the intervals
of activation from the strongest down; within a bin the smallest keys are taken."""


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
        """The activation at the token itself."""
        return float(self.z[self.pos - self.first])

    @property
    def window_z(self) -> Float[np.ndarray, " window"]:
        """Activations at the tokens of the window; 0 before `first`."""
        whole = np.concatenate([np.zeros(self.first, self.z.dtype), self.z])
        return whole[self.start : self.start + len(self.tokens)]


@dataclass(frozen=True)
class Contexts:
    """The contexts of one latent.

    Attributes:
        latent: its number.
        count: tokens at which it fires.
        share: of all tokens read.
        largest: its largest activation.
        histogram: `[bins]` firing tokens in equal parts of (0, largest].
        band_counts: `[n_bands]` firing tokens in each interval, the weakest first.
        examples: the strongest in order, then those of each interval from the strongest interval
            down; no two from the same sequence.
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
    on_batch: OnBatch = lambda tokens: None,
) -> list[Contexts]:
    """Finds examples of each latent's contexts, from the strongest to the weakest.

    The examples of an interval are drawn evenly from the tokens in it, and do not depend on the
    batch size or on the other latents. Arguments that are not below are those of
    :func:`.latent_firing`.

    Args:
        corpus: the text of the activations.
        latents: which.
        seen: what :func:`.latent_firing` returned for these sequences; computed if not given.
        top: strongest examples.
        n_bands: intervals of equal width that (0, max] is cut into.
        per_band: examples drawn from each.
        bins: of the histogram.
        before, after: tokens of the window on either side.
        seed: of what is drawn.

    Raises:
        ToysaeError: a latent that the SAE does not have, or a number below 1.
    """
    chosen = checked_latents(latents, len(sae.W_dec))
    for name, value in {"n_bands": n_bands, "bins": bins}.items():
        require(value >= 1, f"{name} {value} must be at least 1")
    seen = latent_firing(sae, source, sequences, batch_size) if seen is None else seen
    largest = seen.largest[chosen]
    histograms = np.zeros((len(chosen), bins), np.int64)
    band_counts = np.zeros((len(chosen), n_bands), np.int64)
    candidates = [np.empty(0, _CANDIDATE)] * len(chosen)
    # Enough of each bin that sequences taken by the bins before it can be passed over.
    room, n_tokens = top + n_bands * per_band, 0
    for some, acts, used in activation_batches(sae, source, sequences, batch_size):
        z = np.asarray(of_latents(sae, acts, jnp.asarray(chosen)))
        for j, latent in enumerate(chosen):
            at = np.nonzero(used & (z[..., j] > 0))
            values = z[..., j][at]
            histograms[j] += np.bincount(_interval(values, largest[j], bins), minlength=bins)
            band = _interval(values, largest[j], n_bands)
            band_counts[j] += np.bincount(band, minlength=n_bands)
            where = some[at[0]], at[1] + corpus.layout.first
            drawn = _draws(seed, int(latent), *where)
            more = [_candidates(0, -values, *where), _candidates(n_bands - band, drawn, *where)]
            candidates[j] = _smallest(np.concatenate([candidates[j], *more]), room)
        n_tokens += int(used.sum())
        on_batch(n_tokens)
    picked = [_one_a_sequence(places, top, per_band) for places in candidates]
    rows = _activations_of(sae, source, chosen, picked, batch_size)
    return [
        Contexts(
            int(latent), int(seen.counts[latent]), float(seen.freq[latent]), float(largest[j]),
            histograms[j], band_counts[j],
            tuple(_example(place, n_bands, z, corpus, before, after)
                  for place, z in zip(picked[j], rows[j], strict=True)),
        )
        for j, latent in enumerate(chosen)
    ]  # fmt: skip


def _interval(values: np.ndarray, largest: float, n: int) -> np.ndarray:
    """In which of n equal parts of (0, largest], closed above, each value is; 0 is the lowest."""
    return np.clip(np.ceil(values / largest * n).astype(int) - 1, 0, n - 1)


def _draws(seed: int, latent: int, seq: np.ndarray, pos: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each place, by a hash (splitmix64): independent of their order."""
    x = np.zeros(len(seq), np.uint64)
    for word in (np.full(len(seq), seed), np.full(len(seq), latent), seq, pos):
        x = (x ^ word.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return x / 2.0**64


def _candidates(bin_: int | np.ndarray, key: np.ndarray, seq: np.ndarray, pos: np.ndarray):
    out = np.empty(len(key), _CANDIDATE)
    out["bin"], out["key"], out["seq"], out["pos"] = bin_, key, seq, pos
    return out


def _smallest(places: np.ndarray, room: int) -> np.ndarray:
    """The places with the smallest keys of each bin, one a sequence; sorted by bin and key."""
    places = places[np.lexsort((places["pos"], places["seq"], places["key"], places["bin"]))]
    bin_and_seq = places["seq"] * (int(places["bin"].max(initial=0)) + 1) + places["bin"]
    places = places[np.sort(np.unique(bin_and_seq, return_index=True)[1])]
    rank = np.arange(len(places)) - np.searchsorted(places["bin"], places["bin"])
    return places[rank < room]


def _one_a_sequence(places: np.ndarray, top: int, per_band: int) -> list[np.void]:
    """Takes places bin by bin, passing over sequences that are taken already."""
    picked, sequences, n_in_bin = [], set(), Counter()
    for place in places:
        bin_, seq = int(place["bin"]), int(place["seq"])
        if seq not in sequences and n_in_bin[bin_] < (per_band if bin_ else top):
            picked.append(place)
            sequences.add(seq)
            n_in_bin[bin_] += 1
    return picked


def _activations_of(
    sae: SiteSAE, source: Source, chosen: np.ndarray, picked: list[list[np.void]],
    batch_size: int | None,
) -> list[list[np.ndarray]]:  # fmt: skip
    """The latent's activations over the sequence of each example, which are read once more."""
    examples_in: dict[int, list[tuple[int, int]]] = {}
    for j, places in enumerate(picked):
        for i, place in enumerate(places):
            examples_in.setdefault(int(place["seq"]), []).append((j, i))
    rows: list[list[np.ndarray]] = [[np.empty(0)] * len(places) for places in picked]
    if not examples_in:
        return rows
    sequences = np.array(sorted(examples_in))
    for some, acts, used in activation_batches(sae, source, sequences, batch_size):
        z = np.asarray(of_latents(sae, acts, jnp.asarray(chosen)))
        for b, seq in enumerate(some):
            for j, i in examples_in[int(seq)]:
                rows[j][i] = z[b, used[b], j]
    return rows


def _example(
    place: np.void, n_bands: int, z: np.ndarray, corpus: Corpus, before: int, after: int
) -> Example:
    seq, pos, bin_ = int(place["seq"]), int(place["pos"]), int(place["bin"])
    start = max(0, pos - before)
    tokens = corpus.tokens[seq, start : min(pos + after + 1, int(corpus.lengths[seq]))]
    band = n_bands - bin_ + 1 if bin_ else 0
    return Example(seq, pos, band, z, corpus.layout.first, np.asarray(tokens), start)
