"""True feature directions: unit rows `[n_features, d_in]` at any ratio n_features / d_in."""

from collections.abc import Iterator
from functools import partial
from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import draws
from ..errors import require
from ..keys import named_key
from ..linalg import orthonormal_rows


@jax.jit
def unit_rows(rows: Float[Array, "*batch n d"]) -> Float[Array, "*batch n d"]:
    """Rows scaled to length 1; a zero row stays zero, with a zero gradient."""
    square = jnp.sum(rows * rows, axis=-1, keepdims=True)
    return rows * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


@jax.jit
def safe_unit_rows(rows: Float[Array, "*batch n d"]) -> Float[Array, "*batch n d"]:
    """:func:`unit_rows` of rows so short or long that float32 could not square them.

    A zero row stays zero; a row with a NaN becomes NaN.
    """
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    return unit_rows(rows / jnp.where(largest == 0, 1, largest))


@partial(jax.jit, static_argnames=("n_features", "d_in"))
def sphere(key: PRNGKeyArray, n_features: int, d_in: int) -> Float[Array, "n_features d_in"]:
    """Draws independent directions, uniform on the unit sphere (interim report, 2022)."""
    return unit_rows(draws.normal(key, (n_features, d_in)))


def antipodal(key: PRNGKeyArray, n_features: int, d_in: int) -> Float[Array, "n_features d_in"]:
    """Pairs (f, -f), features 2i and 2i + 1; orthogonal to each other up to 2 d_in features.

    Raises:
        ToysaeError: n_features is odd.
    """
    require(n_features % 2 == 0, f"n_features {n_features} must be even for antipodal pairs")
    rows = jax.random.normal(key, (n_features // 2, d_in))
    if n_features // 2 <= d_in:
        rows = orthonormal_rows(rows)
    rows = unit_rows(rows)
    return jnp.stack([rows, -rows], axis=1).reshape(n_features, d_in)


def orthogonal(key: PRNGKeyArray, n_features: int, d_in: int) -> Float[Array, "n_features d_in"]:
    """Orthonormal directions.

    Raises:
        ToysaeError: more features than dimensions.
    """
    require(
        n_features <= d_in,
        f"n_features {n_features} orthogonal directions do not fit into d_in {d_in}: use the "
        "frame world, or at most d_in features",
    )
    return _orthonormal(key, n_features, d_in)


def frame(
    key: PRNGKeyArray, n_features: int, d_in: int, n_steps: int = 500
) -> Float[Array, "n_features d_in"]:
    """A low-coherence frame: the largest |cos| is pushed towards the Welch bound.

    Adam minimises a smooth maximum, log sum exp(beta cos^2) / beta over pairs, with beta rising
    from 10 to 1000. Every d_in rows start orthonormal. A step costs O(n_features^2 d_in).
    """
    blocks = [
        _orthonormal(jax.random.fold_in(key, start), min(d_in, n_features - start), d_in)
        for start in range(0, n_features, d_in)
    ]
    rows = jnp.concatenate(blocks)
    return rows if n_features <= d_in else _spread(rows, n_steps)


def welch_bound(n_features: int | np.integer, d_in: int | np.integer) -> float:
    """The least possible largest |cos| of `n_features` directions in `d_in` dimensions (Welch).

    Returns:
        ``sqrt((n - d) / (d (n - 1)))`` in [0, 1] (Welch 1974); 0 where they fit orthogonally.

    Raises:
        ToysaeError: a size is below 1.
    """
    require(n_features >= 1, f"n_features = {n_features!r}: give a positive integer")
    require(d_in >= 1, f"d_in = {d_in!r}: give a positive integer")
    if n_features <= d_in:
        return 0.0
    return sqrt((n_features - d_in) / (d_in * (n_features - 1)))


def cosine_blocks(
    directions: Float[np.ndarray, "n d_in"], rows: Int[np.ndarray, " m"]
) -> Iterator[tuple[Int[np.ndarray, " block"], Float[np.ndarray, "block n"]]]:
    """Cosines of some unit rows, given by number, with all rows, a block of rows at a time.

    Yields:
        The rows of the block, and their cosines `[block, n]`, those with themselves included;
        at most 2^23 cosines (or one row).
    """
    size = max(2**23 // len(directions), 1)
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        yield block, directions[block] @ directions.T


def nearest_cosines(directions: Float[np.ndarray, "n d_in"]) -> Float[np.ndarray, " n"]:
    """Returns each unit row's largest signed cosine to another row; NaN for a lone row."""
    if len(directions) < 2:
        return np.full(len(directions), np.nan, np.float32)
    nearest = []
    for block, cos in cosine_blocks(directions, np.arange(len(directions))):
        cos[np.arange(len(block)), block] = -np.inf
        nearest.append(cos.max(1))
    return np.concatenate(nearest)


@partial(jax.jit, static_argnames="n_steps")
def _spread(rows: Array, n_steps: int) -> Array:
    adam = optax.adam(optax.cosine_decay_schedule(0.02, n_steps))
    own = jnp.eye(rows.shape[0], dtype=bool)

    def loss(rows, beta):
        unit = unit_rows(rows)
        square = jnp.where(own, -jnp.inf, (unit @ unit.T) ** 2)
        return jax.nn.logsumexp(beta * square) / beta

    def step(carry, i):
        rows, state = carry
        updates, state = adam.update(jax.grad(loss)(rows, 10.0 * 100.0 ** (i / n_steps)), state)
        return (rows + updates, state), None

    (rows, _), _ = jax.lax.scan(step, (rows, adam.init(rows)), jnp.arange(n_steps))
    return unit_rows(rows)


def clusters(
    key: PRNGKeyArray, n_features: int, d_in: int, cosine: float = 0.8, size: int = 4
) -> Float[Array, "n_features d_in"]:
    """Near-duplicates: `size` neighbouring features share a centre, with mean cosine `cosine`.

    f = sqrt(cosine) centre + sqrt(1 - cosine) own, own orthogonal to the centre. Two features of
    a cluster have cosine `cosine` up to the chance overlap of their own directions.

    Raises:
        ToysaeError: a cosine outside [0, 1], a size below 1, fewer than 2 dimensions.
    """
    require(0 <= cosine <= 1, f"cosine {cosine} must be in [0, 1]")
    require(size >= 1, f"cluster size {size} must be at least 1")
    require(d_in >= 2, f"d_in {d_in} must be at least 2 for clusters")
    centres = sphere(named_key(key, "centres"), -(-n_features // size), d_in)
    centre = jnp.repeat(centres, size, axis=0)[:n_features]
    own = sphere(named_key(key, "own"), n_features, d_in)
    own = unit_rows(own - jnp.sum(own * centre, 1, keepdims=True) * centre)
    return unit_rows(jnp.sqrt(cosine) * centre + jnp.sqrt(1 - cosine) * own)


def privileged(
    key: PRNGKeyArray, n_features: int, d_in: int, basis_noise: float = 0.1
) -> Float[Array, "n_features d_in"]:
    """Noised unit vectors: feature i leans on coordinate i mod d_in.

    `basis_noise` is the length of the Gaussian noise added to the unit vector. The sign is
    positive for the first d_in features and changes after every d_in.

    Raises:
        ToysaeError: negative noise, or no noise and more than 2 d_in features (they would repeat).
    """
    require(basis_noise >= 0, f"basis_noise {basis_noise} must be at least 0")
    require(
        basis_noise > 0 or n_features <= 2 * d_in,
        f"n_features {n_features} unit vectors without noise repeat beyond 2 x d_in = {2 * d_in}: "
        "give basis_noise",
    )
    place = jnp.arange(n_features)
    sign = 1.0 - 2.0 * ((place // d_in) % 2)
    basis = sign[:, None] * jax.nn.one_hot(place % d_in, d_in)
    noise = jax.random.normal(key, (n_features, d_in)) / jnp.sqrt(d_in)
    return unit_rows(basis + basis_noise * noise)


def pairs(
    key: PRNGKeyArray, n_features: int, d_in: int, rho: float = 0.5
) -> Float[Array, "n_features d_in"]:
    """Pairs at exactly cosine `rho`, features 2i and 2i + 1.

    Different pairs are orthogonal where they all fit, else on random planes.

    Raises:
        ToysaeError: an odd n_features, rho outside [-1, 1], fewer than 2 dimensions.
    """
    require(n_features % 2 == 0, f"n_features {n_features} must be even for pairs")
    require(-1 <= rho <= 1, f"rho {rho} must be in [-1, 1]")
    a, b = _planes(key, n_features // 2, d_in)
    second = rho * a + jnp.sqrt(1 - rho**2) * b
    return unit_rows(jnp.stack([a, second], 1).reshape(n_features, d_in))


def circles(key: PRNGKeyArray, n_features: int, d_in: int) -> Float[Array, "n_features d_in"]:
    """Planes of two orthonormal directions each, features 2i and 2i + 1: the axes of a circle.

    Raises:
        ToysaeError: an odd n_features, or fewer than 2 dimensions.
    """
    return pairs(key, n_features, d_in, 0.0)


def low_rank(
    key: PRNGKeyArray, n_features: int, d_in: int, rank: int = 16
) -> Float[Array, "n_features d_in"]:
    """Random unit directions within a random subspace of `rank` dimensions.

    Raises:
        ToysaeError: a rank below 1 or over d_in.
    """
    require(1 <= rank <= d_in, f"rank {rank} must be in 1..d_in = {d_in}")
    inside = sphere(named_key(key, "inside"), n_features, rank)
    return unit_rows(inside @ _orthonormal(named_key(key, "subspace"), rank, d_in))


def _orthonormal(key: PRNGKeyArray, n: int, d_in: int) -> Array:
    return orthonormal_rows(jax.random.normal(key, (d_in, n)).T)


def _planes(key: PRNGKeyArray, n_planes: int, d_in: int) -> tuple[Array, Array]:
    """Orthonormal pairs `[n_planes, d_in]` each; all orthogonal if 2 n_planes <= d_in."""
    require(d_in >= 2, f"d_in {d_in} must be at least 2 for pairs")
    if 2 * n_planes <= d_in:
        both = _orthonormal(key, 2 * n_planes, d_in)
        return both[::2], both[1::2]
    a = sphere(named_key(key, "first"), n_planes, d_in)
    b = sphere(named_key(key, "second"), n_planes, d_in)
    return a, unit_rows(b - jnp.sum(a * b, 1, keepdims=True) * a)


def anisotropic_matrix(
    key: PRNGKeyArray, d_out: int, d_hidden: int, exponent: float
) -> Float[Array, "d_out d_hidden"]:
    """Draws a matrix whose i-th singular value is (i + 1)^-exponent, so that the largest is 1."""
    rank = min(d_out, d_hidden)
    left_key, right_key = jax.random.split(key)
    left = orthonormal_rows(jax.random.normal(left_key, (d_out, rank)).T)
    right = orthonormal_rows(jax.random.normal(right_key, (d_hidden, rank)).T)
    spectrum = (jnp.arange(rank) + 1.0) ** -exponent
    return (left.T * spectrum) @ right
