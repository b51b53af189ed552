"""Losses of small toy models in closed form: which arrangement is best at which density.

For x' = ReLU(W^T W x + b), independent features, x_i = 0 with probability 1 - p, else U[0, 1].
With unit columns and b = 0 where a feature is represented, b_i = E x_i = p/2 where it is not:

- not represented: I_i (E x^2 - (E x)^2) = I_i q, with q = p/3 - p^2/4.
- alone on a dimension: 0.
- an antipodal pair: nothing is lost unless both fire (p^2). Then the larger comes out as the
  difference and the smaller as 0, so that each is wrong by min(x, y): p^2/6 (I_1 + I_2), because
  E min(x, y)^2 = 1/6.
- a triangle (three at 120 degrees): feature i comes out as ReLU(x_i - (x_j + x_k)/2), wrong by
  min(x_i, (x_j + x_k)/2) where it is on. The mean square is 1/16 with one other on, 1/6 with both:
  (I_1 + I_2 + I_3) (p^2 (1 - p)/8 + p^3/6).

Free gains and biases do better: :func:`tuned` minimises the exact expected loss over all of W and b
in float64 from there, so that its value is a local minimum and not a closed form.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations, product

import numpy as np
import scipy

from ...errors import ToysaeError, require


def ignored(density: float, importance: float) -> float:
    """Loss of a feature that is not represented, at its best bias."""
    return importance * (density / 3 - density**2 / 4)


def antipodal_loss(density: float, importance: tuple[float, float]) -> float:
    """Loss of two features at W = (1, -1), b = 0."""
    return sum(importance) * density**2 / 6


def triangle(density: float, importance: tuple[float, float, float]) -> float:
    """Loss of three features at 120 degrees in two dimensions, unit columns, b = 0."""
    return sum(importance) * (density**2 * (1 - density) / 8 + density**3 / 6)


def two_in_one(density: float, importance: float) -> dict[str, float]:
    """Losses by arrangement for n = 2, m = 1: features of importance 1 and `importance`."""
    _check(density, importance)
    return {
        "extra ignored": ignored(density, importance),
        "extra alone": ignored(density, 1.0),
        "extra in superposition": antipodal_loss(density, (1.0, importance)),
    }


def three_in_two(density: float, importance: float) -> dict[str, float]:
    """Losses by arrangement for n = 3, m = 2: features of importance 1, 1 and `importance`."""
    _check(density, importance)
    return {
        "extra ignored": ignored(density, importance),
        "extra alone, another ignored": ignored(density, 1.0),
        "extra alone, others antipodal": antipodal_loss(density, (1.0, 1.0)),
        "extra in superposition": antipodal_loss(density, (1.0, importance)),
        "triangle": triangle(density, (1.0, 1.0, importance)),
    }


_ROOT = 3**0.5 / 2
_TWO = {
    "extra ignored": [[1, 0]],
    "extra alone": [[0, 1]],
    "extra in superposition": [[1, -1]],
}
_THREE = {
    "extra ignored": [[1, 0, 0], [0, 1, 0]],
    "extra alone, another ignored": [[0, 0, 1], [0, 1, 0]],
    "extra alone, others antipodal": [[1, -1, 0], [0, 0, 1]],
    "extra in superposition": [[1, 0, -1], [0, 1, 0]],
    "triangle": [[1, -0.5, -0.5], [0, _ROOT, -_ROOT]],
}
CASES: dict[tuple[int, int], tuple[Callable[[float, float], dict[str, float]], dict]] = {
    (2, 1): (two_in_one, _TWO),
    (3, 2): (three_in_two, _THREE),
}
"""(n_features, d_hidden) -> closed forms, and the W of each arrangement."""


def arrangement(
    n_features: int, d_hidden: int, name: str, density: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the W `[d_hidden, n_features]` and b `[n_features]` of a closed form."""
    _, table = _case(n_features, d_hidden)
    W = np.array(table[name], float)
    return W, np.where((W**2).sum(0) > 0, 0.0, density / 2)


