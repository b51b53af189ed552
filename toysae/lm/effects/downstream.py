"""The effect of changing a latent of one layer on the latents of a later one (Cunningham et al.
2023, arXiv 2309.08600, ablate a latent and read the later ones)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...errors import require
from ...lazy import pd
from ..models.edits import Edit
from ..models.forward import LM, traced_forward
from ..models.sites import is_behind, parse_site
from ..saes.firing import checked_latents
from ..saes.site_sae import SiteSAE
from .changes import (
    Change,
    Lengths,
    TokenArray,
    check_fits,
    checked_text,
    latent_edit,
    token_batches,
)

_NOTHING = 1e-6  # as a share of the largest mean activation: rounding


@dataclass(frozen=True)
class Downstream:
    """Changes of the latents of a later SAE, in the units of their activations. Each is a mean over
    the positions of a sequence from the first at which the changed latent fires, or over all
    positions if it is pinned. 0 without such positions.

    Attributes:
        latents: `[n]` the changed latents of the earlier SAE.
        n_firing: `[n]` positions at which each fires.
        n_positions: `[n]` positions that the means are over.
        change: `[n, d_sae]` mean change of each latent of the later SAE.
        moved: `[n, d_sae]` mean of the size of the change.
        before: `[n, d_sae]` mean of its activation unchanged.
    """

    latents: Int[np.ndarray, " n"]
    n_firing: Int[np.ndarray, " n"]
    n_positions: Int[np.ndarray, " n"]
    change: Float[np.ndarray, "n d_sae"]
    moved: Float[np.ndarray, "n d_sae"]
    before: Float[np.ndarray, "n d_sae"]

    @property
    def inert(self) -> Int[np.ndarray, " n_inert"]:
        """The latents whose change moves no later latent, including those that never fire."""
        floor = _NOTHING * self.before.max(1, initial=0)
        return self.latents[self.moved.max(1, initial=0) <= floor]

    def edges(self, n: int = 20) -> pd.DataFrame:
        """The strongest pairs by the size of the mean change: `latent` of the earlier SAE,
        `later_latent`, `change`, `before` (its mean activation unchanged), `n_positions`."""
        rows, columns = np.nonzero(self.change)
        values = self.change[rows, columns]
        top = np.argsort(-np.abs(values), kind="stable")[:n]
        rows, columns = rows[top], columns[top]
        return pd.DataFrame({
            "latent": self.latents[rows], "later_latent": columns, "change": values[top],
            "before": self.before[rows, columns], "n_positions": self.n_positions[rows],
        })  # fmt: skip


def downstream(
    model: LM,
    earlier: SiteSAE,
    later: SiteSAE,
    latents: Sequence[int] | Int[np.ndarray, " n"],
    tokens: TokenArray,
    change: Change | None = None,
    *,
    lengths: Lengths | None = None,
    batch_size: int = 8,
) -> Downstream:
    """Changes some latents of one SAE, each on its own, and reads all latents of a later SAE.

    Args:
        model: that both SAEs are of.
        earlier: whose latents are changed; what it misses is kept.
        later: of a site behind it.
        latents: of `earlier`.
        tokens: `[n_seq, n_ctx]` that the model reads.
        change: of each latent; ablation if not given.
        lengths: `[n_seq]` tokens of each sequence, if some are padded.
        batch_size: sequences at once.

    Raises:
        ToysaeError: before anything runs: SAEs of several models, or that do not fit this one;
            a site that is not behind the other; a latent that the SAE does not have.
    """
    change = Change() if change is None else change
    chosen = _checked(model, earlier, later, latents)
    ids, lengths = checked_text(model, tokens, lengths)
    counted = np.arange(ids.shape[1]) < lengths[:, None]
    edits = [latent_edit(earlier, int(latent), change) for latent in chosen]
    no_change = latent_edit(earlier, None, change)
    counts = np.zeros((len(chosen), 2), np.int64)
    sums = np.zeros((3, len(chosen), len(later.W_dec)))
    for _, some, used in token_batches(ids, counted, batch_size):
        fires = np.asarray(_fires(model, some, earlier, jnp.asarray(chosen), used))
        # The unchanged run goes through the same program with an edit: rounding cancels exactly.
        before = _read(model, some, no_change, later)
        for i, edit in enumerate(edits):
            after = _read(model, some, edit, later)
            where = _where(fires[..., i], used, change.everywhere, max(earlier.first, later.first))
            sums[:, i] += np.asarray(_sums(before, after, where))
            counts[i] += int(fires[..., i].sum()), int(where.sum())
    means = sums / np.maximum(counts[:, 1], 1)[:, None]
    return Downstream(chosen, *counts.T, *means)


def _checked(
    model: LM, earlier: SiteSAE, later: SiteSAE, latents: Sequence[int] | np.ndarray
) -> np.ndarray:
    for key in ("weights", "model"):
        names = [sae.info.get(key) for sae in (earlier, later)]
        if None not in names:
            require(names[0] == names[1], "the SAEs are of two models: take two sites of one")
            break
    check_fits(model, earlier)
    check_fits(model, later)
    c = model.config
    require(
        is_behind(parse_site(later.site, c), parse_site(earlier.site, c), c),
        f"{later.site} is not behind {earlier.site}: nothing done there would reach it",
    )
    return checked_latents(latents, len(earlier.W_dec))


@jax.jit
def _fires(model: LM, tokens: Array, sae: SiteSAE, latents: Array, used: Array) -> Array:
    acts, _ = traced_forward(model, tokens, [sae.site], logits=False)
    z = sae.latents(acts[sae.site])[..., latents]
    from_first = jnp.arange(tokens.shape[1]) >= sae.first
    return (z > 0) & (used & from_first)[..., None]


@jax.jit
def _read(model: LM, tokens: Array, edit: Edit, sae: SiteSAE) -> Array:
    acts, _ = traced_forward(model, tokens, [sae.site], [edit], logits=False)
    return sae.latents(acts[sae.site])


@jax.jit
def _where(fires: Array, used: Array, everywhere: Array | bool, first: Array | int) -> Array:
    """The positions, from `first` on, at or after the first that is changed."""
    after = jnp.cumsum(fires, 1) > 0
    return used & (everywhere | after) & (jnp.arange(fires.shape[1]) >= first)


@jax.jit
def _sums(before: Array, after: Array, where: Array) -> Array:
    def total(x: Array) -> Array:
        return jnp.where(where[..., None], x, 0).sum((0, 1))

    moved = after - before
    return jnp.stack([total(moved), total(jnp.abs(moved)), total(before)])
