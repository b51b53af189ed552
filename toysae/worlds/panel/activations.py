"""The panel: statistics of activations, the same for a world's inputs and a language model's.

Batches stream at fixed memory, O(d_in^2). A batch's central moments are computed on the device in
float32 about the batch's mean, and merged on the host in float64 by the formulas of Chan, Golub
and LeVeque (1983) and Pébay (2008), so that neither a large mean nor a long stream costs digits.
Moments are those of the sample (divided by n, not n - 1).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...door import asked
from ...errors import require

NORM_EDGES = 2.0 ** (np.arange(-40 * 32, 40 * 32 + 1) / 32)  # bins 2.2 % wide, 1e-12 to 1e12
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_ROWS = 4096  # handled at once: bounds memory and the length of a float32 sum
_ZERO = 1e-6  # an entry counts as 0 below this share of its sample's rms


@dataclass(frozen=True)
class Panel:
    """Sums over a stream of activations so far, in float64 on the host.

    Attributes:
        n: samples.
        mean: `[d_in]`.
        comoment: `[d_in, d_in]` sum of (x - mean)(x - mean)^T.
        third: `[d_in]` sum of (x - mean)^3.
        fourth: `[d_in]` sum of (x - mean)^4.
        low: `[d_in]` smallest value; a dimension is constant where `low` equals `high`.
        high: `[d_in]` largest value.
        zeros: `[d_in]` samples with |x| <= 1e-6 of that sample's own rms over dimensions.
        positives: `[d_in]` samples with x > 0.
        norm: mean, sum of squared deviations, smallest and largest of ‖x‖.
        norm_counts: samples in each bin of :data:`NORM_EDGES`; the first and last entries count
            the samples below (exact zeros too) and above.
    """

    n: int
    mean: Float[np.ndarray, " d_in"]
    comoment: Float[np.ndarray, "d_in d_in"]
    third: Float[np.ndarray, " d_in"]
    fourth: Float[np.ndarray, " d_in"]
    low: Float[np.ndarray, " d_in"]
    high: Float[np.ndarray, " d_in"]
    zeros: Int[np.ndarray, " d_in"]
    positives: Int[np.ndarray, " d_in"]
    norm: tuple[float, float, float, float]
    norm_counts: Int[np.ndarray, " bins"]

    @property
    def d_in(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class PanelStats:
    """A finished panel, in float64. Constant dimensions have skew and kurtosis NaN.

    Attributes:
        n_samples: number of samples.
        d_in: dimensions.
        mean: `[d_in]`.
        sd: `[d_in]`.
        skew: `[d_in]` third standardised moment; 0 if symmetric.
        kurtosis: `[d_in]` fourth standardised moment less 3; 0 if Gaussian.
        zero: `[d_in]` share of samples with |x| <= 1e-6 of the sample's own rms.
        positive: `[d_in]` share of samples with x > 0.
        norm_mean: of ‖x‖.
        norm_sd: of ‖x‖.
        norm_quantiles: ‖x‖ at :data:`QUANTILES`, read off the histogram: within 2.2 %.
        norm_edges: `[bins + 1]` edges, trimmed to the bins between which samples fell.
        norm_counts: `[bins]` samples in each bin.
        mean_over_sd: ‖mean‖ / sqrt(total variance).
        eigenvalues: `[d_in]` of the covariance, falling.
        participation_ratio: (sum of eigenvalues)^2 / sum of their squares, in [1, d_in].
        dims_90: number of leading eigenvalues that hold 90 % of the variance.
    """

    n_samples: int
    d_in: int
    mean: Float[np.ndarray, " d_in"]
    sd: Float[np.ndarray, " d_in"]
    skew: Float[np.ndarray, " d_in"]
    kurtosis: Float[np.ndarray, " d_in"]
    zero: Float[np.ndarray, " d_in"]
    positive: Float[np.ndarray, " d_in"]
    norm_mean: float
    norm_sd: float
    norm_quantiles: dict[float, float]
    norm_edges: Float[np.ndarray, " edges"]
    norm_counts: Int[np.ndarray, " bins"]
    mean_over_sd: float
    eigenvalues: Float[np.ndarray, " d_in"]
    participation_ratio: float
    dims_90: int


def empty_panel(d_in: int) -> Panel:
    """Returns a panel of no samples.

    Raises:
        ToysaeError: d_in is below 1.
    """
    require(d_in >= 1, f"d_in {d_in} must be at least 1")
    zeros, counts = np.zeros(d_in), np.zeros(d_in, np.int64)
    return Panel(
        0, zeros, np.zeros((d_in, d_in)), zeros, zeros, zeros + np.inf, zeros - np.inf,
        counts, counts, (0.0, 0.0, np.inf, -np.inf), np.zeros(len(NORM_EDGES) + 1, np.int64),
    )  # fmt: skip


Activations = Float[Array | np.ndarray, "..."]
"""A user's activations; their shape is checked with a message of its own."""


