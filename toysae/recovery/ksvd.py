"""K-SVD and its non-negative variant, on device."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from toysae.linalg import top_eigenvector
from toysae.recovery.dictionary_learning import alternate
from toysae.worlds.dictionaries import unit_rows

_N_ALTERNATIONS = 10
_TIE = 4e-6

_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

Learned = tuple[Float[Array, "n d_in"], Float[Array, "samples n"]]


@partial(jax.jit, static_argnames=("n", "k", "n_steps", "positive"))
def learn_ksvd(
    key: PRNGKeyArray,
    x: Float[Array, "samples d_in"],
    n: int,
    k: int = 4,
    n_steps: int = 30,
    positive: bool = True,
) -> tuple[Float[Array, "n d_in"], Float[Array, " n_steps"]]:
    """Learns by K-SVD with k-sparse codes (Aharon, Elad and Bruckstein 2006).

    Alternates OMP codes and :func:`update_rows`. A sample keeps its old code where that is better,
    so the residual never rises. It ends in a local minimum, often one with a few mixed rows:
    compare a few keys by their residual.

    Args:
        key, x, n, k, n_steps: as in :func:`toysae.recovery.dictionary_learning.learn_mod`.
        positive: non-negative codes (Aharon, Elad and Bruckstein 2005, NN-K-SVD, but with rows of
            any sign); else codes have any sign, and the sign of a row is arbitrary.

    Returns:
        Unit rows, and the mean squared residual (summed over d_in) after each step.
    """

    def rows(D: Array, Z: Array) -> Learned:
        return update_rows(x, D, Z, positive)

    return alternate(key, x, n, k, n_steps, rows, positive)


@partial(jax.jit, static_argnames="positive")
def update_rows(
    x: Float[Array, "samples d_in"],
    D: Float[Array, "n d_in"],
    Z: Float[Array, "samples n"],
    positive: bool = True,
) -> Learned:
    """Updates every row and its codes once, each by the best rank-one fit of the residual.

    Row j and the codes of the samples that use it become the fit of those samples' residual without
    it; codes of 0 stay 0. A row that no sample uses becomes the direction of the worst-represented
    sample, which it alone then codes.

    Args:
        x: data.
        D: unit rows.
        Z: codes.
        positive: see :func:`learn_ksvd`.

    Returns:
        New unit rows and codes; the total squared residual never rises.
    """

    def fitted(j: Array, D: Array, Z: Array, left: Array):
        without = left + Z[:, j, None] * D[j]
        own = jnp.where((Z[:, j] != 0)[:, None], without, 0.0)
        row, codes = _rank_one(own, D[j], positive)
        return D.at[j].set(row), Z.at[:, j].set(codes), without - codes[:, None] * row

    def replaced(j: Array, D: Array, Z: Array, left: Array):
        worst = jnp.argmax(jnp.sum(left**2, axis=1))
        length = jnp.sqrt(jnp.sum(x[worst] ** 2))
        D = D.at[j].set(jnp.where(length > 0, unit_rows(x[worst][None])[0], D[j]))
        return D, Z.at[worst].set(0.0).at[worst, j].set(length), left.at[worst].set(0.0)

    def update(j: Int[Array, ""], carry: tuple[Array, Array, Array]):
        return jax.lax.cond((carry[1][:, j] != 0).any(), fitted, replaced, j, *carry)

    D, Z, _ = jax.lax.fori_loop(0, D.shape[0], update, (D, Z, x - _matmul(Z, D)))
    return D, Z


def _rank_one(
    own: Float[Array, "samples d_in"], old: Float[Array, " d_in"], positive: bool
) -> tuple[Float[Array, " d_in"], Float[Array, " samples"]]:
    """Returns the unit row and the codes that leave the least residual of `own`.

    With codes of any sign it is the first right singular vector. Non-negative codes start from that
    vector, its negative and the old row, alternate codes and row, each the best given the other,
    and keep the best of the three. With the old row among them the residual never rises.
    """
    top = top_eigenvector(_matmul(own.T, own))
    if not positive:
        return top, _matmul(own, top)

    def codes_of(rows: Array) -> Array:
        return jnp.maximum(_matmul(own, rows.T), 0.0)

    def in_turn(_, rows: Array) -> Array:
        moved = unit_rows(_matmul(codes_of(rows).T, own))
        return jnp.where((moved != 0).any(1, keepdims=True), moved, rows)

    top = jnp.where(top @ old < 0, -top, top)  # its sign is arbitrary
    rows = jax.lax.fori_loop(0, _N_ALTERNATIONS, in_turn, jnp.stack([top, -top, old]))
    codes = codes_of(rows)
    # Starts that reach the same fit differ by rounding, which must not decide.
    best = jnp.argmax(jnp.sum(codes**2, axis=0) * (1 - _TIE * jnp.arange(3)))
    return rows[best], codes[:, best]
