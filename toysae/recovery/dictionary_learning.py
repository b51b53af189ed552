"""Two classical dictionary learners on device: online FISTA learning and MOD."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from toysae.keys import named_key
from toysae.linalg import solve_positive
from toysae.sae.classical import sample_order
from toysae.sae.fista import fista, quick_lipschitz
from toysae.sae.pursuit import orthogonal_matching_pursuit
from toysae.worlds.dictionaries import unit_rows

_FORGET = 0.98


@partial(jax.jit, static_argnames=("n", "batch_size", "n_iterations"))
def learn_fista(
    key: PRNGKeyArray,
    x: Float[Array, "samples d_in"],
    n: int,
    l1_coeff: Float[Array, ""] | float,
    n_steps: Int[Array, ""] | int = 300,
    batch_size: int = 256,
    n_iterations: int = 50,
) -> Float[Array, "n d_in"]:
    """Learns online with non-negative codes (Mairal, Bach, Ponce and Sapiro 2010).

    Each step computes FISTA codes z of a random batch for ||x - zD||^2 + l1_coeff ||z||_1, z >= 0,
    then A <- .98 A + z'z / batch and B <- .98 B + z'x / batch, then each row in turn,
    d_j <- unit(d_j + (b_j - a_j D) / a_jj). A row that is never used restarts at a sample.

    Args:
        key: of the first rows (samples) and of the batches.
        x: data.
        n: number of rows.
        l1_coeff: in units of squared error per unit of code; traced.
        n_steps: number of batches; traced.
        batch_size: samples a batch, drawn with replacement.
        n_iterations: FISTA steps for each batch.

    Returns:
        Unit rows.
    """

    def row(j, D, A, B):
        size = A[j, j]
        moved = D[j] + (B[j] - A[j] @ D) / jnp.maximum(size, 1e-12)
        return D.at[j].set(jnp.where(size > 1e-9, unit_rows(moved[None])[0], D[j]))

    def step(i, carry):
        D, A, B = carry
        drawn = jax.random.randint(jax.random.fold_in(batches, i), (batch_size,), 0, x.shape[0])
        batch = x[drawn]
        z = fista(batch, D, l1_coeff, quick_lipschitz(D), n_iterations)
        A, B = (_FORGET * old + z.T @ new / batch_size for old, new in ((A, z), (B, batch)))
        D = jax.lax.fori_loop(0, n, lambda j, D: row(j, D, A, B), D)
        used = jnp.diag(A) > 1e-6 * jnp.diag(A).max()
        fresh = unit_rows(batch[jnp.arange(n) % batch_size])
        return jnp.where(used[:, None], D, fresh), A, B

    start = unit_rows(x[sample_order(named_key(key, "start"), x, n)])
    batches = named_key(key, "batches")
    empty = (jnp.zeros((n, n)), jnp.zeros((n, x.shape[1])))
    return jax.lax.fori_loop(0, n_steps, step, (start, *empty))[0]


@partial(jax.jit, static_argnames=("n", "k", "n_steps"))
def learn_mod(
    key: PRNGKeyArray, x: Float[Array, "samples d_in"], n: int, k: int = 4, n_steps: int = 30
) -> tuple[Float[Array, "n d_in"], Float[Array, " n_steps"]]:
    """Learns by the method of optimal directions (Engan, Aase and Husøy 1999), non-negative codes.

    Alternates k-sparse OMP codes Z and least squares D = argmin ||X - ZD||^2, whose rows are then
    scaled to length 1 and codes by the inverse. A sample keeps its old code where that is better,
    so the residual never rises. A row that no sample uses stays.

    Args:
        key: of the first rows, which are samples.
        x: data, all used in each step.
        n: number of rows.
        k: largest number of rows that a sample uses (static).
        n_steps: number of alternations.

    Returns:
        Unit rows, and the mean squared residual (summed over d_in) after each step.
    """

    def rows(D: Array, Z: Array) -> tuple[Array, Array]:
        gram = Z.T @ Z
        # The ridge pulls towards the old rows, not to zero: the residual falls at any ridge.
        ridge = 1e-6 * (jnp.trace(gram) / n + 1e-12) * jnp.eye(n)
        D = D + solve_positive(gram + ridge, Z.T @ (x - Z @ D))
        length = jnp.sqrt(jnp.sum(D**2, axis=1))
        length = jnp.where(length > 0, length, 1.0)
        return D / length[:, None], Z * length

    return alternate(key, x, n, k, n_steps, rows)


def alternate(
    key: PRNGKeyArray,
    x: Float[Array, "samples d_in"],
    n: int,
    k: int,
    n_steps: int,
    rows: Callable[[Array, Array], tuple[Array, Array]],
    positive: bool = True,
) -> tuple[Float[Array, "n d_in"], Float[Array, " n_steps"]]:
    """Alternates OMP codes and new rows as in :func:`learn_mod`.

    Args:
        key, x, n, k, n_steps: as there.
        rows: (D, Z) -> new unit rows and codes, of no larger residual.
        positive: whether codes are non-negative.
    """

    def error(Z, D):
        return jnp.sum((x - Z @ D) ** 2, axis=1)

    def step(carry, _):
        D, Z = carry
        new = orthogonal_matching_pursuit(x, D, k, k, positive)
        Z = jnp.where((error(new, D) < error(Z, D))[:, None], new, Z)
        D, Z = rows(D, Z)
        return (D, Z), error(Z, D).mean()

    start = unit_rows(x[sample_order(key, x, n)])
    empty = jnp.zeros((x.shape[0], n), x.dtype)
    (D, _), residuals = jax.lax.scan(step, (start, empty), length=n_steps)
    return D, residuals