def add(panel: Panel, x: Activations) -> Panel:
    """Returns the panel with one more batch.

    Args:
        panel: of the batches so far.
        x: `[n, d_in]` activations of any float type; read as float32.

    Raises:
        ToysaeError: another shape or number of dimensions, or a value that is not finite.
    """
    _require_matrix(x)
    d_in = x.shape[1]
    require(d_in == panel.d_in, f"the batch has {d_in} dimensions, the panel {panel.d_in}: start "
            "another panel")  # fmt: skip
    for start in range(0, x.shape[0], _ROWS):
        panel = _merge(panel, jax.device_get(_moments(jnp.asarray(x[start : start + _ROWS]))))
    return panel


def panel_of(batches: Iterable[Activations]) -> PanelStats:
    """Returns the finished panel of a stream of batches `[n, d_in]`, whose n may vary.

    Raises:
        ToysaeError: no batch, a batch of another shape or d_in, or a value that is not finite.
    """
    panel = None
    for x in batches:
        if not isinstance(x, np.ndarray | jax.Array):
            x = asked("panel_of", "a batch", x, Float[Array, "..."])
        _require_matrix(x)
        panel = add(empty_panel(x.shape[1]) if panel is None else panel, x)
    require(panel is not None, "there are no batches to make a panel of")
    assert panel is not None
    return finished_panel(panel)


def _require_matrix(x: Activations) -> None:
    shape = np.shape(x)
    require(len(shape) == 2, f"a batch of shape {shape} must be [n, d_in]: reshape it")


@jax.jit
def _moments(x: Float[Array, "n d_in"]) -> dict[str, Array]:
    """Returns central moments of one batch about its own mean."""
    x = x.astype(jnp.float32)
    rough = x.mean(0)
    rest = (x - rough).mean(0)  # what rounding left in the mean
    c = x - rough - rest
    size = jnp.abs(x)
    largest = size.max(1)
    safe = jnp.where(largest > 0, largest, 1.0)  # x / safe: squares cannot overflow
    rms = safe * jnp.sqrt(jnp.mean((x / safe[:, None]) ** 2, 1))
    return {
        "rough": rough,
        "rest": rest,
        "comoment": jnp.matmul(c.T, c, precision="highest"),
        "third": (c**3).sum(0),
        "fourth": (c**4).sum(0),
        "low": x.min(0),
        "high": x.max(0),
        "zeros": (size <= _ZERO * rms[:, None]).sum(0),
        "positives": (x > 0).sum(0),
        "rms": rms,
    }


