"""First-order effects of the coefficients that a patch is put together from, and what patches do.

A pair of prompts is run once each, and the gradient of the corrupted one's logit difference is
taken at a site: times a coefficient's change, it is the attribution.
"""

from collections.abc import Iterator
from dataclasses import astuple
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ... import pytree
from ...errors import require
from ..models import LM, traced_forward
from ..models.edits import Add
from ..models.forward import check_tokens
from ..saes.site_sae import SiteSAE
from .changes import check_fits, checked_text
from .pairs import PromptPairs


@pytree.dataclass
class Runs:
    """What both prompts of some pairs show at a site.

    Attributes:
        pairs: (clean, corrupted, lengths, answer, wrong), see :class:`Pairs`.
        clean: `[b, n_ctx, d]` activations of the clean prompts.
        corrupted: `[b, n_ctx, d]` of the corrupted ones.
        gradient: `[b, n_ctx, d]` of the corrupted prompts' logit difference.
        log_p: `[b, n_vocab]` of the clean prompts, behind their last token.
        patched: `[b, n_ctx]` positions that may be patched.
    """

    pairs: tuple[Array, ...]
    clean: Float[Array, "b n_ctx d"]
    corrupted: Float[Array, "b n_ctx d"]
    gradient: Float[Array, "b n_ctx d"]
    log_p: Float[Array, "b n_vocab"]
    patched: Bool[Array, "b n_ctx"]


@pytree.dataclass
class Pieces:
    """What a patch is put together from.

    Attributes:
        rows: `[m, d]` what one unit of a coefficient writes.
        delta: `[b, n_ctx, m]` clean less corrupted coefficients; 0 where nothing may be patched.
        attribution: `[b, n_ctx, m]` first-order effect of each on the logit difference.
        rank: `[b, n_ctx, m]` 0 for the first of a pair in order of attribution, 1 for the next;
            coefficients that do not change come last.
    """

    rows: Float[Array, "m d"]
    delta: Float[Array, "b n_ctx m"]
    attribution: Float[Array, "b n_ctx m"]
    rank: Int[Array, "b n_ctx m"]

    def vector(self, k: int | Int[Array, ""]) -> Float[Array, "b n_ctx d"]:
        """What the first k coefficients of each pair add to the corrupted activations."""
        return _vector(self, k)


def run_pairs(
    model: LM, sae: SiteSAE, pairs: PromptPairs, batch_size: int = 8
) -> Iterator[tuple[Runs, int]]:
    """(both runs of some pairs, how many pairs they are): the last batch is filled up by its last
    pair.

    Raises:
        ToysaeError: see :func:`patching_curve`.
    """
    check_fits(model, sae)
    require(batch_size >= 1, f"batch_size {batch_size} must be at least 1")
    for tokens in (pairs.clean, pairs.corrupted):
        checked_text(model, tokens, pairs.lengths)
    check_tokens(model, np.concatenate([pairs.answer, pairs.wrong])[:, None])
    total, size = len(pairs.clean), min(batch_size, len(pairs.clean))
    first = int(sae.info.get("first", 0))
    for start in range(0, total, size):
        some = np.minimum(np.arange(start, start + size), total - 1)
        batch = tuple(jnp.asarray(part[some]) for part in astuple(pairs))
        yield _runs(model, sae.site, batch, first), min(size, total - start)


def latent_pieces(sae: SiteSAE, runs: Runs, signed: bool = True) -> Pieces:
    """Of an SAE's latents."""
    return _latent_pieces(sae, runs, signed)


def direction_pieces(axes: Float[Array, "r d"], runs: Runs, signed: bool = True) -> Pieces:
    """Of orthonormal directions."""
    return _direction_pieces(axes, runs, signed)


def measured(model: LM, site: str, runs: Runs, vector: Array) -> dict[str, Array]:
    """Of each pair, what the corrupted prompt shows with a vector `[b, n_ctx, d]` added."""
    return _measured(model, site, runs, vector)


def _last(logits: Array, lengths: Array) -> Array:
    """`[b, n_vocab]` behind each prompt's last token."""
    return jnp.take_along_axis(logits, lengths[:, None, None] - 1, 1)[:, 0].astype(jnp.float32)


def difference(logits: Array, pairs: tuple[Array, ...]) -> Array:
    """The answer's logit less the wrong answer's, `[b]`."""
    answer, wrong = (jnp.take_along_axis(logits, i[:, None], 1)[:, 0] for i in pairs[3:])
    return answer - wrong


@partial(jax.jit, static_argnames=("site", "first"))
def _runs(model: LM, site: str, pairs: tuple[Array, ...], first: int) -> Runs:
    clean, corrupted, lengths, _, _ = pairs
    acts, logits = traced_forward(model, clean, [site])
    assert logits is not None
    x = acts[site].astype(jnp.float32)

    def total(vector: Array) -> tuple[Array, Array]:
        seen, logits = traced_forward(model, corrupted, [site], [Add(site, vector)])
        assert logits is not None
        return difference(_last(logits, lengths), pairs).sum(), seen[site].astype(jnp.float32)

    gradient, other = jax.grad(total, has_aux=True)(jnp.zeros_like(x))
    pos = jnp.arange(clean.shape[1])
    # Before the first token that differs, the runs differ by rounding alone.
    apart = jnp.cumsum(clean != corrupted, 1) > 0
    patched = apart & (pos >= first) & (pos < lengths[:, None])
    log_p = jax.nn.log_softmax(_last(logits, lengths))
    return Runs(pairs, x, other, gradient, log_p, patched)


@jax.jit
def _latent_pieces(sae: SiteSAE, runs: Runs, signed: bool | Array) -> Pieces:
    rows = sae.W_dec.astype(jnp.float32) / sae.scale
    return _pieces(runs, rows, sae.latents(runs.clean) - sae.latents(runs.corrupted), signed)


@jax.jit
def _direction_pieces(axes: Array, runs: Runs, signed: bool | Array) -> Pieces:
    rows = axes.astype(jnp.float32)
    return _pieces(runs, rows, (runs.clean - runs.corrupted) @ rows.T, signed)


def _pieces(runs: Runs, rows: Array, delta: Array, signed: bool | Array) -> Pieces:
    delta = jnp.where(runs.patched[..., None], delta, 0)
    attribution = delta * (runs.gradient @ rows.T)
    value = jnp.where(signed, attribution, jnp.abs(attribution))
    by_pair = jnp.where(delta == 0, -jnp.inf, value).reshape(len(delta), -1)
    rank = jnp.argsort(jnp.argsort(-by_pair, 1), 1).reshape(delta.shape)
    return Pieces(rows, delta, attribution, rank)


@jax.jit
def _vector(pieces: Pieces, k: int | Array) -> Array:
    return jnp.where(pieces.rank < k, pieces.delta, 0) @ pieces.rows


@partial(jax.jit, static_argnames="site")
def _measured(model: LM, site: str, runs: Runs, vector: Array) -> dict[str, Array]:
    _, logits = traced_forward(model, runs.pairs[1], (), [Add(site, vector)])
    assert logits is not None
    last = _last(logits, runs.pairs[2])
    log_q = jax.nn.log_softmax(last)
    whole = jnp.where(runs.patched[..., None], runs.clean - runs.corrupted, 0)
    norms = [jnp.sqrt(jnp.sum(v**2, (1, 2))) for v in (vector, whole)]
    return {
        "logit_diff": difference(last, runs.pairs),
        "kl": jnp.sum(jnp.exp(runs.log_p) * (runs.log_p - log_q), -1),
        "norm": norms[0] / norms[1],
    }
