"""A twin: the world whose inputs look like a layer's activations, so that one can ask there what is
recoverable.

A world of independent features a_i f_i plus noise has cumulants in closed form, those of a sum
being the sums of those of its terms: of each dimension, of the covariance, and of ‖x‖². So a fit
takes seconds and needs no sample. What all features share, busy and quiet samples, is a mixture of
such worlds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.optimize import minimize

from ..errors import require, unknown
from ..keys import seed_key
from ..worlds import World
from ..worlds.assemble import assemble
from ..worlds.copula import from_factors
from ..worlds.firing import Firing
from ..worlds.independent import independent
from ..worlds.magnitudes import LogNormal, Scaled
from ..worlds.panel.activations import PanelStats, add, empty_panel, finish, panel_of
from ..worlds.probabilities import firing_probabilities
from ..worlds.world import batches

RATIOS = (1.0, 2.0, 4.0)
DIRECTIONS = ("sphere", "layer")
NORMS = ("variance of ‖x‖² / mean²", "skew of ‖x‖²")
_BETTER, _STARTS, _GOOD = 0.7, 2, 0.05
_TRIES, _NODES = 120, 9
_MATCHED = 0.15
"""A statistic within 15 % (of itself, or .02 where it is near 0) counts as matched."""


@dataclass(frozen=True)
class Twin:
    """The parameters of a world.

    Attributes:
        d_in: dimensions.
        ratio: features over dimensions.
        directions: "sphere", uniform; or "layer", drawn with the layer's covariance.
        exponent: p_i proportional to rank^-exponent. It and the ratio trade off: a factor of two
            in the one is hard to tell from .2 in the other.
        l0: mean features on.
        spread: sigma of the log-normal magnitudes.
        scale: their median.
        noise_sd: in each dimension.
        common: loading in [0, 1) of every feature on one shared Gaussian, which makes busy and
            quiet samples; 0 for independent firing.
        bias: `[d_in]` what the mean has beyond the features' own.
        root: `[d_in, d_in]` symmetric root of the covariance that directions are drawn with.
        misfit: of the fit; root mean square over the statistics of how far each log is off.
    """

    d_in: int
    ratio: float
    directions: str
    exponent: float
    l0: float
    spread: float
    scale: float
    noise_sd: float
    common: float
    bias: Float[np.ndarray, " d_in"]
    root: Float[np.ndarray, "d_in d_in"]
    misfit: float = 0.0

    @property
    def n_features(self) -> int:
        return round(self.ratio * self.d_in)

    def numbers(self) -> dict[str, float | int | str]:
        """What a table shows."""
        names = ("directions", "ratio", "n_features", "exponent", "l0", "spread", "noise_sd",
                 "common", "misfit")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def statistics(s: PanelStats) -> dict[str, float]:
    """What is matched, of a panel of centred inputs."""
    squares = s.norm_edges[:-1] * s.norm_edges[1:]
    share = s.norm_counts / max(s.norm_counts.sum(), 1)
    mean = float((share * squares).sum())
    second, third = (float((share * (squares - mean) ** k).sum()) for k in (2, 3))
    keep = np.isfinite(s.skew)
    return _named(s.eigenvalues, s.skew[keep], s.kurtosis[keep], (mean, second, third))


@dataclass(frozen=True)
class Directions:
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


def directions_of(t: Twin, seed: int = 0) -> Directions:
    """Those that :func:`twin_world` draws."""
    rows = _rows(t.n_features, t.root, seed).astype(np.float32)
    squares = rows * rows
    return Directions(rows, squares, squares * rows, squares * squares, (rows @ rows.T) ** 2)


def predicted(t: Twin, f: Directions) -> dict[str, float]:
    """:func:`statistics` of a world with these directions, without a sample.

    Given what features share, they fire independently; so the moments are those of a mixture over
    its values. Exact for independent firing but for products of three cosines in the skew of ‖x‖²;
    with firing that is not, that skew is approximate.
    """
    p, probs, weights = _given(t)
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


def _given(t: Twin) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Firing probabilities, `[n]`, those given what features share, `[nodes, n]`, and the weights
    of the nodes."""
    p = _probs(t)
    if not t.common:
        return p, p[None], np.ones(1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    own = np.sqrt(1 - t.common**2)
    given = special.ndtr((special.ndtri(p) + t.common * nodes[:, None]) / own)
    return p, given, weights / weights.sum()


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


def fit_twin(
    stats: PanelStats,
    mean: Float[np.ndarray, " d_in"],
    covariance: Float[np.ndarray, "d_in d_in"],
    ratios: Sequence[float] = RATIOS,
    directions: Sequence[str] = DIRECTIONS,
    correlate: bool = True,
    seed: int = 0,
) -> Twin:
    """The world whose statistics are nearest a layer's.

    Args:
        stats: of the layer less its mean, see :func:`centred_panel`.
        mean: of the layer; the twin has the very same.
        covariance: of the layer.
        ratios: of features to dimensions to try.
        directions: to try.
        correlate: also try features that share something.
        seed: of the directions.

    Raises:
        ToysaeError: an unknown kind of directions, no ratio, or one below 1 / d_in.
    """
    require(ratios, "give at least one ratio")
    for kind in directions:
        if kind not in DIRECTIONS:
            raise unknown("directions", kind, DIRECTIONS)
    for ratio in ratios:
        require(round(ratio * stats.d_in) >= 1, f"ratio {ratio:g} leaves no feature")
    wanted = statistics(stats)
    best: Twin | None = None
    for kind in directions:  # a later kind must be plainly better: it has more to it
        root = _root(covariance) if kind == "layer" else np.eye(stats.d_in)
        fits = [_fit(stats, mean, wanted, kind, ratio, root, correlate, seed) for ratio in ratios]
        found = min(fits, key=lambda t: t.misfit)
        if best is None or found.misfit < _BETTER * best.misfit:
            best = found
        if best.misfit < _GOOD:
            break
    require(best is not None, "name at least one kind of directions")
    assert best is not None
    return best


def twin_world(t: Twin, seed: int = 0, name: str = "twin") -> World:
    """The world itself; another seed draws other directions of the same law."""
    p = _probs(t)
    firing: Firing = independent(p)
    if t.common:
        firing = from_factors(p, np.full((t.n_features, 1), t.common))
    law = Scaled(LogNormal(0.0, t.spread), jnp.full(t.n_features, t.scale, jnp.float32))
    rows = _rows(t.n_features, t.root, seed)
    return assemble(rows, firing, law, bias=t.bias, noise_sd=t.noise_sd, name=name)


def centred_panel(
    batches: Iterable[Float[np.ndarray, "n d_in"]], mean: Float[np.ndarray, " d_in"]
) -> tuple[PanelStats, Float[np.ndarray, "d_in d_in"]]:
    """The panel of x - mean, and the covariance of x."""
    panel = empty_panel(len(mean))
    for x in batches:
        panel = add(panel, np.asarray(x, np.float32) - np.asarray(mean, np.float32))
    return finish(panel), panel.comoment / max(panel.n, 1)


def panel_of_twin(t: Twin, n_samples: int = 16_384, seed: int = 0) -> PanelStats:
    """What the twin realises, centred."""
    world = twin_world(t, seed)
    mean = np.asarray(
        t.bias + (_probs(t) * t.scale * np.exp(t.spread**2 / 2)) @ _rows(t.n_features, t.root, seed)
    )
    drawn = batches(world, seed_key(seed, "twin panel"), n_samples, 4096)
    return panel_of(batch.x - jnp.asarray(mean, jnp.float32) for batch in drawn)


def is_matched(found: float, wanted: float) -> bool:
    """Within 15 %, or .02."""
    return abs(found - wanted) <= max(_MATCHED * abs(wanted), 0.02)


def _fit(
    stats: PanelStats, mean: np.ndarray, wanted: Mapping[str, float], kind: str, ratio: float,
    root: np.ndarray, correlate: bool, seed: int,
) -> Twin:  # fmt: skip
    """Independent features; or such that share something, if that is plainly better."""
    d, total = stats.d_in, float((stats.sd**2).sum())
    start = Twin(d, ratio, kind, 0.5, 1.0, 0.5, 1.0, 0.0, 0.0, np.zeros(d), root)
    f = directions_of(start, seed)

    def twin(theta: np.ndarray) -> Twin:
        exponent, log_l0, log_spread, log_noise, *common = theta
        share = 1 / (1 + np.exp(-log_noise))  # of the variance that is noise
        l0 = float(np.clip(np.exp(log_l0), 1e-2, 0.5 * start.n_features))
        t = replace(start, exponent=float(abs(exponent)), l0=l0, spread=float(np.exp(log_spread)),
                    common=float(special.expit(common[0])) if common else 0.0)  # fmt: skip
        p, probs, weights = _given(t)
        m1, m2 = np.exp(t.spread**2 / 2), np.exp(2 * t.spread**2)
        own = (weights @ (probs * m2 - (probs * m1) ** 2)).sum()
        shift = ((probs - p) * m1).astype(np.float32) @ f.rows
        own += weights @ (shift**2).sum(1)
        scale = float(np.sqrt((1 - share) * total / own))
        noise = float(np.sqrt(share * total / d))
        bias = mean - (p * m1 * scale) @ f.rows
        return replace(t, scale=scale, noise_sd=noise, bias=bias)

    def misfit(theta: np.ndarray) -> float:
        if np.abs(theta).max() > 12:
            return 1e3
        return misfit_of(distance(predicted(twin(theta), f), wanted))

    def search(guesses: list[np.ndarray]) -> tuple[np.ndarray, float]:
        best = [
            minimize(misfit, guess, method="Nelder-Mead", options={"maxfev": _TRIES, "xatol": 1e-3})
            for guess in sorted(guesses, key=misfit)[:_STARTS]
        ]
        found = min(best, key=lambda one: one.fun)
        return found.x, float(found.fun)

    guesses = [
        np.array([a, np.log(l0), np.log(s), -3.0])
        for a in (0.1, 0.5, 1.0)
        for l0 in (2.0, 0.01 * start.n_features + 2, 0.05 * start.n_features + 2)
        for s in (0.25, 0.7)
    ]
    theta, off = search(guesses)
    if correlate and off > _GOOD:
        shared, at = search([np.append(g, c) for g in [theta, *guesses] for c in (-1.5, 0.0)])
        if at < _BETTER * off:
            theta, off = shared, at
    return replace(twin(theta), misfit=off)


def _probs(t: Twin) -> np.ndarray:
    p = firing_probabilities("zipf", t.n_features, t.l0, exponent=t.exponent)
    return np.minimum(p, 0.99) if t.common else p


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _rows(n: int, root: np.ndarray, seed: int) -> np.ndarray:
    """Unit directions, `[n, d_in]`, float64."""
    drawn = np.asarray(jax.random.normal(seed_key(seed, "twin directions"), (n, len(root))))
    rows = drawn.astype(np.float64) @ root
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
