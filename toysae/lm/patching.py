"""How many latents have to be patched for a corrupted prompt to be answered as the clean one is
(Cunningham et al. 2023, arXiv 2309.08600), beside PCA directions and the whole activation.

A corrupted prompt is run, and at chosen positions the coefficients of chosen directions are made
those of the clean run; all else, an SAE's error too, stays. Coefficients are chosen in the order of
their attribution, the logit difference's gradient times their change: one backward pass.
"""

from collections.abc import Iterator
from dataclasses import astuple
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from ..errors import require
from .changes import check_fits, checked_text
from .edits import Add
from .models import LM, traced_forward
from .models.forward import check_tokens
from .pairs import Pairs
from .site_sae import SiteSAE

MEASURES = ("logit_diff", "kl", "norm", "n_patched")


@struct.dataclass
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


@struct.dataclass
class Pieces:
    """What a patch is put together from.

    Attributes:
        rows: `[m, d]` what one unit of a coefficient writes.
        delta: `[b, n_ctx, m]` clean less corrupted coefficients; 0 where nothing may be patched.
        attribution: `[b, n_ctx, m]` first-order effect of each on the logit difference.
        rank: `[b, n_ctx, m]` 0 for the largest attribution of a pair, 1 for the next; coefficients
            that do not change come last.
    """

    rows: Float[Array, "m d"]
    delta: Float[Array, "b n_ctx m"]
    attribution: Float[Array, "b n_ctx m"]
    rank: Int[Array, "b n_ctx m"]

    def vector(self, k: int | Int[Array, ""]) -> Float[Array, "b n_ctx d"]:
        """What the first k coefficients of each pair add to the corrupted activations."""
        return _vector(self, k)


def patching_curve(
    model: LM,
    sae: SiteSAE,
    pairs: Pairs,
    axes: Float[np.ndarray | Array, "r d"] | None = None,
    *,
    batch_size: int = 8,
) -> pd.DataFrame:
    """The answers of corrupted prompts with k coefficients patched, k = 0, 1, 2, 4, ..., all.

    Args:
        model: that the SAE is of.
        sae: whose latents are patched; its error stays the corrupted run's.
        pairs: of prompts.
        axes: orthonormal directions patched likewise, e.g. principal axes of the site.
        batch_size: pairs at once.

    Returns:
        Rows by `arm`: "clean", the clean run; "latents" for each `k`, the number of (position,
        latent) pairs; "axes" likewise, if given; "error", the SAE's error alone; "activation", the
        whole activations of the site: the ceiling. Means over pairs: `n_patched`, at most k;
        `logit_diff` of the answer and the wrong answer, with `logit_diff_half_width` of its 95 %
        interval; `recovered`, the share of the way from the corrupted run's mean to the clean
        run's; `kl` from the clean run's prediction, in nats; `norm`, the edit's L2 norm over that
        of the whole activations' change (NaN where they do not change).

    Raises:
        ToysaeError: before anything runs: an SAE that does not fit the model, token ids that it
            does not have, axes of another width.
    """
    found: dict[str, list[np.ndarray]] = {}
    known = None if axes is None else jnp.asarray(axes)
    d = sae.sae.spec.d_in
    fits = known is None or known.shape[1] == d
    require(fits, f"the axes have {known is not None and known.shape[1]} dimensions, not {d}")
    for runs, n in run_pairs(model, sae, pairs, batch_size):
        latents = latent_pieces(sae, runs)
        whole = jnp.where(runs.patched[..., None], runs.clean - runs.corrupted, 0)
        error = whole - latents.vector(latents.delta[0].size)
        arms = {"clean": [_clean(runs)], "latents": _curve(model, sae.site, runs, latents)}
        if known is not None:
            pieces = direction_pieces(known, runs)
            arms["axes"] = _curve(model, sae.site, runs, pieces)
        arms["error"] = [measured(model, sae.site, runs, error)]
        arms["activation"] = [measured(model, sae.site, runs, whole)]
        for arm, rows in arms.items():
            values = np.array([[row.get(m, np.nan * row["kl"]) for m in MEASURES] for row in rows])
            found.setdefault(arm, []).append(values[..., :n].astype(np.float64))
    return _table({arm: _joined(batches) for arm, batches in found.items()})


