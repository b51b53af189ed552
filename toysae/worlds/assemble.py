"""Builds a world from a user's own arrays or from components of this package."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checked import shown
from ..errors import require
from .dictionaries import unit_rows
from .firing import Firing
from .independent import independent
from .magnitudes import Magnitude
from .magnitudes import magnitude as magnitude_law
from .world import World

FloatArray = Float[np.ndarray, "..."] | Float[Array, "..."]
"""A user's array; its shape is checked with a message of its own."""


def assemble(
    directions: FloatArray,
    firing: Firing | FloatArray,
    magnitude: Magnitude | str = "uniform",
    *,
    generating_matrix: FloatArray | None = None,
    bias: FloatArray | None = None,
    noise_sd: float = 0.0,
    rectify: bool = False,
    name: str = "custom",
) -> World:
    """Builds a world from a dictionary, a way of firing and a law of magnitudes.

    Args:
        directions: `[n_features, d_in]` what a coefficient of 1 of each feature adds to x; they
            need not be unit rows. SAEs are scored against the directions of these rows, rectified
            where x is.
        firing: a :class:`Firing`, or probabilities `[n_features]` of independent firing.
        magnitude: a law, or the name of one.
        generating_matrix: `[d_in, d_hidden]` what writes x, for SVD initialisations;
            `directions.T` if not given.
        bias: `[d_in]` added to x, before any rectifier.
        noise_sd: sd of isotropic observation noise, added after any rectifier.
        rectify: x = ReLU(sum + bias).
        name: the name that tables show.

    Raises:
        ToysaeError: arrays that are not finite or do not fit each other, a zero direction,
            negative noise, a firing or law that is not a pytree.
    """
    rows = _finite(directions, "directions")
    is_matrix = rows.ndim == 2 and rows.size > 0
    require(is_matrix, f"directions of shape {rows.shape} must be [n_features, d_in]")
    n_features, d_in = rows.shape
    if not isinstance(firing, Firing):
        firing = independent(np.asarray(firing))
    if isinstance(magnitude, str):
        magnitude = magnitude_law(magnitude, n_features)
    for component in (firing, magnitude):
        require(
            not jax.tree_util.all_leaves([component]),
            f"{shown(component)} is not a pytree: decorate its class, {type(component).__name__}, "
            "with toysae.pytree.dataclass",
        )
    n_fired = firing.n_features
    require(n_fired == n_features, f"firing is over {n_fired} features but directions has "
            f"{n_features} rows")  # fmt: skip
    target = jnp.maximum(rows, 0) if rectify else rows
    lengths = np.linalg.norm(np.asarray(target), axis=1)
    zero = np.flatnonzero(lengths == 0)
    row = f"a zero row{', once rectified' * rectify}"
    require(zero.size == 0, f"feature {zero[:1]} has no direction ({row}): leave it out")
    if bias is not None:
        bias = _finite(bias, "bias")
        require(bias.shape == (d_in,), f"bias of shape {bias.shape} must be [d_in] = [{d_in}]")
    require(np.isfinite(noise_sd) and noise_sd >= 0, f"noise_sd {noise_sd} must be at least 0")
    if generating_matrix is None:
        matrix = jax.device_put(np.asarray(rows).T)  # a transpose of jax would be a program
    else:
        matrix = _finite(generating_matrix, "generating_matrix")
    fits = matrix.ndim == 2 and matrix.shape[0] == d_in
    require(fits, f"generating_matrix of shape {matrix.shape} must have d_in = {d_in} rows")
    noise = jnp.float32(noise_sd) if noise_sd else None
    return World(unit_rows(target), rows, matrix, firing, magnitude, bias, noise, rectify, name)


def _finite(values: FloatArray, name: str) -> Array:
    """Returns the values in float32, or refuses them where one is not finite."""
    array = jnp.asarray(values, jnp.float32)
    bad = np.argwhere(~np.isfinite(np.asarray(array)))
    require(bad.size == 0, f"{name} is not finite at {bad[:1].tolist()}: clean it first")
    return array
