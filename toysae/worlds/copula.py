"""Gaussian copulas: features that fire together or apart, with given marginals.

z is jointly normal with unit variances, and feature i fires where z_i > t_i = Phi^-1(1 - p_i).
With low rank, z = A u + s eps: O(n_features rank) a sample, exact for any number of features (see
:mod:`toysae.worlds.given_factors`). The dense copula takes any correlation matrix, in small worlds.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, PRNGKeyArray

from .. import draws, pytree
from ..errors import ToysaeError, require
from ..keys import named_key
from .firing import Active, Firing, all_in_order
from .given_factors import ByArrival, OneByOne, parts
from .probabilities import checked_probabilities

SMALL = 256  # up to here each feature has a slot of its own
_LEAST = 0.01  # of the own variance s^2, as in SAELens


@pytree.dataclass
class LowRankCopula(Firing):
    """Firing through a few shared factors; build it by :func:`from_factors`."""

    parts: tuple[OneByOne | ByArrival, ...]
    total: int = pytree.field(pytree_node=False)

    @property
    def n_features(self) -> int:
        return self.total

    @property
    def rank(self) -> int:
        return self.parts[0].slope.shape[-2]

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        u = draws.normal(named_key(key, "factors"), (n, self.rank))
        return self.fire(key, u)

    def fire(self, key: PRNGKeyArray, u: Float[Array, "n rank"]) -> Active:
        """Draws which features fire given the factors, which other firings can share."""
        draws_by_part = [part.fire(named_key(key, type(part).__name__), u) for part in self.parts]
        first = self.parts[0]  # the only one if it has a slot for every feature, see `parts`
        in_order = isinstance(first, OneByOne) and first.slots == self.total
        return replace(concatenated(draws_by_part), in_order=in_order)


def concatenated(actives: list[Active]) -> Active:
    """Joins draws over different features into one."""
    indices = jnp.concatenate([active.indices for active in actives], 1)
    on = jnp.concatenate([active.on for active in actives], 1)
    dropped = [active.dropped for active in actives if active.dropped is not None]
    return Active(indices, on, sum(dropped[1:], dropped[0]) if dropped else None)


@pytree.dataclass
class DenseCopula(Firing):
    """Firing under a full correlation matrix, at O(n_features^2) a sample.

    Attributes:
        threshold: `[n_features]` t.
        root: `[n_features, n_features]` Cholesky factor of the correlation.
    """

    threshold: Float[Array, " n_features"]
    root: Float[Array, "n_features n_features"]

    @property
    def n_features(self) -> int:
        return self.threshold.shape[-1]

    def sample(self, key: PRNGKeyArray, n: int) -> Active:
        eps = draws.normal(key, (n, self.n_features))
        on = jnp.matmul(eps, self.root.T, precision=jax.lax.Precision.HIGHEST) > self.threshold
        return all_in_order(on)


def from_factors(
    probs: Float[np.ndarray, " n_features"], factors: Float[np.ndarray, "_ rank"]
) -> LowRankCopula:
    """Returns the copula whose correlation is A A^T off the diagonal.

    Args:
        probs: marginal firing probabilities, in (0, 1).
        factors: A; each row shorter than 1.

    Raises:
        ToysaeError: a probability outside (0, 1), arrays that are not finite or do not fit,
            a row of length 1 or more, or more factors than features.
    """
    probs = checked_probabilities(probs, "(0, 1)")
    factors = checked_factors(factors, len(probs))
    return LowRankCopula(parts(probs, factors, everything=len(probs) <= SMALL), len(probs))


def low_rank_copula(
    key: PRNGKeyArray,
    probs: Float[np.ndarray, " n_features"],
    rank: int = 25,
    scale: float = 0.1,
) -> LowRankCopula:
    """Returns a copula of random factors, as SAELens draws them: see :func:`random_factors`.

    Raises:
        ToysaeError: as :func:`from_factors`, or a rank below 1, or a negative scale.
    """
    return from_factors(probs, random_factors(key, len(probs), rank, scale))


def random_factors(
    key: PRNGKeyArray, n_features: int, rank: int = 25, scale: float = 0.1
) -> Float[np.ndarray, "n_features rank"]:
    """Draws A ~ N(0, scale^2), rows shortened so that a feature keeps .01 of own variance at least.

    Pairs then correlate at about scale^2 sqrt(rank).

    Raises:
        ToysaeError: rank outside 1..n_features, or a negative scale.
    """
    require(1 <= rank <= n_features, f"copula rank {rank} must be in 1..n_features = {n_features}")
    require(np.isfinite(scale) and scale >= 0, f"copula scale {scale} must be at least 0")
    factors = np.asarray(jax.random.normal(key, (n_features, rank)), np.float64) * scale
    length = np.linalg.norm(factors, axis=1, keepdims=True)
    return factors * np.minimum(1.0, np.sqrt(1 - _LEAST) / np.maximum(length, 1e-300))


def dense_copula(
    probs: Float[np.ndarray, " n_features"], correlation: Float[np.ndarray, "n n"]
) -> DenseCopula:
    """Returns the copula with the given correlation matrix.

    Args:
        probs: marginal firing probabilities, in (0, 1).
        correlation: of the Gaussians, not of the firing itself; symmetric, with unit diagonal,
            positive definite.

    Raises:
        ToysaeError: a probability outside (0, 1), or an invalid matrix; the message says how far
            the nearest valid one is.
    """
    probs = checked_probabilities(probs, "(0, 1)")
    correlation = checked_correlation(correlation, len(probs))
    root = np.linalg.cholesky(correlation)
    threshold = -scipy.special.ndtri(probs)
    return DenseCopula(jnp.asarray(threshold, jnp.float32), jnp.asarray(root, jnp.float32))


def factors_of(correlation: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Returns factors whose copula has exactly this correlation: a root of C - lambda_min I.

    Raises:
        ToysaeError: not a correlation matrix, see :func:`dense_copula`.
    """
    correlation = checked_correlation(correlation, len(correlation))
    values, vectors = np.linalg.eigh(correlation)
    own = values[0] * (1 - 1e-9)  # a little less than the least, so that rows stay shorter than 1
    return vectors * np.sqrt(np.maximum(values - own, 0))


