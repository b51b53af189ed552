"""Counts how often and how strongly the latents of an SAE fire over a text, at bounded memory:
some sequences at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ...errors import require
from ..capture.stream import Source
from .site_sae import SiteSAE

_LATENTS = 2**25  # activations of latents at once
_MOST = 64  # sequences at once
OnBatch = Callable[[int], object]


@dataclass(frozen=True)
class LatentFiring:
    """How often and how strongly the latents of an SAE fire.

    Attributes:
        counts: `[d_sae]` tokens with z > 0.
        largest: `[d_sae]` the largest z; 0 if it never fires.
        n_tokens: how many tokens were read.
    """

    counts: Int[np.ndarray, " d_sae"]
    largest: Float[np.ndarray, " d_sae"]
    n_tokens: int

    @property
    def freq(self) -> Float[np.ndarray, " d_sae"]:
        """The share of tokens at which each latent fires."""
        return self.counts / self.n_tokens


def latent_firing(
    sae: SiteSAE, source: Source, sequences: Int[np.ndarray, " n"], batch_size: int | None = None,
    on_batch: OnBatch = lambda tokens: None,
) -> LatentFiring:  # fmt: skip
    """Counts and largest activations of all latents over some sequences.

    Args:
        sae: of the site.
        source: of its activations.
        sequences: which to read.
        batch_size: sequences at once; as many as fit a bound on memory if not given.
        on_batch: called with the tokens done so far.

    Raises:
        ToysaeError: no activations, or a batch size below 1.
    """
    counts, largest, n = np.zeros(len(sae.W_dec), np.int64), np.zeros(len(sae.W_dec)), 0
    for _, acts, used in activation_batches(sae, source, sequences, batch_size):
        more, top = jax.device_get(_totals(sae, acts, used))
        counts += more
        largest = np.maximum(largest, top)
        n += int(used.sum())
        on_batch(n)
    return LatentFiring(counts, largest, n)


def sample_latents(
    freq: Float[np.ndarray, " d_sae"], n: int, seed: int = 0
) -> Int[np.ndarray, " n_chosen"]:
    """Draws living latents evenly over log firing frequency, the most frequent first; takes all of
    them if there are no more than `n`.

    Raises:
        ToysaeError: n below 1.
    """
    require(n >= 1, f"n_latents {n} must be at least 1")
    left = np.random.default_rng(seed).permutation(np.flatnonzero(freq > 0))
    size = np.log(freq[left])
    if len(left) > n:
        chosen = []
        for target in np.linspace(size.max(), size.min(), n):
            i = int(np.argmin(np.abs(size - target)))
            chosen.append(left[i])
            left, size = np.delete(left, i), np.delete(size, i)
        left = np.array(chosen)
    return left[np.lexsort((left, -freq[left]))]


def checked_latents(latents: Sequence[int] | np.ndarray, d_sae: int) -> np.ndarray:
    """The latents as an array.

    Raises:
        ToysaeError: a latent that the SAE does not have, or no latent.
    """
    require(len(latents) > 0, "name at least one latent")
    for latent in latents:
        require(0 <= latent < d_sae, f"latent {latent} is outside 0..{d_sae - 1} of the SAE")
    return np.asarray(latents, np.int64)


def activation_batches(
    sae: SiteSAE, source: Source, sequences: np.ndarray, batch_size: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (sequences `[b]`, activations `[b, longest, d]`, which of those exist `[b, longest]`).
    All batches have one shape, so that one program is compiled."""
    counts = source.counts[sequences]
    require(counts.sum() > 0, "there are no activations to look into: capture more tokens")
    longest = int(counts.max())
    fit = max(1, min(_MOST, len(sequences), _LATENTS // (longest * len(sae.W_dec))))
    size = fit if batch_size is None else batch_size
    require(size >= 1, f"batch_size {size} must be at least 1")
    for start in range(0, len(sequences), size):
        some = sequences[start : start + size]
        used = np.zeros((size, longest), bool)
        used[: len(some)] = np.arange(longest) < counts[start : start + size, None]
        acts = np.zeros((size, longest, source.d), source.dtype)
        acts[used] = source.read(some)
        yield some, acts, used


@jax.jit
def _totals(sae: SiteSAE, acts: Float[Array, "b s d"], used: Bool[Array, "b s"]):
    z = jnp.where(used[..., None], sae.latents(acts), 0)
    return (z > 0).sum((0, 1)), z.max((0, 1))


@jax.jit
def of_latents(
    sae: SiteSAE, acts: Float[Array, "b s d"], latents: Int[Array, " n"]
) -> Float[Array, "b s n"]:
    """The activations of some latents."""
    return sae.latents(acts)[..., latents]
