"""What a model loses when an SAE replaces its activations, compared with cruder replacements.

CE recovered alone misleads: at a residual site a rank-64 PCA recovers most of it, and if zero
ablation hardly hurts, it is a ratio of noise. So the tables also have the difference in
cross-entropy, the divergence of the predictions, and the baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ... import pytree
from ...errors import require
from ...lazy import pd
from ..capture.text import Corpus
from ..models.edits import Edit, KeepMean, Replace
from ..models.forward import LM, traced_forward
from ..models.sites import parse_site
from ..saes.site_sae import SiteSAE, spliced
from .changes import token_batches

PCA_RANKS = (16, 64, 256)


@pytree.dataclass
class Project(Edit):
    """x -> mean + the projection of x - mean on the rows of `basis [r, d]`: orthonormal or 0."""

    mean: Float[Array, " d"]
    basis: Float[Array, "r d"]

    def __call__(self, acts: Array) -> Array:
        return self.mean + (acts - self.mean) @ self.basis.T @ self.basis


def baselines(
    site: str, rows: Float[np.ndarray, "n d"], first: int, shape: tuple[int, int],
    ranks: Sequence[int] = PCA_RANKS, seed: int = 0,
) -> dict[str, Edit]:  # fmt: skip
    """Replacements of activations that know nothing of features.

    Args:
        site: where.
        rows: activations there, not those that are scored.
        first: the first position that is replaced.
        shape: (sequences, tokens) of the batches they are used on.
        ranks: of the projections; ranks of d or more are left out.
        seed: of what is drawn.

    Returns:
        "zero"; "mean"; "random token", the activation of some other token at each place; and for
        each rank "pca-r" and "random-r", projections on the leading axes and on random ones.
    """
    x = np.asarray(rows, np.float64)
    n, d = x.shape
    rng = np.random.default_rng(seed)
    mean = x.mean(0)
    values, axes = np.linalg.eigh((x - mean).T @ (x - mean))
    axes = axes[:, np.argsort(-values)].T
    random, _ = np.linalg.qr(rng.normal(size=(d, d)))
    edits: dict[str, Edit] = {
        "zero": Replace(site, jnp.zeros((*shape, d)), first=first),
        "mean": Replace(site, jnp.float32(np.broadcast_to(mean, (*shape, d))), first=first),
        "random token": Replace(site, jnp.float32(x[rng.integers(0, n, shape)]), first=first),
    }
    ranks = [r for r in ranks if r < d]
    most = max(ranks, default=0)
    for rank in ranks:
        in_rank = np.arange(most)[:, None] < rank  # all of one shape: one program
        for name, basis in (("pca", axes[:most]), ("random", random[:most])):
            rows_in = jnp.float32(basis * in_rank)
            edits[f"{name}-{rank}"] = Project(site, jnp.float32(mean), rows_in, first=first)
    return edits


def splice_table(
    model: LM,
    corpus: Corpus,
    sequences: Int[np.ndarray, " n"],
    saes: Mapping[str, SiteSAE],
    rows: Float[np.ndarray, "m d"],
    *,
    batch_size: int = 8,
    ranks: Sequence[int] = PCA_RANKS,
    on_batch: Callable[[int, int], object] = lambda done, total: None,
) -> pd.DataFrame:
    """Cross-entropy with each SAE in place of one site's activations, and with each baseline.

    Args:
        model: that the SAEs were trained on.
        corpus: text that it predicts.
        sequences: of the corpus, best held out from training.
        saes: by name, all of one site.
        rows: activations of that site, for the baselines.
        batch_size: sequences at once.
        ranks: of the PCA baselines.
        on_batch: called with the tokens done, counted for each arm, and in all.

    Returns:
        One row an arm, "clean" first: `ce` in nats a token; `delta_ce`, how much it is above the
        clean model's, with `delta_ce_half_width` of its 95 % interval over sequences;
        `ce_recovered`, the share of the cost of zero ablation that is avoided, and
        `ce_recovered_mean`, of that of mean ablation; `kl` from the clean predictions, in nats;
        `fvu` of the replaced activations; `n_tokens` predicted.

    Raises:
        ToysaeError: no SAE, SAEs of several sites or of another model.
    """
    require(saes, "name at least one SAE")
    sites = sorted({sae.site for sae in saes.values()})
    require(len(sites) == 1, f"these SAEs are of several sites ({', '.join(sites)}): one at a time")
    require(len(sequences) > 0, "there are no sequences to predict")
    centred = {sae.centred for sae in saes.values()}
    require(len(centred) == 1, "some of these SAEs read centred activations and others do not")
    first = int(next(iter(saes.values())).info.get("first", 1))
    size = min(batch_size, len(sequences))
    arms = baselines(sites[0], rows, first, (size, corpus.layout.n_ctx), ranks)
    if centred.pop():  # the SAEs too keep the mean over dimensions
        arms = {k: KeepMean(sites[0], edit, first=first) for k, edit in arms.items()}
    arms |= {name: spliced(sae) for name, sae in saes.items()}
    lengths = np.asarray(corpus.lengths)[sequences]
    pos = np.arange(corpus.layout.n_ctx)
    scored = (pos >= first) & (pos < lengths[:, None] - 1)
    batches = token_batches(np.asarray(corpus.tokens[sequences]), scored, size)
    done, total = 0, int(lengths.sum()) * (1 + len(arms))
    sums: dict[str, list[np.ndarray]] = {name: [] for name in ("clean", *arms)}
    point = jnp.float32(np.asarray(rows, np.float64).mean(0))
    moments = np.zeros(len(point) + 1)
    for some, tokens, used in batches:
        n, n_tokens = some.stop - some.start, int(lengths[some].sum())
        log_p, ce, x, before, more = _clean(model, tokens, used, point, sites[0])
        sums["clean"].append(np.asarray(ce)[:n])
        moments += np.asarray(more, np.float64)
        for name, edit in arms.items():
            on_batch(done := done + n_tokens, total)
            losses = _with_edit(model, tokens, used, log_p, x, before, edit)
            sums[name].append(np.asarray(losses)[:n])
        on_batch(done := done + n_tokens, total)
    counts = scored.sum(1)
    power = moments[-1] - (moments[:-1] ** 2).sum() / counts.sum()
    return _table({name: np.concatenate(parts) for name, parts in sums.items()}, counts, power)


def _losses(log_p: Array, tokens: Array, used: Array) -> Array:
    next_ = jnp.roll(tokens, -1, 1)
    ce = -jnp.take_along_axis(log_p, next_[..., None], -1)[..., 0]
    return jnp.where(used, ce, 0.0)


@partial(jax.jit, static_argnames="site")
def _clean(model: LM, tokens: Array, used: Array, point: Array, site: str):
    """(log probabilities, sums of each sequence as in :func:`_with_edit`, the activations, the
    residual stream before their layer, their sum and sum of squares about a point)."""
    before = f"blocks.{parse_site(site, model.config).layer}.hook_resid_pre"
    acts, logits = traced_forward(model, tokens, [site, before])
    assert logits is not None
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    ce = _losses(log_p, tokens, used).sum(1)
    x = acts[site].astype(jnp.float32)
    off = jnp.where(used[..., None], x - point, 0)
    moments = jnp.append(off.sum((0, 1)), (off**2).sum())
    zero = jnp.zeros_like(ce)
    return log_p, jnp.stack([ce, zero, zero], 1), x, acts[before], moments


@jax.jit
def _with_edit(
    model: LM, tokens: Array, used: Array, clean: Array, x: Array, before: Array, edit: Edit
) -> Float[Array, "n 3"]:
    """Sums of cross-entropy, divergence and squared error over each sequence."""
    resume = parse_site(edit.site, model.config).layer, before
    acts, logits = traced_forward(model, tokens, [edit.site], [edit], resume=resume)
    assert logits is not None
    log_q = jax.nn.log_softmax(logits.astype(jnp.float32))
    ce = _losses(log_q, tokens, used).sum(1)
    kl = jnp.where(used, jnp.sum(jnp.exp(clean) * (clean - log_q), -1), 0).sum(1)
    error = jnp.sum((acts[edit.site].astype(jnp.float32) - x) ** 2, -1)
    return jnp.stack([ce, kl, jnp.where(used, error, 0).sum(1)], 1)


def _table(sums: dict[str, np.ndarray], n: Int[np.ndarray, " n_seq"], power: float) -> pd.DataFrame:
    total, clean = n.sum(), sums["clean"][:, 0]
    above = {name: (s[:, 0] - clean).sum() / total for name, s in sums.items()}
    rows = []
    for name, s in sums.items():
        ce, kl, error = s.sum(0, dtype=np.float64)
        own = (s[:, 0] - clean) / np.maximum(n, 1)
        spread = own.std(ddof=1) / len(own) ** 0.5 if len(own) > 1 else np.nan
        rows.append({
            "arm": name, "ce": ce / total, "delta_ce": above[name],
            "delta_ce_half_width": 1.96 * spread,
            "ce_recovered": 1 - above[name] / above["zero"] if above["zero"] else np.nan,
            "ce_recovered_mean": 1 - above[name] / above["mean"] if above["mean"] else np.nan,
            "kl": kl / total, "fvu": error / power, "n_tokens": int(total),
        })  # fmt: skip
    return pd.DataFrame(rows)
