"""Loss and gradients of plain SAEs in two kernels that never write the codes to memory.

Of an SAE with x_hat = ReLU(x E^T + b) D + c and the loss ||x - x_hat||^2 + sum cost_i z_i the first
kernel computes the errors, sample by sample, the second the gradients, latent by latent; both make
the codes z again from a tile of x and a tile of latents (as attention does with its scores: Dao et
al. 2022, "FlashAttention"). That is one product more than the plain step takes, and the memory of
z, its gradient and pre-activations less. In float32 and on a CPU by Pallas' interpreter, which is
only there to be compared with.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array

from .by_hand import with_gradients
from .tiles import tile_of


def _errors(x: Any, E: Any, b: Any, D: Any, c: Any, out: Any) -> None:
    """The kernel of x_hat - x for one tile of samples, over all tiles of latents."""
    d_sae = D.shape[0]
    tile, samples = tile_of(d_sae), x[...]

    def add(i: Array, x_hat: Array) -> Array:
        at = pl.ds(i * tile, tile)
        z = jax.nn.relu(jnp.dot(samples, E[at, :].T) + b[at, :].T)
        return x_hat + jnp.dot(z, D[at, :])

    out[...] = jax.lax.fori_loop(0, d_sae // tile, add, c[...] - samples)


def _gradients(
    x: Any, e: Any, E: Any, b: Any, D: Any, cost: Any, dE: Any, db: Any, dD: Any, used: Any
) -> None:
    """The kernel of one tile of latents, over all tiles of samples: gradients of the mean loss, and
    the mean of z."""
    n = x.shape[0]
    tile, enc, dec, bias, price = tile_of(n), E[...], D[...], b[...], cost[...]

    def add(i: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        at = pl.ds(i * tile, tile)
        x_i, e_i = x[at, :], 2 * e[at, :]
        z = jax.nn.relu(jnp.dot(enc, x_i.T) + bias)
        dz = jnp.where(z > 0, jnp.dot(dec, e_i.T) + price, 0.0)
        each = jnp.dot(dz, x_i), dz.sum(1, keepdims=True), jnp.dot(z, e_i)
        return tuple(s + a for s, a in zip(sums, (*each, z.sum(1, keepdims=True)), strict=True))

    zeros = tuple(jnp.zeros_like(part) for part in (enc, bias, dec, bias))
    sums = jax.lax.fori_loop(0, n // tile, add, zeros)
    for ref, total in zip((dE, db, dD, used), sums, strict=True):
        ref[...] = total / n


def _passes(x: Array, E: Array, b: Array, D: Array, c: Array, cost: Array) -> tuple[Any, ...]:
    """The mean loss, and the gradients of everything but x."""
    (n, d_in), d_sae = x.shape, b.shape[0]
    b, cost = b[:, None], cost[:, None]  # a tile has two axes

    backend = jax.default_backend()
    params = pltriton.CompilerParams() if backend == "gpu" else None

    def call(kernel: Any, grid: int, ins: list[Any], outs: Any, shapes: Any) -> Any:
        return pl.pallas_call(
            kernel, shapes, grid=(grid,), in_specs=ins, out_specs=outs,
            interpret=backend == "cpu", compiler_params=params,
        )  # fmt: skip

    def whole(*shape: int) -> Any:
        return pl.BlockSpec(shape, lambda i: (0, 0))

    def tiles(rows: int, columns: int) -> Any:
        return pl.BlockSpec((tile_of(rows), columns), lambda i: (i, 0))

    def like(*arrays: Array) -> list[Any]:
        return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]

    latents, numbers, samples = tiles(d_sae, d_in), tiles(d_sae, 1), tiles(n, d_in)
    (e,) = call(
        _errors, n // tile_of(n),
        [samples, whole(d_sae, d_in), whole(d_sae, 1), whole(d_sae, d_in), whole(1, d_in)],
        [samples], like(x),
    )(x, E, b, D, c[None])  # fmt: skip
    dE, db, dD, used = call(
        _gradients, d_sae // tile_of(d_sae),
        [whole(n, d_in), whole(n, d_in), latents, numbers, latents, numbers],
        [latents, numbers, latents, numbers], like(E, b, D, b),
    )(x, e, E, b, D, cost)  # fmt: skip
    loss = (e**2).sum() / n + (cost * used).sum()
    return loss, (dE, db[:, 0], dD, 2 * e.sum(0) / n, used[:, 0])


fused_loss = with_gradients(_passes)
"""(x, E, b, D, c, cost) -> the mean of ||x - ReLU(x E^T + b) D - c||^2 + sum cost_i z_i, of E and
D `[d_sae, d_in]`; x `[batch, d_in]` has no gradient."""