def optimum(
    n_features: int, d_hidden: int, density: float, importance: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Returns the lowest exact loss that :func:`tuned` reaches from any arrangement, with W and b.

    Raises:
        ToysaeError: no closed forms for that shape, or a number out of range.
    """
    _, table = _case(n_features, d_hidden)
    _check(density, importance)
    weights = np.append(np.ones(n_features - 1), importance)
    starts = (arrangement(n_features, d_hidden, name, density) for name in table)
    return min((tuned(W, b, density, weights) for W, b in starts), key=lambda minimum: minimum[0])


def tuned(
    W: np.ndarray, b: np.ndarray, density: float, importance: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Returns the local minimum of the exact loss near W `[m, n]`, b `[n]` (L-BFGS, float64)."""

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad_W, grad_b = expected_loss(
            flat[: W.size].reshape(W.shape), flat[W.size :], density, importance
        )
        return value, np.append(grad_W, grad_b)

    start = np.append(W, b).astype(float)
    # Columns at exactly 0 are saddle points: a small push leaves them.
    start[: W.size] += 1e-3 * np.cos(np.arange(W.size) + 1)
    done = scipy.optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B",
        options={"maxiter": 200, "ftol": 1e-12, "gtol": 1e-9},
    )  # fmt: skip
    return float(done.fun), done.x[: W.size].reshape(W.shape), done.x[W.size :]


def expected_loss(
    W: np.ndarray, b: np.ndarray, density: float, importance: np.ndarray, n_nodes: int = 24
) -> tuple[float, np.ndarray, np.ndarray]:
    """Computes E sum_i I_i (x_i - ReLU(W^T W x + b)_i)^2 and its gradient, without sampling.

    It sums over every set of features that may be on. The kink of the ReLU splits one coordinate's
    integral exactly; the others have `n_nodes` Gauss-Legendre nodes, which leaves a relative error
    below 1e-5.

    Args:
        W: `[d_hidden, n_features]`, n_features at most 4.
        b: `[n_features]`.
        density: p in (0, 1].
        importance: `[n_features]`.
        n_nodes: nodes of each outer coordinate.

    Returns:
        The loss, its gradient in W `[d_hidden, n_features]`, and in b `[n_features]`.

    Raises:
        ToysaeError: more than 4 features.
    """
    n = W.shape[1]
    require(n <= 4, f"{n} features are too many to integrate over: at most 4, or draw samples")
    gram = W.T @ W
    value, grad_gram, grad_b = 0.0, np.zeros((n, n)), np.zeros(n)
    for i in range(n):
        for on in (s for size in range(n + 1) for s in combinations(range(n), size)):
            chance = importance[i] * density ** len(on) * (1 - density) ** (n - len(on))
            if chance == 0:
                continue
            x, weight = _nodes(gram[i], b[i], on, n_nodes)
            pre = x @ gram[i] + b[i]
            error = x[:, i] - np.maximum(pre, 0)
            value += chance * weight @ error**2
            slope = -2 * chance * weight * error * (pre > 0)
            grad_gram[i] += slope @ x
            grad_b[i] += slope.sum()
    return float(value), W @ (grad_gram + grad_gram.T), grad_b


def _nodes(
    row: np.ndarray, bias: float, on: tuple[int, ...], n_nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points `[nodes, n]` and weights `[nodes]` over the features `on`, split at row·x = -b."""
    if not on:
        return np.zeros((1, len(row))), np.ones(1)
    inner = max(on, key=lambda j: abs(row[j]))
    outer = [j for j in on if j != inner]
    grid, area = _grid(n_nodes, len(outer))
    x = np.zeros((len(grid), len(row)))
    x[:, outer] = grid
    steep = row[inner] if row[inner] != 0 else 1.0
    kink = np.clip(-(x @ row + bias) / steep, 0, 1)[:, None]
    node, node_weight = _gauss(2)  # exact up to cubics, and each piece is quadratic
    places = np.concatenate([kink * node, kink + (1 - kink) * node], 1)
    weights = np.concatenate([kink * node_weight, (1 - kink) * node_weight], 1)
    x = np.repeat(x, places.shape[1], 0)
    x[:, inner] = places.ravel()
    return x, (area[:, None] * weights).ravel()


@lru_cache
def _grid(n_nodes: int, n_axes: int) -> tuple[np.ndarray, np.ndarray]:
    """The product rule on [0, 1]^n_axes: points `[nodes, n_axes]`, weights `[nodes]`."""
    at, weight = _gauss(n_nodes)
    place = np.array(list(product(range(n_nodes), repeat=n_axes)), int).reshape(
        n_nodes**n_axes, n_axes
    )
    return at[place], weight[place].prod(-1)


@lru_cache
def _gauss(n_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    at, weight = np.polynomial.legendre.leggauss(n_nodes)
    return (at + 1) / 2, weight / 2


def _case(n_features: int, d_hidden: int) -> tuple:
    if (n_features, d_hidden) not in CASES:
        known = ", ".join(f"{n} in {m}" for n, m in CASES)
        raise ToysaeError(f"no closed forms for {n_features} features in {d_hidden}: {known}")
    return CASES[n_features, d_hidden]


def _check(density: float, importance: float) -> None:
    require(0 < density <= 1, f"density {density:g} must be in (0, 1]")
    require(importance >= 0, f"importance {importance:g} must be at least 0")
