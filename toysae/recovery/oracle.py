"""A ceiling from the truth: non-negative FISTA codes on the true features.

The codes minimise ``‖x - a D‖² + λ ‖a‖₁`` over a >= 0, see :mod:`toysae.sae.fista`: the score of a
perfect dictionary with a perfect encoder at that λ, shrinkage included. It does not bound every
score (the truth can have the higher loss).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from toysae.errors import require
from toysae.recovery.totals import add_batch, empty_totals, summarise
from toysae.sae.fista import exact_lipschitz, fista


@partial(jax.jit, static_argnames="n_iterations")
def fista_codes(
    x: Float[Array, "batch d_in"],
    directions: Float[Array, "n_features d_in"],
    l1_coeff: float | Float[Array, ""],
    n_iterations: int = 200,
) -> Float[Array, "batch n_features"]:
    """Returns non-negative sparse codes of `x` in the dictionary `directions`.

    Args:
        x: inputs ``[batch, d_in]``.
        directions: dictionary rows ``[n_features, d_in]``, of any length.
        l1_coeff: λ >= 0, in units of squared error per unit of code; traced.
        n_iterations: FISTA steps (static). 200 suits an incoherent dictionary; near-duplicate
            rows need more.

    Returns:
        Codes ``[batch, n_features]``, with exact zeros.

    Raises:
        ToysaeError: `n_iterations` is below 1.
    """
    require(n_iterations >= 1, f"n_iterations = {n_iterations!r}: write at least 1")
    require(len(directions) > 0, "directions has no rows: give a dictionary")
    return fista(x, directions, l1_coeff, exact_lipschitz(directions), n_iterations)


@partial(jax.jit, static_argnames="n_iterations")
def fista_oracle(
    x: Float[Array, "batch d_in"],
    directions: Float[Array, "n_features d_in"],
    l1_coeffs: Float[Array, " n_coeffs"],
    n_iterations: int = 200,
) -> dict[str, Array]:
    """Returns the curve of reconstruction over L0 of the true dictionary.

    A feature counts as active where its code is != 0: the proximal step gives exact zeros.

    Args:
        x: inputs ``[batch, d_in]``.
        directions: true features ``[n_features, d_in]``.
        l1_coeffs: the λ to try, ``[n_coeffs]``, one after another.
        n_iterations: FISTA steps for each.

    Returns:
        ``l1_coeff``, ``l0`` (active features per sample), ``ev`` and ``mse`` (summed over d_in,
        mean over samples), each ``[n_coeffs]``.
    """

    def one(l1_coeff):
        codes = fista_codes(x, directions, l1_coeff, n_iterations)
        totals = empty_totals(x.shape[1], directions.shape[0])
        scores = summarise(add_batch(totals, x, codes @ directions, codes))
        return {name: scores[name] for name in ("l0", "ev", "mse")}

    coefficients = jnp.asarray(l1_coeffs, x.dtype)
    return {"l1_coeff": coefficients, **lax.map(one, coefficients)}
