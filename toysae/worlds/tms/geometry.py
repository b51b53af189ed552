"""How features share the hidden dimensions: D_i, D*, overlap, and directions.

Elhage et al. 2022, "The Geometry of Superposition". D_i is the share of a dimension that feature i
has, see :data:`POLYTOPES`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ...errors import require

POLYTOPES = {
    "dedicated": 1.0,
    "tetrahedron": 3 / 4,
    "triangle": 2 / 3,
    "antipodal pair": 1 / 2,
    "pentagon": 2 / 5,
    "square antiprism": 3 / 8,
    "not represented": 0.0,
}
"""D_i of a feature in each arrangement."""

NO_DIRECTION = 0.1
"""A feature whose ‖W_i‖ is below this share of the largest has no direction."""


def feature_dimensionality(
    W: Float[Array | np.ndarray, "*batch d_hidden n_features"],
) -> Float[Array, "*batch n_features"]:
    """D_i = ‖W_i‖^2 / sum_j (Ŵ_i·W_j)^2, in [0, 1]; 0 where W_i = 0."""
    gram, square = _gram(W)
    # D_i = |W_i|^4 / |row i of the Gram matrix|^2, scaled first so that no small norm underflows.
    scale = jnp.where(square > 0, square, 1.0)
    rows = ((gram / scale[..., None]) ** 2).sum(-1)
    return jnp.where(square > 0, 1 / jnp.where(square > 0, rows, 1.0), 0.0)


def overlap(
    W: Float[Array | np.ndarray, "*batch d_hidden n_features"],
) -> Float[Array, "*batch n_features"]:
    """sum_{j != i} (Ŵ_i·W_j)^2: how much others write along feature i; 0 where W_i = 0."""
    gram, square = _gram(W)
    others = ((gram * (1 - jnp.eye(W.shape[-1]))) ** 2).sum(-1)
    return jnp.where(square > 0, others / jnp.where(square > 0, square, 1.0), 0.0)


def dimensions_per_feature(
    W: Float[Array | np.ndarray, "*batch d_hidden n_features"],
) -> Float[Array, "*batch"]:
    """D* = d_hidden / ‖W‖_F^2: hidden dimensions per represented feature."""
    return W.shape[-2] / jnp.square(W).sum((-2, -1))


def _gram(W: Array | np.ndarray) -> tuple[Array, Array]:
    """Returns W^T W and its diagonal ‖W_i‖^2."""
    gram = jnp.einsum("...df,...dg->...fg", W, W, precision="highest")
    return gram, jnp.diagonal(gram, axis1=-2, axis2=-1)


class Directions(NamedTuple):
    """Features of a toy model as the truth for an SAE on its hidden layer.

    Attributes:
        directions: `[n_kept, d_hidden]` unit rows.
        rows: `[n_kept, d_hidden]` what a coefficient of 1 adds to h: columns of W.
        kept: `[n_features]` bool; False for a feature that has no direction.
    """

    directions: Float[np.ndarray, "n_kept d_hidden"]
    rows: Float[np.ndarray, "n_kept d_hidden"]
    kept: Bool[np.ndarray, " n_features"]

    @property
    def n_excluded(self) -> int:
        """Number of features without a direction."""
        return int((~self.kept).sum())


def tms_directions(
    W: Float[Array | np.ndarray, "d_hidden n_features"],
    threshold: float = NO_DIRECTION,
) -> Directions:
    """Returns the features that a model represents; the others are counted, not scored.

    Args:
        W: of one model. A feature left out still adds up to `threshold` times the largest norm to
            h: a world of exactly the model's h would keep every column of W as rows and leave
            features out only in its scores.
        threshold: share of the largest ‖W_i‖ below which a feature has no direction.

    Raises:
        ToysaeError: W is not finite, all zero, or threshold is outside [0, 1).
    """
    require(0 <= threshold < 1, f"threshold {threshold} must be in [0, 1)")
    columns = np.asarray(W).T
    require(bool(np.isfinite(columns).all()), "W is not finite: the model diverged, lower its lr")
    norms = np.linalg.norm(columns, axis=1)
    require(bool(norms.max() > 0), "W is all zero: no feature has a direction, train longer")
    kept = norms >= threshold * norms.max()
    kept &= norms > 0
    rows = columns[kept]
    return Directions(rows / norms[kept, None], rows, kept)