def nearest_correlation(
    matrix: Float[np.ndarray, "n n"], least: float = 1e-6
) -> Float[np.ndarray, "n n"]:
    """Returns the correlation matrix nearest to a symmetric matrix in Frobenius norm.

    Alternating projections with Dykstra's correction (Higham 2002, algorithm 3.3), onto
    eigenvalues of at least `least` and onto unit diagonals.

    Raises:
        ToysaeError: a matrix that is not square, symmetric and finite.
    """
    matrix = np.asarray(matrix, np.float64)
    _require_symmetric(matrix, len(matrix))
    current, correction = matrix.copy(), np.zeros_like(matrix)
    for _ in range(10_000):
        shifted = current - correction
        values, vectors = np.linalg.eigh(shifted)
        positive = (vectors * np.maximum(values, least)) @ vectors.T
        correction = positive - shifted
        current = positive.copy()
        np.fill_diagonal(current, 1.0)
        if np.abs(current - positive).max() < 1e-9:
            break
    # Scaling rows instead of a last projection keeps every eigenvalue positive.
    scale = 1 / np.sqrt(np.diag(positive))
    nearest = positive * np.outer(scale, scale)
    np.fill_diagonal(nearest, 1.0)
    return (nearest + nearest.T) / 2


def checked_factors(factors: np.ndarray, n_features: int) -> np.ndarray:
    """Returns factors in float64, or refuses them unless they fit with rows shorter than 1."""
    factors = np.asarray(factors, np.float64)
    fits = factors.ndim == 2 and len(factors) == n_features
    require(fits, f"copula factors of shape {factors.shape} must be [n_features = {n_features}, "
            "rank]")  # fmt: skip
    rank = factors.shape[1]
    require(rank <= n_features, f"copula rank {rank} exceeds n_features = {n_features}: "
            "lower the rank")  # fmt: skip
    bad = np.argwhere(~np.isfinite(factors))
    require(bad.size == 0, f"copula factors are not finite at {bad[:1].tolist()}")
    length = (factors**2).sum(1)
    long = np.flatnonzero(length >= 1)
    require(
        long.size == 0,
        f"copula factors of feature {long[:1]} have squared length {length[long[:1]]}: it must be "
        "below 1, scale them down",
    )
    return factors


def checked_correlation(correlation: np.ndarray, n: int) -> np.ndarray:
    """Returns a correlation matrix in float64, or refuses one that is not positive definite."""
    correlation = np.asarray(correlation, np.float64)
    _require_symmetric(correlation, n)
    diagonal = np.diag(correlation)
    off = np.flatnonzero(np.abs(diagonal - 1) > 1e-6)
    require(off.size == 0, f"correlation[{off[:1]}] on the diagonal is {diagonal[off[:1]]}, not 1")
    least = np.linalg.eigvalsh(correlation)[0]
    if least <= 1e-10:
        change = nearest_correlation(correlation) - correlation
        raise ToysaeError(
            f"correlation is not positive definite (least eigenvalue {least:.3g}): the nearest "
            f"valid one is {np.linalg.norm(change):.3g} away in Frobenius norm, "
            f"{np.abs(change).max():.3g} in one entry; take nearest_correlation(matrix)"
        )
    return correlation


def _require_symmetric(matrix: np.ndarray, n: int) -> None:
    """Raises :class:`ToysaeError` unless a matrix is `[n, n]`, finite and symmetric."""
    require(matrix.shape == (n, n), f"correlation of shape {matrix.shape} must be [{n}, {n}]")
    bad = np.argwhere(~np.isfinite(matrix))
    require(bad.size == 0, f"correlation is not finite at {bad[:1].tolist()}")
    unequal = np.argwhere(np.abs(matrix - matrix.T) > 1e-6)
    require(unequal.size == 0, f"correlation is not symmetric at {unequal[:1].tolist()}")
