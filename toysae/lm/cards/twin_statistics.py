"""What is matched of a layer and its twin, and what a twin will have of it, without a sample.

A world of independent features a_i f_i plus noise has cumulants in closed form, those of a sum
being the sums of those of its terms: of each dimension, of the covariance, and of ‖x‖². What all
features share, busy and quiet samples, is a mixture of such worlds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Float

from ...worlds.panel.activations import PanelStats
from .twin import Twin, firing_given, rows_of

NORMS = ("variance of ‖x‖² / mean²", "skew of ‖x‖²")
_MATCHED = 0.15
"""A statistic within 15 % (of itself, or .02 where it is near 0) counts as matched."""


def statistics(s: PanelStats) -> dict[str, float]:
    """What is matched, of a panel of centred inputs."""
    squares = s.norm_edges[:-1] * s.norm_edges[1:]
    share = s.norm_counts / max(s.norm_counts.sum(), 1)
    mean = float((share * squares).sum())
    second, third = (float((share * (squares - mean) ** k).sum()) for k in (2, 3))
    keep = np.isfinite(s.skew)
    return _named(s.eigenvalues, s.skew[keep], s.kurtosis[keep], (mean, second, third))


@dataclass(frozen=True)
class UnitDirections:
    """Unit directions and what the cumulants read of them, taken once; float32, for sums over
    features are all that is read.

    Attributes:
        rows: `[n, d_in]`.
        squares, cubes, fourths: their entries' powers.
        gram2: `[n, n]` squared cosines.
    """

    rows: Float[np.ndarray, "n d_in"]
    squares: Float[np.ndarray, "n d_in"]
    cubes: Float[np.ndarray, "n d_in"]
    fourths: Float[np.ndarray, "n d_in"]
    gram2: Float[np.ndarray, "n n"]


def directions_of(t: Twin, seed: int = 0) -> UnitDirections:
    """Those that :func:`twin_world` draws."""
    rows = rows_of(t, seed).astype(np.float32)
    squares = rows * rows
    return UnitDirections(rows, squares, squares * rows, squares * squares, (rows @ rows.T) ** 2)


def predicted(t: Twin, f: UnitDirections) -> dict[str, float]:
    """:func:`statistics` of a world with these directions, without a sample.

    Given what features share, they fire independently; so the moments are those of a mixture over
    its values. Exact for independent firing but for products of three cosines in the skew of ‖x‖²;
    with firing that is not, that skew is approximate.
    """
    p, probs, weights = firing_given(t)
    raw = [probs * t.scale**r * np.exp(r**2 * t.spread**2 / 2) for r in range(1, 7)]
    k2, k3, m4, m6 = _central(raw)  # each [nodes, n]
    k4 = m4 - 3 * k2**2
    noise, d = t.noise_sd**2, t.d_in
    m1 = t.scale * np.exp(t.spread**2 / 2)
    shift = ((probs - p) * m1).astype(np.float32) @ f.rows  # [nodes, d]
    mean_k2 = weights @ k2
    C = (f.rows * mean_k2[:, None].astype(np.float32)).T @ f.rows
    C = C.astype(np.float64) + noise * np.eye(d) + (shift * weights[:, None]).T @ shift
    eigenvalues = np.linalg.eigvalsh(C)[::-1]

    var = _sum(k2, f.squares) + noise
    third = weights @ (_sum(k3, f.cubes) + 3 * shift * var + shift**3)
    fourth = weights @ (
        _sum(k4, f.fourths) + 3 * var**2 + 6 * shift**2 * var + 4 * shift * _sum(k3, f.cubes)
        + shift**4
    )  # fmt: skip
    variance = np.diag(C)
    skew, kurtosis = third / variance**1.5, fourth / variance**2 - 3

    # ‖x‖² given the node: a quadratic form of independent terms.
    size = k2.sum(1) + d * noise + (shift**2).sum(1)
    along = shift @ f.rows.T.astype(np.float64)  # [nodes, n]
    crossed = (_sum(k2, f.gram2) * k2).sum(1) + 2 * noise * k2.sum(1) + d * noise**2
    push = _sum(k3, f.rows)
    spread = 2 * crossed + k4.sum(1)
    spread += 4 * ((k2 * along**2).sum(1) + noise * (shift**2).sum(1)) + 4 * (push * shift).sum(1)
    beside = (_sum(k2, f.gram2) * k4).sum(1) + noise * k4.sum(1) - (k4 * k2).sum(1)
    relative = (k2.sum(1) + d * noise) / (mean_k2.sum() + d * noise)
    inner = 8 * relative**3 * (eigenvalues**3).sum()
    inner += (m6 - 3 * m4 * k2 + 2 * k2**3 - 8 * k2**3).sum(1)
    inner += 12 * beside + 6 * ((push**2).sum(1) - (k3**2).sum(1))
    off = size - weights @ size
    of_square = (variance.sum(), weights @ (spread + off**2),
                 weights @ (inner + 3 * off * spread + off**3))  # fmt: skip
    return _named(eigenvalues, skew, kurtosis, of_square)


def _sum(k: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Over features, `[nodes, n] @ [n, m]`."""
    return (k.astype(np.float32) @ values).astype(np.float64)


def _central(raw: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Central moments 2, 3, 4 and 6 from the raw ones, 1 to 6."""
    m, moments = raw[0], [np.ones_like(raw[0]), *raw]

    def central(r: int) -> np.ndarray:
        return np.sum([comb(r, k) * moments[k] * (-m) ** (r - k) for k in range(r + 1)], 0)

    return tuple(central(r) for r in (2, 3, 4, 6))


def _named(eigenvalues, skew, kurtosis, of_square: tuple[float, float, float]) -> dict[str, float]:
    e = np.asarray(eigenvalues) / np.sum(eigenvalues)
    held, d = np.cumsum(e), len(e)
    mean, second, third = of_square
    return {
        "participation ratio / dimensions": float(1 / (e**2).sum() / d),
        "dimensions for 50 % of variance / dimensions": _crossing(held, 0.5) / d,
        "dimensions for 90 % of variance / dimensions": _crossing(held, 0.9) / d,
        "excess kurtosis by dimension, median": float(np.quantile(kurtosis, 0.5)),
        "excess kurtosis by dimension, 90 %": float(np.quantile(kurtosis, 0.9)),
        "|skew| by dimension, median": float(np.quantile(np.abs(skew), 0.5)),
        NORMS[0]: float(second / mean**2),
        NORMS[1]: float(third / max(second, 1e-30) ** 1.5),
    }


def _crossing(held: np.ndarray, share: float) -> float:
    """Where a rising curve over 1, 2, ... crosses a share, between whole numbers."""
    return float(np.interp(share, np.concatenate([[0], held]), np.arange(len(held) + 1)))


def distance(found: Mapping[str, float], wanted: Mapping[str, float]) -> dict[str, float]:
    """How far each statistic is off, in units of its log (of .02 more than it)."""
    return {
        name: float(np.log(max(found[name], 0) + 0.02) - np.log(max(value, 0) + 0.02))
        for name, value in wanted.items()
    }


def misfit_of(off: Mapping[str, float]) -> float:
    """Root mean square over the statistics."""
    return float(np.sqrt(np.mean(np.square(list(off.values())))))


def is_matched(found: float, wanted: float) -> bool:
    """Within 15 %, or .02."""
    return abs(found - wanted) <= max(_MATCHED * abs(wanted), 0.02)
