"""Absorption against the truth: a parent's latent is silent where a child's fires for both.

For a parent p and a child c whose best latents (by signed cosine) differ,

    rate = P(z_p = 0, z_c != 0 | p and c on) - P(z_p = 0 | p on, c off):

how often the child silences the parent, less how often it is silent anyway. In partial absorption
the parent's latent fires too weakly: with r = E[z_p] / E[a_p] over the samples with c on or off,
`share` = 1 - r(c on) / r(c off) is how much of the parent is missing. In the family
W_enc,p = f_p - δ f_c, W_dec,c ∝ f_c + δ f_p (A is for Absorption, arXiv 2409.14507) this is δ at
equal magnitudes.
Where magnitudes vary, most of a parent can be missing at a rate near 0.
**Repair** adds the firings of absorbing children's latents to the parent's.

Whether this is absorption depends on the reading of the data: where magnitudes do not vary, "c
fires only with p" and "two exclusive features at an angle" draw the same inputs, and the same SAE
absorbs in one world and is perfect in the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .. import pytree
from ..errors import require
from ..lazy import pd
from ..worlds.world import Batch

ABSORBS = 0.1
"""Rate above which a pair counts as absorbed."""
MOSTLY = 0.5
"""Share above which a parent counts as mostly absorbed."""


@pytree.dataclass
class Pairs:
    """Counts of (parent, child) pairs, each feature with its latent.

    Counts and means `[2, n_pairs]` are over samples with the parent on and the child off, then with
    both on.
    """

    parent: Int[Array, " n_pairs"]
    child: Int[Array, " n_pairs"]
    parent_latent: Int[Array, " n_pairs"]
    child_latent: Int[Array, " n_pairs"]
    n: Int[Array, "2 n_pairs"]
    silent: Int[Array, "2 n_pairs"]  # the parent's latent does not fire
    absorbed: Int[Array, " n_pairs"]  # both on; the parent's latent is silent, the child's is not
    z: Float[Array, "2 n_pairs"]
    act: Float[Array, "2 n_pairs"]


def empty_pairs(
    parents: Int[np.ndarray, " n_features"], latents: Int[np.ndarray, " n_features"]
) -> Pairs:
    """Returns pairs of no samples for every child and parent with different latents.

    Args:
        parents: parent of each feature, -1 for none, e.g. from
            :func:`toysae.recovery.hierarchy.parents_of`.
        latents: latent of each feature, e.g. `best_latent` of the records. Pairs that share a
            latent are left out: they are merged, not absorbed.
    """
    child = np.flatnonzero(parents >= 0)
    child = child[latents[child] != latents[parents[child]]]
    parent = parents[child]
    n = len(child)
    ids = (parent, child, latents[parent], latents[child])
    counts = (*jnp.zeros((2, 2, n), jnp.int32), jnp.zeros(n, jnp.int32))
    means = jnp.zeros((2, 2, n), jnp.float32)
    return Pairs(*[*(jnp.asarray(of, jnp.int32) for of in ids), *counts, *means])


def add_pairs(seen: Pairs, batch: Batch, z: Float[Array, "batch d_sae"]) -> Pairs:
    """Returns pairs with one more batch, at about `batch * (n_features + 10 n_pairs)` numbers."""
    acts = batch.feature_acts
    act, child_on = acts[:, seen.parent], acts[:, seen.child] != 0
    z_parent, z_child = z[:, seen.parent_latent], z[:, seen.child_latent]
    kinds = jnp.stack([(act != 0) & ~child_on, (act != 0) & child_on])
    n, mean = running_means(seen.n, kinds)
    silent = kinds & (z_parent == 0)
    return replace(
        seen,
        n=n,
        silent=seen.silent + silent.sum(1, dtype=jnp.int32),
        absorbed=seen.absorbed + (silent[1] & (z_child != 0)).sum(0, dtype=jnp.int32),
        z=mean(seen.z, z_parent),
        act=mean(seen.act, act),
    )


def running_means(
    n: Int[Array, "*any m"], counted: Bool[Array, "*any batch m"]
) -> tuple[Int[Array, "*any m"], Callable[[Array, Array], Array]]:
    """Adds a batch to running means over the samples that count.

    Returns:
        The new numbers of samples, and the function of an old mean `[m]` and the batch's values
        `[batch, m]` that returns the new mean.
    """
    n_new = counted.sum(-2, dtype=jnp.int32)
    share = n_new / jnp.maximum(n + n_new, 1)

    def mean(old: Array, values: Array) -> Array:
        new = jnp.where(counted, values, 0).sum(-2) / jnp.maximum(n_new, 1)
        return old + share * (new - old)

    return n + n_new, mean


def absorption(seen: Pairs) -> pd.DataFrame:
    """Returns one row a pair: `parent`, `child`, their latents, `n_both`, `rate`, `share`.

    `rate` is in [-1, 1]; `share` is at most 1, and negative where the parent's latent fires more
    strongly with the child. Both are NaN where the parent was never on with the child or never
    without it. `share` is also NaN where the parent's latent misses more than half of the parent's
    firings without the child, since it then does not stand for the parent.
    """
    host = jax.device_get(seen)
    n = np.asarray(host.n, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        response = np.asarray(host.z, np.float64) / host.act
        missed = host.silent[0] / n[0]
        rate = host.absorbed / n[1] - missed
        share = 1 - response[1] / response[0]
    return pd.DataFrame(
        {
            "parent": host.parent,
            "child": host.child,
            "parent_latent": host.parent_latent,
            "child_latent": host.child_latent,
            "n_both": host.n[1],
            "rate": np.where((n > 0).all(0), rate, np.nan),
            "share": np.where((n > 0).all(0) & (missed <= 0.5), share, np.nan),
        }
    )


@pytree.dataclass
class Repairs:
    """Firings of parents' latents, alone and together with their absorbing children's.

    Row i of `latents` has parent i's latent, then its absorbing children's, padded with its own.
    """

    parent: Int[Array, " n_parents"]
    latents: Int[Array, "n_parents width"]
    n_on: Int[Array, " n_parents"]
    fired: Int[Array, "2 n_parents"]  # own latent, any of the row
    hits: Int[Array, "2 n_parents"]


def empty_repairs(pairs: pd.DataFrame, threshold: float = ABSORBS) -> Repairs | None:
    """Returns repairs of no samples for the parents that a child absorbs; None without any.

    Args:
        pairs: from :func:`absorption`.
        threshold: rate above which a child absorbs.

    Raises:
        ToysaeError: a threshold that is not in (0, 1].
    """
    require(0 < threshold <= 1, f"threshold {threshold} must be in (0, 1]")
    absorbing = pairs[pairs["rate"] > threshold]
    if absorbing.empty:
        return None
    by_parent = {p: rows for p, rows in absorbing.groupby("parent")}
    width = 1 + max(len(rows) for rows in by_parent.values())
    latents = np.empty((len(by_parent), width), int)
    for row, pairs_of_parent in zip(latents, by_parent.values(), strict=True):
        row[:] = pairs_of_parent["parent_latent"].iloc[0]
        row[1 : 1 + len(pairs_of_parent)] = pairs_of_parent["child_latent"]
    return Repairs(
        jnp.asarray(list(by_parent), jnp.int32),
        jnp.asarray(latents, jnp.int32),
        jnp.zeros(len(by_parent), jnp.int32),
        *jnp.zeros((2, 2, len(by_parent)), jnp.int32),
    )


def add_repairs(seen: Repairs, batch: Batch, z: Float[Array, "batch d_sae"]) -> Repairs:
    """Returns repairs with one more batch."""
    fires = z != 0
    on = batch.feature_acts[:, seen.parent] != 0
    either: Bool[Array, "2 batch n_parents"] = jnp.stack(
        [fires[:, seen.latents[:, 0]], fires[:, seen.latents].any(-1)]
    )
    return replace(
        seen,
        n_on=seen.n_on + on.sum(0, dtype=jnp.int32),
        fired=seen.fired + either.sum(1, dtype=jnp.int32),
        hits=seen.hits + (either & on).sum(1, dtype=jnp.int32),
    )


def repair(seen: Repairs) -> pd.DataFrame:
    """Returns one row a parent: `recall` and `precision` of its latent, and `repaired_recall` and
    `repaired_precision` with its absorbing children's firings added; NaN where undefined."""
    host = jax.device_get(seen)
    with np.errstate(invalid="ignore"):
        recall = host.hits / np.asarray(host.n_on, np.float64)
        precision = host.hits / np.asarray(host.fired, np.float64)
    return pd.DataFrame(
        {
            "parent": host.parent,
            "recall": recall[0],
            "precision": precision[0],
            "repaired_recall": recall[1],
            "repaired_precision": precision[1],
        }
    )


