"""The statistics that a layer and its twin are matched by, and their values for a twin in closed
form.

The cumulants of a sum are the sums of those of its independent terms. So a world of independent
features a_i f_i plus noise has them in closed form: of each dimension, of the covariance, and of
‖x‖². Features that all share something, as in busy and quiet samples, are a mixture of such worlds.
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
    """The statistics of a panel of centred inputs."""
    squares = s.norm_edges[:-1] * s.norm_edges[1:]
    share = s.norm_counts / max(s.norm_counts.sum(), 1)
    mean = float((share * squares).sum())
    second, third = (float((share * (squares - mean) ** k).sum()) for k in (2, 3))
    keep = np.isfinite(s.skew)
    return _by_name(s.eigenvalues, s.skew[keep], s.kurtosis[keep], (mean, second, third))


@dataclass(frozen=True)
class UnitDirections:
    """Unit directions and what the cumulants need of them, computed once; float32 is enough, since
    only sums over features are used.

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
    """The directions that :func:`.twin_world` draws."""
    rows = rows_of(t, seed).astype(np.float32)
    squares = rows * rows
    return UnitDirections(rows, squares, squares * rows, squares * squares, (rows @ rows.T) ** 2)


def predicted(t: Twin, f: UnitDirections) -> dict[str, float]:
    """:func:`statistics` of a world with these directions, without a sample.

    Given what features share, they fire independently, so the moments are those of a mixture over
    its values. All are exact, except that the skew of ‖x‖² leaves out products of three cosines,
    and is approximate for firing that is not independent.
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
    k2_near = _sum(k2, f.gram2)  # of each feature, over all with their squared cosines
    crossed = (k2_near * k2).sum(1) + 2 * noise * k2.sum(1) + d * noise**2
    push = _sum(k3, f.rows)
    second = 2 * crossed + k4.sum(1)
    second += 4 * ((k2 * along**2).sum(1) + noise * (shift**2).sum(1)) + 4 * (push * shift).sum(1)
    k4_crossed = (k2_near * k4).sum(1) + noise * k4.sum(1) - (k4 * k2).sum(1)
    relative = (k2.sum(1) + d * noise) / (mean_k2.sum() + d * noise)
    third_in = 8 * relative**3 * (eigenvalues**3).sum()
    third_in += (m6 - 3 * m4 * k2 + 2 * k2**3 - 8 * k2**3).sum(1)
    third_in += 12 * k4_crossed + 6 * ((push**2).sum(1) - (k3**2).sum(1))
    off = size - weights @ size
    of_square = (variance.sum(), weights @ (second + off**2),
                 weights @ (third_in + 3 * off * second + off**3))  # fmt: skip
    return _by_name(eigenvalues, skew, kurtosis, of_square)


def _sum(k: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The sums over features, `[nodes, n] @ [n, m]`."""
    return (k.astype(np.float32) @ values).astype(np.float64)


def _central(raw: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Central moments 2, 3, 4 and 6 from the raw moments 1 to 6."""
    m, moments = raw[0], [np.ones_like(raw[0]), *raw]

    def central(r: int) -> np.ndarray:
        return np.sum([comb(r, k) * moments[k] * (-m) ** (r - k) for k in range(r + 1)], 0)

    return tuple(central(r) for r in (2, 3, 4, 6))


def _by_name(
    eigenvalues: np.ndarray, skew: np.ndarray, kurtosis: np.ndarray,
    of_square: tuple[float, float, float],
) -> dict[str, float]:  # fmt: skip
    """The statistics by name; `of_square` is the mean and central moments 2 and 3 of ‖x‖²."""
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
    """Where a rising curve over 1, 2, ... crosses a share, interpolated."""
    return float(np.interp(share, np.concatenate([[0], held]), np.arange(len(held) + 1)))


def distance(twin: Mapping[str, float], layer: Mapping[str, float]) -> dict[str, float]:
    """How far each statistic of a twin is off, as the difference of log(statistic + .02)."""
    return {
        name: float(np.log(max(twin[name], 0) + 0.02) - np.log(max(value, 0) + 0.02))
        for name, value in layer.items()
    }


def misfit_of(off: Mapping[str, float]) -> float:
    """The root mean square over the statistics."""
    return float(np.sqrt(np.mean(np.square(list(off.values())))))


def is_matched(twin: float, layer: float) -> bool:
    """Whether a statistic of a twin is within 15 % of the layer's, or within .02."""
    return abs(twin - layer) <= max(_MATCHED * abs(layer), 0.02)
