"""The effect of one latent on the predictions: it is ablated, multiplied or pinned, and all that
the SAE misses is kept (Bricken et al. 2023, "Towards Monosemanticity")."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..models.edits import Edit
from ..models.forward import LM, traced_forward
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
from .latents import Effects, ends_of


@dataclass(frozen=True)
class NextToken:
    """How the prediction of the next token changes at every position.

    Attributes:
        delta_log_p: `[n_seq, n_ctx]` change of the next token's log probability, in nats; NaN where
            there is no next token, or before the SAE's first position.
        kl: `[n_seq, n_ctx]` divergence from the unchanged prediction, in nats; NaN likewise.
        z: `[n_seq, n_ctx]` the latent's activation before the change; NaN likewise.
    """

    delta_log_p: Float[np.ndarray, "n_seq n_ctx"]
    kl: Float[np.ndarray, "n_seq n_ctx"]
    z: Float[np.ndarray, "n_seq n_ctx"]

    @property
    def scored(self) -> Bool[np.ndarray, "n_seq n_ctx"]:
        """Whether each position is scored."""
        return ~np.isnan(self.z)


@dataclass(frozen=True)
class Moved:
    """The tokens that a change moves. Means, in nats, are over the positions where the latent
    fires, or over all scored positions if it is pinned; NaN without such positions.

    Attributes:
        latent: its number.
        change: of the latent.
        up: (token id, mean change of its log probability), the largest first.
        down: the same, the most negative first.
        kl: mean divergence from the unchanged predictions.
        delta_ce: mean change of the next token's cross-entropy.
        n_positions: that the means are over.
        n_firing: scored positions at which the latent fires.
        n_scored: scored positions.
        largest: the latent's largest activation at them.
    """

    latent: int
    change: Change
    up: Effects
    down: Effects
    kl: float
    delta_ce: float
    n_positions: int
    n_firing: int
    n_scored: int
    largest: float


def next_token_changes(
    model: LM,
    sae: SiteSAE,
    latent: int,
    tokens: TokenArray,
    change: Change | None = None,
    *,
    lengths: Lengths | None = None,
    batch_size: int = 8,
) -> NextToken:
    """How each next token's log probability changes if one latent is changed at every position.

    Args:
        model: that the SAE is of.
        sae: of one of its sites.
        latent: which.
        tokens: `[n_seq, n_ctx]` that the model predicts.
        change: of the latent; ablation if not given.
        lengths: `[n_seq]` tokens of each sequence, if some are padded.
        batch_size: sequences at once.

    Raises:
        ToysaeError: before anything runs: a latent that the SAE does not have, an SAE that does not
            fit the model, token ids that it does not have.
    """
    change = Change() if change is None else change
    ids, scored = _checked(model, sae, latent, tokens, lengths)
    changes = np.full((3, *ids.shape), np.nan)
    for some, now, values, _ in _passes(model, sae, latent, ids, scored, change, batch_size):
        changes[:, some] = np.where(now, values[:, : len(now)], np.nan)
    return NextToken(*changes)


def moved_tokens(
    model: LM,
    sae: SiteSAE,
    latent: int,
    tokens: TokenArray,
    change: Change | None = None,
    n: int = 10,
    *,
    lengths: Lengths | None = None,
    n_vocab: int | None = None,
    batch_size: int = 8,
) -> Moved:
    """The tokens whose mean log probability one latent moves most. Arguments that are not below
    are those of :func:`next_token_changes`.

    Args:
        n: tokens moved up, and as many moved down.
        n_vocab: token ids from this one on are padding of the model and are left out.

    Raises:
        ToysaeError: see :func:`next_token_changes`.
    """
    change = Change() if change is None else change
    ids, scored = _checked(model, sae, latent, tokens, lengths)
    sums, total = np.zeros(4), np.zeros(model.config.n_vocab)
    largest = 0.0
    for _, now, values, moved in _passes(model, sae, latent, ids, scored, change, batch_size):
        delta, kl, z = values[:, : len(now)]
        where = now & (change.everywhere | (z > 0))
        sums += [where.sum(), (now & (z > 0)).sum(), kl[where].sum(), -delta[where].sum()]
        largest = max(largest, float(z[now].max(initial=0)))
        total += moved
    n_positions = int(sums[0])
    up, down = ends_of(total[:n_vocab] / n_positions if n_positions else np.empty(0), n)
    kl, ce = sums[2:] / n_positions if n_positions else (np.nan, np.nan)
    return Moved(
        int(latent), change, up, down, float(kl), float(ce), n_positions, int(sums[1]),
        int(scored.sum()), largest,
    )  # fmt: skip


def _checked(
    model: LM, sae: SiteSAE, latent: int, tokens: TokenArray, lengths: Lengths | None
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, and the positions whose prediction of the next token is scored."""
    check_fits(model, sae)
    checked_latents([latent], len(sae.W_dec))
    ids, lengths = checked_text(model, tokens, lengths)
    pos = np.arange(ids.shape[1])
    return ids, (pos >= sae.first) & (pos < lengths[:, None] - 1)


def _passes(
    model: LM, sae: SiteSAE, latent: int, ids: np.ndarray, scored: np.ndarray, change: Change,
    batch_size: int,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:  # fmt: skip
    """Yields for each batch (sequences, which of their positions are scored, `[3, b, n_ctx]`
    changes of the next token's log p, divergences and activations, `[n_vocab]` sums of changes)."""
    no_edit, edit = (latent_edit(sae, which, change) for which in (None, latent))
    for some, tokens, used in token_batches(ids, scored, batch_size):
        # The unchanged run goes through the same program with an edit: rounding cancels exactly.
        before, z = _predictions(model, tokens, sae, latent, no_edit)
        after, _ = _predictions(model, tokens, sae, latent, edit)
        values, moved = _compared(before, after, tokens, used, z, change.everywhere)
        yield some, scored[some], np.asarray(values, np.float64), np.asarray(moved, np.float64)


@jax.jit
def _predictions(model: LM, tokens: Array, sae: SiteSAE, latent: int | Array, edit: Edit):
    """(log p of every token at every position, the latent there before the edit)."""
    acts, _ = traced_forward(model, tokens, [sae.site], logits=False)
    z = sae.latents(acts[sae.site])[..., latent]
    _, logits = traced_forward(model, tokens, (), [edit])
    assert logits is not None
    return jax.nn.log_softmax(logits.astype(jnp.float32)), z


@jax.jit
def _compared(
    before: Array, after: Array, tokens: Array, used: Array, z: Array, everywhere: bool | Array
) -> tuple[Array, Array]:
    change = after - before
    next_ = jnp.take_along_axis(change, jnp.roll(tokens, -1, 1)[..., None], -1)[..., 0]
    kl = -jnp.sum(jnp.exp(before) * change, -1)
    where = used & (everywhere | (z > 0))
    moved = jnp.where(where[..., None], change, 0).sum((0, 1))
    return jnp.stack([next_, kl, z]), moved
