"""Published worlds, each with its source.

Probabilities are marginal unless a name says "given"; spreads of magnitudes are standard
deviations.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..errors import require
from ..keys import named_key
from . import dictionaries
from .assemble import assemble
from .catalogue import WorldRow, dials, world_row
from .copula import dense_copula, nearest_correlation
from .firing import Firing
from .groups import State, joint
from .independent import independent
from .interim_firing import Power, Replication, power_root, replication_root
from .magnitudes import LogNormal, Magnitude, RectifiedNormal, Scaled
from .magnitudes import magnitude as magnitude_law
from .probabilities import firing_probabilities
from .synth_sae_bench import synth_sae_bench
from .world import World


def _interim(
    law: Callable[[Array, int, float, float], Firing], key, d_in: int = 256, n_features: int = 512,
    l0: float = 5.0, decay: float = 0.99, magnitude: str = "uniform",
) -> World:  # fmt: skip
    """Sharkey et al. 2022 with one reading of its firing: `law(key, n_features, l0, decay)`."""
    require(0 < l0 <= n_features, f"l0 {l0} must be in (0, n_features = {n_features}]")
    directions = _sphere(key, n_features, d_in)
    firing = law(named_key(key, "covariance"), n_features, l0, decay)
    return assemble(directions, firing, magnitude_law(magnitude, n_features))


def _replication(key, n_features: int, l0: float, decay: float, *, per_sample: bool) -> Firing:
    return Replication(replication_root(key, n_features), l0, decay, per_sample)


def _power(key, n_features: int, l0: float, decay: float) -> Firing:
    return Power(power_root(key, n_features), l0, decay)


def _interim_row(about: str, law: Callable[[Array, int, float, float], Firing]) -> WorldRow:
    return WorldRow(about, partial(_interim, law), dials(_interim, 2))


def sanity_checks(
    key, d_in: int = 100, n_features: int = 3200, l0: float = 20.0, sigma: float = 0.25
) -> World:
    """Sanity Checks (arXiv 2602.14111): equal probabilities, ratio 32, log-normal magnitudes."""
    firing = independent(firing_probabilities("uniform", n_features, l0))
    return assemble(_sphere(key, n_features, d_in), firing, LogNormal(0.0, sigma))


def sanity_checks_log_uniform(
    key, d_in: int = 100, n_features: int = 3200, low: float = -5.5, high: float = -1.2,
    sigma: float = 0.25,
) -> World:  # fmt: skip
    """Sanity Checks (arXiv 2602.14111): probabilities log-uniform in 10^low .. 10^high."""
    require(low <= high <= 0, f"exponents {low}, {high} must be ordered and at most 0")
    share = (np.arange(n_features) + 0.5) / n_features
    probs = 10.0 ** (high - (high - low) * share)  # quantiles, the most frequent first
    return assemble(_sphere(key, n_features, d_in), independent(probs), LogNormal(0.0, sigma))


def absorption_world(
    key, d_in: int = 50, p_parent: float = 0.25, p_child: float = 0.05, co_occurrence: float = 1.0,
    n_free: int = 2, magnitude_sd: float = 0.0,
) -> World:  # fmt: skip
    """A is for Absorption (arXiv 2409.14507): orthogonal, feature 1 fires only with feature 0.

    `co_occurrence` is the share of the child's firings that come with the parent; at p_parent the
    two are independent. `n_free` further features fire alone with the child's probability.
    """
    _check_shares(p_parent=p_parent, p_child=p_child, co_occurrence=co_occurrence)
    require(p_child <= p_parent, f"p_child {p_child} must be at most p_parent {p_parent}")
    require(n_free >= 0, f"n_free {n_free} must be at least 0")
    both = co_occurrence * p_child
    states = [{(0,): p_parent - both, (0, 1): both, (1,): p_child - both}]
    singles: list[Mapping[State, float]] = [{(2 + i,): p_child} for i in range(n_free)]
    firing = joint([*states, *singles], 2 + n_free)
    return assemble(_orthogonal(key, 2 + n_free, d_in), firing, _near_one(magnitude_sd))


def absorption_independent(key, d_in: int = 50, magnitude_sd: float = 0.0) -> World:
    """A is for Absorption: the same four features, all independent."""
    return absorption_world(key, d_in, co_occurrence=0.25, magnitude_sd=magnitude_sd)


def absorption_variance(key, d_in: int = 50, magnitude_sd: float = 0.1) -> World:
    """A is for Absorption: implied, with magnitudes that vary (partial absorption)."""
    return absorption_world(key, d_in, magnitude_sd=magnitude_sd)


def absorption_co_occurrence(key, d_in: int = 50, co_occurrence: float = 0.95) -> World:
    """A is for Absorption: the child fires mostly, but not always, with the parent."""
    return absorption_world(key, d_in, co_occurrence=co_occurrence)


def exclusive_pair(
    key, d_in: int = 50, rho: float = 0.7071067811865476, p_first: float = 0.2,
    p_second: float = 0.05, p_both: float = 0.0, magnitude_first: float = 1.0,
    magnitude_second: float = 1.4142135623730951, magnitude_sd: float = 0.0,
) -> World:  # fmt: skip
    """Two features at cosine rho that never fire together (p_both 0): does untying help?

    At the defaults it draws the same data as `absorption_world` without free features: the parent
    alone is the first feature, parent and child together are the second.
    """
    _check_shares(p_first=p_first, p_second=p_second, p_both=p_both)
    positive = magnitude_first > 0 and magnitude_second > 0
    require(positive, f"magnitudes {magnitude_first}, {magnitude_second} must be positive")
    require(p_both <= min(p_first, p_second), f"p_both {p_both} is over p_first or p_second")
    firing = joint([{(0,): p_first - p_both, (1,): p_second - p_both, (0, 1): p_both}], 2)
    directions = dictionaries.pairs(named_key(key, "directions"), 2, d_in, rho)
    scale = jnp.array([magnitude_first, magnitude_second])
    return assemble(directions, firing, Scaled(_near_one(magnitude_sd), scale))


def hedging_world(
    key, d_in: int = 50, p_parent: float = 0.25, p_child_given_parent: float = 0.2,
    independent_child: bool = False,
) -> World:  # fmt: skip
    """Feature Hedging (arXiv 2505.11756): parent and child, made for an SAE of one latent."""
    _check_shares(p_parent=p_parent, p_child_given_parent=p_child_given_parent)
    both = p_parent * p_child_given_parent
    pair: Mapping[State, float] = {(0,): p_parent - both, (0, 1): both}
    free: list[Mapping[State, float]] = [{(0,): p_parent}, {(1,): p_child_given_parent}]
    firing = joint(free if independent_child else [pair], 2)
    return assemble(_orthogonal(key, 2, d_in), firing, "constant")


def sparse_but_wrong(
    key, d_in: int = 20, correlation: float = 0.4, p: float = 0.4, magnitude_sd: float = 0.15
) -> World:
    """Sparse but Wrong (arXiv 2508.16560), small: feature 0 correlates with the four others.

    `correlation` is that of the Gaussian copula behind the firings; -.4 is the paper's other case.
    """
    matrix = np.eye(5)
    matrix[0, 1:] = matrix[1:, 0] = correlation
    firing = dense_copula(np.full(5, p), matrix)
    return assemble(_orthogonal(key, 5, d_in), firing, _near_one(magnitude_sd))


def sparse_but_wrong_large(
    key, d_in: int = 100, magnitude_sd: float = 0.15, strongest: float = 0.8
) -> World:
    """Sparse but Wrong, large: 50 features, random correlations, true L0 near 11.

    p_i = .345 (49 - i) / 50 + .05. 70 % of the pairs correlate, with either sign and a strength
    uniform in .1 .. `strongest`, before the nearest correlation matrix is taken.
    """
    n = 50
    require(0.1 <= strongest <= 1, f"strongest {strongest} must be in [0.1, 1]")
    probs = 0.345 * (n - 1 - np.arange(n)) / n + 0.05
    seed = int(jax.random.bits(named_key(key, "correlation"), dtype=jnp.uint32))
    rng = np.random.default_rng(seed)
    matrix = np.eye(n)
    for i, j in combinations(range(n), 2):
        strength = rng.uniform(0.1, strongest) * rng.choice([-1, 1]) * (rng.random() < 0.7)
        matrix[i, j] = matrix[j, i] = strength
    firing = dense_copula(probs, nearest_correlation(matrix))
    return assemble(_orthogonal(key, n, d_in), firing, _near_one(magnitude_sd))


def matryoshka_tree(
    key, d_in: int = 20, p_parent: float = 0.15, p_child_given_parent: float = 0.2,
    p_single: float = 0.05, magnitude_sd: float = 0.05,
) -> World:  # fmt: skip
    """Matryoshka toy (Nabeshima 2024): 3 parents with 3 exclusive children each, 8 singles."""
    require(
        0 <= 3 * p_child_given_parent <= 1,
        f"p_child_given_parent {p_child_given_parent} must be in [0, 1/3]: they exclude each other",
    )
    trees: list[Mapping[State, float]] = []
    for first in (0, 4, 8):
        tree: dict[State, float] = {
            (first, first + child): p_parent * p_child_given_parent for child in (1, 2, 3)
        }
        tree[(first,)] = p_parent * (1 - 3 * p_child_given_parent)
        trees.append(tree)
    trees += [{(12 + i,): p_single} for i in range(8)]
    return assemble(_orthogonal(key, 20, d_in), joint(trees, 20), _near_one(magnitude_sd))


def balanced_matryoshka(
    key, d_in: int = 50, p_parent: float = 0.25, p_child_given_parent: float = 0.15
) -> World:
    """Feature Hedging's balance demo: one parent, three children that fire only with it.

    The children are independent of each other, given the parent.
    """
    _check_shares(p_parent=p_parent, p_child_given_parent=p_child_given_parent)
    states: dict[State, float] = {}
    for size in range(4):
        for children in combinations((1, 2, 3), size):
            on = p_child_given_parent**size * (1 - p_child_given_parent) ** (3 - size)
            states[(0, *children)] = p_parent * on
    return assemble(_orthogonal(key, 4, d_in), joint([states], 4), "constant")


def _sphere(key, n_features: int, d_in: int) -> Array:
    return dictionaries.sphere(named_key(key, "directions"), n_features, d_in)


def _orthogonal(key, n_features: int, d_in: int) -> Array:
    return dictionaries.orthogonal(named_key(key, "directions"), n_features, d_in)


def _check_shares(**shares: float) -> None:
    for name, p in shares.items():
        require(0 <= p <= 1, f"{name} {p} must be in [0, 1]")


def _near_one(sd: float) -> Magnitude:
    require(sd >= 0, f"magnitude_sd {sd} must be at least 0")
    return RectifiedNormal(1.0, sd)


PRESETS: dict[str, WorldRow] = {
    "interim-report": _interim_row(
        "Sharkey et al. 2022 as its replication codes it: one correlated draw for each batch",
        partial(_replication, per_sample=False),
    ),
    "interim-report-per-sample": _interim_row(
        "The replication's generator with its own draw for each sample",
        partial(_replication, per_sample=True),
    ),
    "interim-report-power": _interim_row(
        "Sharkey et al. 2022, the other reading: Phi(z)^(decay g), rescaled for each sample",
        _power,
    ),
    "synth-sae-bench-16k": world_row(synth_sae_bench),
    "sanity-checks": world_row(sanity_checks),
    "sanity-checks-log-uniform": world_row(sanity_checks_log_uniform),
    "absorption": world_row(absorption_world),
    "absorption-independent": world_row(absorption_independent),
    "absorption-variance": world_row(absorption_variance),
    "absorption-co-occurrence": world_row(absorption_co_occurrence),
    "exclusive-pair": world_row(exclusive_pair),
    "hedging": world_row(hedging_world),
    "sparse-but-wrong": world_row(sparse_but_wrong),
    "sparse-but-wrong-large": world_row(sparse_but_wrong_large),
    "matryoshka-tree": world_row(matryoshka_tree),
    "balanced-matryoshka": world_row(balanced_matryoshka),
}
