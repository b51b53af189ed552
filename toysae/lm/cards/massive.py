"""Massive activations (Sun et al. 2024): rare tokens whose activations are several times as long as
all others, along one direction. No law of many similar features has them, so they are removed from
a layer before a twin is fitted, and come back as one feature of their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

_FAR, _LEAST_VARIANCE, _MOST, _ALONG, _FEW = 9.0, 0.05, 0.05, 0.5, 30


@dataclass(frozen=True)
class Massive:
    """A feature that fires rarely and strongly.

    Attributes:
        prob: of firing.
        scale: median coefficient.
        spread: sigma of its logarithm.
        direction: `[d_in]` of unit length.
    """

    prob: float
    scale: float
    spread: float
    direction: Float[np.ndarray, " d_in"]

    @property
    def mean(self) -> Float[np.ndarray, " d_in"]:
        """Its share of the mean of x."""
        return self.prob * self.scale * np.exp(self.spread**2 / 2) * self.direction


def among(pieces: Iterator[np.ndarray], kept: Bool[np.ndarray, " total"]) -> Iterator[np.ndarray]:
    """Yields the rows that are kept, piece by piece."""
    start = 0
    for x in pieces:
        yield x[kept[start : start + len(x)]]
        start += len(x)


def mean_of(pieces: Iterator[np.ndarray]) -> Float[np.ndarray, " d_in"]:
    """The mean of all rows, in float64."""
    total, n = 0.0, 0
    for x in pieces:
        total, n = total + x.sum(0, dtype=np.float64), n + len(x)
    return np.asarray(total) / n


def split_massive(
    rows: Callable[[], Iterator[Float[np.ndarray, "n d_in"]]],
) -> tuple[Massive | None, Bool[np.ndarray, " total"]]:
    """Splits activations: returns the massive ones as a feature, and which rows are not massive.

    Massive are rows more than 3 times as far from the mean as the median row, if they are at least
    30, at most 5 % of all, hold 5 % of the variance or more, and at least half of their own
    variance lies along one direction. Otherwise none are massive, and the feature is None.

    Args:
        rows: yields the activations in pieces, the same at every call.
    """
    mean = mean_of(rows())
    squares = np.concatenate([((x - mean) ** 2).sum(1) for x in rows()])
    far = squares > _FAR * np.median(squares)
    all_rows = np.ones(len(far), bool)
    share = squares[far].sum() / squares.sum() if far.any() else 0.0
    if far.sum() < _FEW or far.mean() > _MOST or share < _LEAST_VARIANCE:
        return None, all_rows
    off = np.concatenate(list(among(rows(), far))) - mean_of(among(rows(), ~far))
    direction = off.mean(0) / np.linalg.norm(off.mean(0))
    along = off @ direction
    if (along**2).sum() < _ALONG * (off**2).sum():
        return None, all_rows
    # Fitted to the moments that the covariance and the variance of ‖x‖² depend on.
    second, fourth = (float((along**k).mean()) for k in (2, 4))
    spread = np.sqrt(max(np.log(fourth / second**2), 0) / 4)  # below 0 by rounding
    scale = np.sqrt(second) * np.exp(-(spread**2))
    return Massive(float(far.mean()), float(scale), float(spread), direction), ~far