def absorption_scores(
    pairs: pd.DataFrame | None, repaired: pd.DataFrame | None
) -> dict[str, float]:
    """Summarises absorption over pairs.

    Args:
        pairs: from :func:`absorption`; None where it was not measured.
        repaired: from :func:`repair`; None where nothing was to be repaired.

    Returns:
        `hierarchy_pairs`, the number measured; `absorption_rate` and `absorption_share`, means;
        `absorbed_pairs` and `mostly_absorbed_pairs`, shares of pairs with a rate above
        :data:`ABSORBS` and a share above :data:`MOSTLY`; `parent_recall` and
        `parent_recall_repaired`, means over the parents of absorbed pairs. NaN without any.
    """
    rates = pd.Series(dtype=float) if pairs is None else pairs["rate"].dropna()
    shares = pd.Series(dtype=float) if pairs is None else pairs["share"][rates.index]
    none = pd.DataFrame(columns=["recall", "repaired_recall"], dtype=float)
    recalls = none if repaired is None else repaired
    return {
        "hierarchy_pairs": np.nan if pairs is None else len(rates),
        "absorption_rate": float(rates.mean()),
        "absorption_share": float(shares.mean()),
        "absorbed_pairs": float((rates > ABSORBS).astype(float).mean()),
        "mostly_absorbed_pairs": float((shares > MOSTLY).astype(float).mean()),
        "parent_recall": float(recalls["recall"].mean()),
        "parent_recall_repaired": float(recalls["repaired_recall"].mean()),
    }
