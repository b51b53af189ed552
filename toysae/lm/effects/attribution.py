"""First-order effects of the coefficients that make up a patch, and the effects of whole patches.

Both prompts of a pair are run once, and the gradient of the corrupted prompt's logit difference is
taken at a site. A coefficient's attribution is its change times that gradient.
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
from ..models.edits import Add
from ..models.forward import LM, check_tokens, traced_forward
from ..saes.site_sae import SiteSAE
from .changes import check_fits, checked_text
from .pairs import PromptPairs


@pytree.dataclass
class Runs:
    """The activations, gradients and predictions of some pairs of prompts at a site.

    Attributes:
        pairs: (clean, corrupted, lengths, answer, wrong), see :class:`.PromptPairs`.
        clean: `[b, n_ctx, d]` activations of the clean prompts.
        corrupted: `[b, n_ctx, d]` activations of the corrupted prompts.
        gradient: `[b, n_ctx, d]` of the corrupted prompts' logit difference.
        log_p: `[b, n_vocab]` of the clean prompts, after their last token.
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
    """The coefficients that make up a patch.

    Attributes:
        rows: `[m, d]` what one unit of a coefficient writes.
        delta: `[b, n_ctx, m]` clean less corrupted coefficients; 0 where nothing may be patched.
        attribution: `[b, n_ctx, m]` first-order effect of each on the logit difference.
        rank: `[b, n_ctx, m]` from 0 on within a pair, in order of attribution; coefficients that do
            not change come last.
    """

    rows: Float[Array, "m d"]
    delta: Float[Array, "b n_ctx m"]
    attribution: Float[Array, "b n_ctx m"]
    rank: Int[Array, "b n_ctx m"]

    @jax.jit
    def vector(self, k: int | Int[Array, ""]) -> Float[Array, "b n_ctx d"]:
        """What the first k coefficients of each pair add to the corrupted activations."""
        return jnp.where(self.rank < k, self.delta, 0) @ self.rows


def run_pairs(
    model: LM, sae: SiteSAE, pairs: PromptPairs, batch_size: int = 8
) -> Iterator[tuple[Runs, int]]:
    """Yields (both runs of some pairs, the number of pairs); the last batch is filled up with its
    last pair.

    Raises:
        ToysaeError: see :func:`patching_curve`.
    """
    check_fits(model, sae)
    require(batch_size >= 1, f"batch_size {batch_size} must be at least 1")
    for tokens in (pairs.clean, pairs.corrupted):
        checked_text(model, tokens, pairs.lengths)
    check_tokens(model, np.concatenate([pairs.answer, pairs.wrong])[:, None])
    total, size = len(pairs.clean), min(batch_size, len(pairs.clean))
    for start in range(0, total, size):
        some = np.minimum(np.arange(start, start + size), total - 1)
        batch = tuple(jnp.asarray(array[some]) for array in astuple(pairs))
        yield _runs(model, sae.site, batch, sae.first), min(size, total - start)


def _last(logits: Array, lengths: Array) -> Array:
    """The logits `[b, n_vocab]` after each prompt's last token."""
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
        acts, logits = traced_forward(model, corrupted, [site], [Add(site, vector)])
        assert logits is not None
        return difference(_last(logits, lengths), pairs).sum(), acts[site].astype(jnp.float32)

    gradient, other = jax.grad(total, has_aux=True)(jnp.zeros_like(x))
    pos = jnp.arange(clean.shape[1])
    # Before the first token that differs, the runs differ only by rounding.
    apart = jnp.cumsum(clean != corrupted, 1) > 0
    patched = apart & (pos >= first) & (pos < lengths[:, None])
    log_p = jax.nn.log_softmax(_last(logits, lengths))
    return Runs(pairs, x, other, gradient, log_p, patched)


@jax.jit
def latent_pieces(sae: SiteSAE, runs: Runs, signed: bool | Array = True) -> Pieces:
    """The pieces of a patch of an SAE's latents; `signed` as in :func:`.patching_curve`."""
    rows = sae.W_dec.astype(jnp.float32) / sae.scale
    return _pieces(runs, rows, sae.latents(runs.clean) - sae.latents(runs.corrupted), signed)


@jax.jit
def direction_pieces(axes: Float[Array, "r d"], runs: Runs, signed: bool | Array = True) -> Pieces:
    """The pieces of a patch along orthonormal directions."""
    rows = axes.astype(jnp.float32)
    return _pieces(runs, rows, (runs.clean - runs.corrupted) @ rows.T, signed)


def _pieces(runs: Runs, rows: Array, delta: Array, signed: bool | Array) -> Pieces:
    delta = jnp.where(runs.patched[..., None], delta, 0)
    attribution = delta * (runs.gradient @ rows.T)
    value = jnp.where(signed, attribution, jnp.abs(attribution))
    by_pair = jnp.where(delta == 0, -jnp.inf, value).reshape(len(delta), -1)
    rank = jnp.argsort(jnp.argsort(-by_pair, 1), 1).reshape(delta.shape)
    return Pieces(rows, delta, attribution, rank)


@partial(jax.jit, static_argnames="site")
def measured(
    model: LM, site: str, runs: Runs, vector: Float[Array, "b n_ctx d"]
) -> dict[str, Float[Array, " b"]]:
    """The measures of each pair whose corrupted prompt runs with a vector added at the site."""
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