def run_pairs(
    model: LM, sae: SiteSAE, pairs: Pairs, batch_size: int = 8
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


def latent_pieces(sae: SiteSAE, runs: Runs) -> Pieces:
    """Of an SAE's latents."""
    return _latent_pieces(sae, runs)


def direction_pieces(axes: Float[Array, "r d"], runs: Runs) -> Pieces:
    """Of orthonormal directions."""
    return _direction_pieces(axes, runs)


def measured(model: LM, site: str, runs: Runs, vector: Array) -> dict[str, Array]:
    """Of each pair, what the corrupted prompt shows with a vector `[b, n_ctx, d]` added."""
    return _measured(model, site, runs, vector)


def _curve(model: LM, site: str, runs: Runs, pieces: Pieces) -> list[dict[str, Array]]:
    """Measures at k = 0, 1, 2, 4, ... up to what changes in some pair of these, then at all."""
    counts, size = jnp.sum(pieces.delta != 0, (1, 2)), pieces.delta[0].size
    most = int(counts.max())
    ks = [0, *(2**i for i in range(most.bit_length()) if 2**i < most), size]
    return [
        measured(model, site, runs, pieces.vector(k)) | {"n_patched": jnp.minimum(counts, k)}
        for k in ks
    ]


def _joined(batches: list[np.ndarray]) -> np.ndarray:
    """`[k, measure, n]` of all pairs; beyond what changes in a batch, all of it is patched."""
    longest = max(map(len, batches))
    padded = [
        np.concatenate([rows[:-1], np.repeat(rows[-1:], 1 + longest - len(rows), 0)])
        for rows in batches
    ]
    return np.concatenate(padded, 2)


def _table(arms: dict[str, np.ndarray]) -> pd.DataFrame:
    low, high = arms["latents"][0, 0].mean(), arms["clean"][0, 0].mean()
    rows = []
    for arm, curve in arms.items():
        ks = ["0", *(str(2**i) for i in range(len(curve) - 2)), "all"] if len(curve) > 1 else [""]
        for k, (diff, kl, norm, n_patched) in zip(ks, curve, strict=True):
            spread = diff.std(ddof=1) / len(diff) ** 0.5 if len(diff) > 1 else np.nan
            rows.append({
                "arm": arm, "k": k, "n_patched": n_patched.mean(), "logit_diff": diff.mean(),
                "logit_diff_half_width": 1.96 * spread,
                "recovered": (diff.mean() - low) / (high - low) if high != low else np.nan,
                "kl": kl.mean(), "norm": norm.mean(),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _last(logits: Array, lengths: Array) -> Array:
    """`[b, n_vocab]` behind each prompt's last token."""
    return jnp.take_along_axis(logits, lengths[:, None, None] - 1, 1)[:, 0].astype(jnp.float32)


def _difference(logits: Array, pairs: tuple[Array, ...]) -> Array:
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
        return _difference(_last(logits, lengths), pairs).sum(), seen[site].astype(jnp.float32)

    gradient, other = jax.grad(total, has_aux=True)(jnp.zeros_like(x))
    pos = jnp.arange(clean.shape[1])
    # Before the first token that differs, the runs differ by rounding alone.
    apart = jnp.cumsum(clean != corrupted, 1) > 0
    patched = apart & (pos >= first) & (pos < lengths[:, None])
    log_p = jax.nn.log_softmax(_last(logits, lengths))
    return Runs(pairs, x, other, gradient, log_p, patched)


@jax.jit
def _latent_pieces(sae: SiteSAE, runs: Runs) -> Pieces:
    rows = sae.W_dec.astype(jnp.float32) / sae.scale
    return _pieces(runs, rows, sae.latents(runs.clean) - sae.latents(runs.corrupted))


@jax.jit
def _direction_pieces(axes: Array, runs: Runs) -> Pieces:
    rows = axes.astype(jnp.float32)
    return _pieces(runs, rows, (runs.clean - runs.corrupted) @ rows.T)


def _pieces(runs: Runs, rows: Array, delta: Array) -> Pieces:
    delta = jnp.where(runs.patched[..., None], delta, 0)
    attribution = delta * (runs.gradient @ rows.T)
    by_pair = jnp.where(delta == 0, -jnp.inf, attribution).reshape(len(delta), -1)
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
        "logit_diff": _difference(last, runs.pairs),
        "kl": jnp.sum(jnp.exp(runs.log_p) * (runs.log_p - log_q), -1),
        "norm": norms[0] / norms[1],
    }


@jax.jit
def _clean(runs: Runs) -> dict[str, Array]:
    diff = _difference(runs.log_p, runs.pairs)
    return {"logit_diff": diff, "kl": jnp.zeros_like(diff), "norm": jnp.ones_like(diff)}
