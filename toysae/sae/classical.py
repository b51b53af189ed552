"""Classical unsupervised directions `[n, d_in]`, as pure functions of a data batch.

Inits start from them and baselines score them. All but :func:`principal_axes` can be jitted and
vmapped over keys.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..keys import named_key
from ..linalg import Axes, polar, singular_axes, solve_positive
from ..worlds.dictionaries import unit_rows


def principal_axes(x: Float[Array, "n d_in"] | Float[np.ndarray, "n d_in"]) -> Axes:
    """Orthonormal axes of the centred data, strongest first, see :func:`.singular_axes`."""
    exact = np.asarray(x, np.float64)
    return singular_axes(exact - exact.mean(0))


def tile_signed(axes: Axes, n: int) -> Float[Array, "n d_in"]:
    """The axes up to their rank, then their negatives, repeated to `n` rows."""
    place = jnp.arange(n) % (2 * axes.rank)
    return jnp.where(place < axes.rank, 1.0, -1.0)[:, None] * axes.rows[place % axes.rank]


def towards_skew(
    rows: Float[Array, "n d_in"], x: Float[Array, "samples d_in"]
) -> Float[Array, "n d_in"]:
    """Rows turned so that the centred data are skewed along them: a feature that is mostly off
    and never negative is skewed towards its own side."""
    skew = (((x - x.mean(0)) @ rows.T) ** 3).mean(0)
    return jnp.where(skew < 0, -1.0, 1.0)[:, None] * rows


def k_means(
    key: PRNGKeyArray, x: Float[Array, "samples d_in"], n: int, n_steps: int = 10
) -> Float[Array, "n d_in"]:
    """Spherical k-means: unit centres of unit-normalised samples (Dhillon and Modha 2001).

    Lloyd's steps on sum_i max_j cos(x_i, c_j), which never falls. Starts at samples; a centre
    without samples stays. Memory is samples x n.
    """
    unit = unit_rows(x)

    def lloyd(_, centres):
        nearest = jnp.argmax(unit @ centres.T, axis=1)
        sums = jnp.zeros_like(centres).at[nearest].add(unit)
        return jnp.where((sums != 0).any(1, keepdims=True), unit_rows(sums), centres)

    return jax.lax.fori_loop(0, n_steps, lloyd, unit[sample_order(key, x, n)])


@partial(jax.jit, static_argnames="n")
def sample_order(key: PRNGKeyArray, x: Float[Array, "samples d_in"], n: int) -> Int[Array, " n"]:
    """Indices of `n` samples without replacement, zero samples last; then repeated."""
    order = jax.random.permutation(key, x.shape[0])
    is_zero = (x[order] == 0).all(1)
    order = order[jnp.argsort(is_zero, stable=True)]
    return order[jnp.arange(n) % x.shape[0]]


def fast_ica(
    key: PRNGKeyArray, x: Float[Array, "samples d_in"], axes: Axes, n_steps: int = 50
) -> Float[Array, "r d_in"]:
    """Unit columns of the mixing matrix, strongest first, turned towards their skew.

    Symmetric FastICA with g = tanh (Hyvärinen 1999): W <- polar(E[g(y) z^T] - diag(E g'(y)) W)
    on whitened z, y = W z.

    Args:
        key: of the first W.
        x: data.
        axes: their :func:`principal_axes`, by which they are whitened.
        n_steps: of W.

    Returns:
        r rows, of which the first `axes.rank` are independent components; the rest is arbitrary.
    """
    s = axes.lengths
    inside = (jnp.arange(s.shape[0]) < axes.rank).astype(x.dtype)
    whitening = axes.rows * (inside / jnp.maximum(s, s[0] * 1e-7))[:, None]
    z = (x - x.mean(0)) @ whitening.T * x.shape[0] ** 0.5
    # Directions without variance keep an identity block of their own, which tanh never leaves.
    noise = jax.random.normal(key, (s.shape[0],) * 2)
    W = polar(inside[:, None] * noise * inside + jnp.diag(1 - inside))

    def step(_, W):
        g = jnp.tanh(z @ W.T)
        return polar(g.T @ z / x.shape[0] - (1 - g**2).mean(0)[:, None] * W)

    W = jax.lax.fori_loop(0, n_steps, step, W)
    mixing = (W * s * inside) @ axes.rows
    mixing = mixing[jnp.argsort(-jnp.sum(mixing**2, 1))]
    return towards_skew(unit_rows(mixing), x)


def semi_nmf(
    key: PRNGKeyArray, x: Float[Array, "samples d_in"], n: int, n_steps: int = 20
) -> Float[Array, "n d_in"]:
    """Unit rows D of x ~ Z D with Z >= 0 and D free (Ding, Li and Jordan 2010).

    D by (ridged) least squares, Z <- Z sqrt(((xD')+ + Z(DD')-) / ((xD')- + Z(DD')+)), from a
    k-means start. Costs O(n^3 + samples n d_in) a step.
    """
    centres = k_means(key, x, n, 3)
    own = jax.nn.one_hot(jnp.argmax(unit_rows(x) @ centres.T, axis=1), n)

    def dictionary(Z):
        gram = Z.T @ Z
        ridge = 1e-5 * jnp.trace(gram) / n * jnp.eye(n)
        return solve_positive(gram + ridge, Z.T @ x)

    def step(_, Z):
        D = dictionary(Z)
        reach, gram = x @ D.T, D @ D.T
        up = jnp.maximum(reach, 0) + Z @ jnp.maximum(-gram, 0)
        down = jnp.maximum(-reach, 0) + Z @ jnp.maximum(gram, 0)
        return Z * jnp.sqrt((up + 1e-12) / (down + 1e-12))

    Z = jax.lax.fori_loop(0, n_steps, step, own + 0.2)
    return unit_rows(dictionary(Z))


def spectral_directions(
    key: PRNGKeyArray,
    x: Float[Array, "samples d_in"],
    n: int,
    oversample: int = 8,
    n_iterations: int = 30,
    n_partners: int = 64,
) -> Float[Array, "n d_in"]:
    """Top eigenvectors of pairwise reweighted covariances (Arora, Ge, Ma and Moitra 2015, alg. 3).

    M_uv = E[<x,u> <x,v> x x^T] for pairs of samples u, v is dominated by one feature where u and
    v share just that feature. Of `oversample * n` pairs those with the largest |eigenvalue gap|
    are chosen, within |cos| .9 of a chosen one only when no others are left. The paper draws pairs
    blindly and thresholds both eigenvalues; a fixed number of rows needs a ranking, and most blind
    pairs share nothing: here v is the most similar of `n_partners` samples.
    """
    centred, n_pairs = x - x.mean(0), oversample * n
    one = jax.random.randint(named_key(key, "first"), (n_pairs,), 0, x.shape[0])
    partners = jax.random.randint(named_key(key, "second"), (n_partners,), 0, x.shape[0])
    likeness = unit_rows(centred[one]) @ unit_rows(centred[partners]).T
    likeness = jnp.where(one[:, None] == partners, -jnp.inf, likeness)
    first, second = centred[one], centred[partners[likeness.argmax(1)]]
    weights = (first @ centred.T) * (second @ centred.T)

    def covariance(rows):
        return ((rows @ centred.T) * weights) @ centred / x.shape[0]

    def top(rows, deflation=lambda rows: jnp.zeros_like(rows)):
        def power(_, rows):
            return unit_rows(covariance(rows) - deflation(rows))

        rows = jax.lax.fori_loop(0, n_iterations, power, rows)
        return rows, jnp.sum(rows * (covariance(rows) - deflation(rows)), 1)

    start = unit_rows(jax.random.normal(named_key(key, "start"), (2, n_pairs, x.shape[1])))
    axes, first_value = top(start[0])
    _, second_value = top(
        start[1], lambda rows: (first_value * jnp.sum(axes * rows, 1))[:, None] * axes
    )
    chosen = _distinct(axes, jnp.abs(first_value) - jnp.abs(second_value), n)
    return towards_skew(axes[chosen], x)


def _distinct(rows: Float[Array, "m d_in"], score: Float[Array, " m"], n: int) -> Int[Array, " n"]:
    """Indices of the `n` best rows, chosen greedily; one near a chosen one comes last."""

    def choose(carry, _):
        nearest, free = carry
        rank = jnp.where(nearest < 0.9, score - score.min(), score - score.max() - 1)
        best = jnp.argmax(jnp.where(free, rank, -jnp.inf))
        nearest = jnp.maximum(nearest, jnp.abs(rows @ rows[best]))
        return (nearest, free.at[best].set(False)), best

    start = (jnp.zeros(rows.shape[0]), jnp.ones(rows.shape[0], bool))
    return jax.lax.scan(choose, start, length=n)[1]
