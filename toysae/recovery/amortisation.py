"""Splits an SAE's excess loss between its encoder and its dictionary.

All losses are the L1 objective O(z, D) = ‖x − zD‖² + λ ‖z‖₁ of non-negative codes in unit rows,
averaged over samples. With z*(D) the codes that minimise it (FISTA), the loss of an SAE of
dictionary D and codes z on a world of true directions F is

    O(z, D) = O(z*(F), F) + [O(z*(D), D) − O(z*(F), F)] + [O(z, D) − O(z*(D), D)]
                 truth            dictionary error            amortisation gap

The amortisation gap is at least 0, up to FISTA's convergence error, which :func:`duality_gap`
bounds. The dictionary error can be negative: the truth does not minimise O.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toysae.recovery.oracle import fista_codes

from .. import pytree


@pytree.dataclass
class Gaps:
    """Means over samples, in units of squared error; an ensemble's have leading axes.

    Attributes:
        truth: objective of the best codes in the true dictionary.
        dictionary: excess of the learned dictionary's best codes over it; can be negative.
        amortisation: excess of the SAE's own codes over those.
        unconverged: bound on the mean convergence error, the larger of the two sets of best codes.
    """

    truth: Float[Array, "*lead"]
    dictionary: Float[Array, "*lead"]
    amortisation: Float[Array, "*lead"]
    unconverged: Float[Array, "*lead"]


def l1_objective(
    x: Float[Array, "batch d_in"],
    z: Float[Array, "batch n"],
    D: Float[Array, "n d_in"],
    l1_coeff: Float[Array, ""] | float,
) -> Float[Array, " batch"]:
    """Returns ‖x − zD‖² + l1_coeff ‖z‖₁ of each sample."""
    return jnp.sum((x - z @ D) ** 2, -1) + l1_coeff * jnp.abs(z).sum(-1)


def duality_gap(
    x: Float[Array, "batch d_in"],
    z: Float[Array, "batch n"],
    D: Float[Array, "n d_in"],
    l1_coeff: Float[Array, ""] | float,
) -> Float[Array, " batch"]:
    """Bounds how far the objective of codes z >= 0 is above its minimum, for each sample.

    The dual of min ‖x − zD‖² + λ 1'z over z >= 0 is max ‖x‖² − ‖x − u‖² over Du <= λ/2. The
    residual, scaled down until it is feasible, is such a u; at the minimum it needs no scaling.
    """
    residual = x - z @ D
    worst = jnp.max(residual @ D.T, -1, keepdims=True)
    scale = jnp.where(worst > l1_coeff / 2, l1_coeff / 2 / jnp.where(worst > 0, worst, 1), 1.0)
    dual = jnp.sum(x**2, -1) - jnp.sum((x - scale * residual) ** 2, -1)
    return l1_objective(x, z, D, l1_coeff) - dual


@partial(jax.jit, static_argnames="n_iterations")
def gap_decomposition(
    x: Float[Array, "batch d_in"],
    z: Float[Array, "batch d_sae"],
    W_dec: Float[Array, "d_sae d_in"],
    directions: Float[Array, "n_features d_in"],
    l1_coeff: Float[Array, ""] | float,
    n_iterations: int = 500,
) -> Gaps:
    """Splits the objective of an SAE without decoder bias, see the module.

    Args:
        x: inputs.
        z: the SAE's own codes, >= 0.
        W_dec: its dictionary, unit rows: with others λ would mean something else.
        directions: true features, unit rows.
        l1_coeff: λ, of all three objectives.
        n_iterations: FISTA steps in either dictionary (static).
    """

    def best(D: Array) -> tuple[Array, Array]:
        codes = fista_codes(x, D, l1_coeff, n_iterations)
        gap = duality_gap(x, codes, D, l1_coeff)
        return l1_objective(x, codes, D, l1_coeff).mean(), gap.mean()

    (truth, off_truth), (learned, off_learned) = best(directions), best(W_dec)
    own = l1_objective(x, z, W_dec, l1_coeff).mean()
    return Gaps(truth, learned - truth, own - learned, jnp.maximum(off_truth, off_learned))