def _merge(a: Panel, batch: dict[str, np.ndarray]) -> Panel:
    """Merges a batch by Chan, Golub and LeVeque's formula, third and fourth moments by Pébay's."""
    b = {name: np.asarray(value, np.float64) for name, value in batch.items()}
    norms = b["rms"] * np.sqrt(a.d_in)
    bad = ~np.isfinite(norms)
    require(not bad.any(), f"{bad.sum()} of {len(norms)} samples are not finite: leave them out")
    na, nb = a.n, len(norms)
    n = na + nb
    delta = b["rough"] + b["rest"] - a.mean
    var_a, var_b = np.diag(a.comoment), np.diag(b["comoment"])
    third = (
        a.third + b["third"] + delta**3 * (na * nb * (na - nb) / n**2)
        + 3 * delta * (na * var_b - nb * var_a) / n
    )  # fmt: skip
    fourth = (
        a.fourth + b["fourth"] + delta**4 * (na * nb * (na**2 - na * nb + nb**2) / n**3)
        + 6 * delta**2 * (na**2 * var_b + nb**2 * var_a) / n**2
        + 4 * delta * (na * b["third"] - nb * a.third) / n
    )  # fmt: skip
    edges = np.concatenate([[-np.inf], NORM_EDGES, [np.inf]])
    return replace(
        a,
        n=n,
        mean=a.mean + delta * (nb / n),
        comoment=a.comoment + b["comoment"] + np.outer(delta, delta) * (na * nb / n),
        third=third,
        fourth=fourth,
        low=np.minimum(a.low, b["low"]),
        high=np.maximum(a.high, b["high"]),
        zeros=a.zeros + np.asarray(batch["zeros"], np.int64),
        positives=a.positives + np.asarray(batch["positives"], np.int64),
        norm=_merge_norms(a.norm, na, norms),
        norm_counts=a.norm_counts + np.histogram(norms, edges)[0],
    )


def _merge_norms(
    norm: tuple[float, float, float, float], na: int, norms: np.ndarray
) -> tuple[float, float, float, float]:
    mean, square, low, high = norm
    nb, delta = len(norms), norms.mean() - mean
    square += ((norms - norms.mean()) ** 2).sum() + delta**2 * na * nb / (na + nb)
    mean += delta * nb / (na + nb)
    return float(mean), float(square), float(min(low, norms.min())), float(max(high, norms.max()))


def finished_panel(panel: Panel) -> PanelStats:
    """Returns the statistics of a panel.

    Raises:
        ToysaeError: the panel has no samples.
    """
    require(panel.n > 0, "the panel is empty: add at least one batch")
    n, varies = panel.n, panel.low < panel.high
    covariance = np.where(np.outer(varies, varies), panel.comoment / n, 0.0)
    sd = np.sqrt(np.diag(covariance))
    safe = np.where(sd > 0, sd, np.nan)
    eigenvalues = np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0.0)
    total, squares = eigenvalues.sum(), (eigenvalues**2).sum()
    held = np.cumsum(eigenvalues) >= 0.9 * total
    full = np.flatnonzero(panel.norm_counts[1:-1])
    first, last = (full[0], full[-1] + 1) if len(full) else (0, 1)
    norm_mean, norm_square, *_ = panel.norm
    return PanelStats(
        n_samples=n,
        d_in=panel.d_in,
        mean=panel.mean,
        sd=sd,
        skew=panel.third / n / safe**3,
        kurtosis=panel.fourth / n / safe**4 - 3,
        zero=panel.zeros / n,
        positive=panel.positives / n,
        norm_mean=norm_mean,
        norm_sd=float(np.sqrt(norm_square / n)),
        norm_quantiles=_norm_quantiles(panel),
        norm_edges=NORM_EDGES[first : last + 1],
        norm_counts=panel.norm_counts[1:-1][first:last],
        mean_over_sd=float(np.linalg.norm(panel.mean) / np.sqrt(total)) if total else np.inf,
        eigenvalues=eigenvalues,
        participation_ratio=float(total**2 / squares) if squares else float("nan"),
        dims_90=int(held.argmax()) + 1 if total else 0,
    )


def _norm_quantiles(panel: Panel) -> dict[float, float]:
    *_, low, high = panel.norm
    edges = np.clip(np.concatenate([[0.0], NORM_EDGES, [np.inf]]), low, high)
    below = np.concatenate([[0], np.cumsum(panel.norm_counts)]) / panel.n
    under = below[1]  # samples below every bin are zeros, up to rounding
    return {q: low if q <= under else float(np.interp(q, below, edges)) for q in QUANTILES}
