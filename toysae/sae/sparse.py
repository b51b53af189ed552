"""Products that touch active latents alone: those of dense ones, but for the order of sums.

At an L0 of ten of four thousand latents the encoder's product is the only one of a training step
that needs every latent. The other four (reconstruction, and the gradients of z, decoder and
encoder) are sums over the active latents of each sample, which compiled loops add up
(:mod:`.sparse_kernels`); XLA's own gathers and scatters take longer than the dense products.
"""

import importlib.util
import platform
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .by_hand import with_gradients

NEEDS = "pip install numba"
_TRIED = ("x86_64", "AMD64")
_SHARE_OF_ERROR = 1e-5


def encoding_product(
    x: Float[Array, "*batch d_in"], W: Float[Array, "d_in d_sae"]
) -> Float[Array, "*batch d_sae"]:
    """x W, a dense product whose gradient is expected to be 0 nearly everywhere."""
    return _encoded(x.reshape(-1, x.shape[-1]), W).reshape(*x.shape[:-1], W.shape[1])


def decoding_product(
    z: Float[Array, "*batch n"],
    W: Float[Array, "n d_in"],
    live: Float[Array, "*batch n"] | None = None,
) -> Float[Array, "*batch d_in"]:
    """z W, from the entries of z that are not 0.

    The gradient of z is 0 where `live` is 0, or z if it is not given: it is the whole one for
    activations that let none through there.
    """
    flat, mask = (m.reshape(-1, z.shape[-1]) for m in (z, z if live is None else live))
    return _decoded(flat, jax.lax.stop_gradient(mask), W).reshape(*z.shape[:-1], W.shape[1])


def _call(name: str, *shapes: tuple[int, ...]) -> Callable[..., Any]:
    """The loops of this name, which read and write float32 whatever they are given; vmap gives
    their arrays leading axes, of length 1 where all share."""
    kinds = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    call = jax.ffi.ffi_call(f"toysae_sparse_{name}", kinds, vmap_method="expand_dims")
    return lambda *arrays: call(*(array.astype(jnp.float32) for array in arrays))


@jax.custom_vjp
def _encoded(x: Array, W: Array) -> Array:
    return x @ W


def _encoded_forward(x: Array, W: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ W, (x, W)


def _encoded_backward(factors: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, W = factors
    (dW,) = _call("outer", W.T.shape)(x, g)
    return g @ W.T, dW.T  # of data: XLA leaves the first out


_encoded.defvjp(_encoded_forward, _encoded_backward)


@jax.custom_vjp
def _decoded(z: Array, live: Array, W: Array) -> Array:
    return _call("decode", (z.shape[0], W.shape[1]))(z, W)[0]


def _decoded_forward(z: Array, live: Array, W: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return _decoded(z, live, W), (z, live, W)


def _decoded_backward(factors: tuple[Array, Array, Array], r: Array) -> tuple[Array, ...]:
    z, live, W = factors
    dz, dW = _call("decode_back", z.shape, W.shape)(z, live, W, r)
    return dz, jnp.zeros_like(live), dW


_decoded.defvjp(_decoded_forward, _decoded_backward)


def _passes(
    x: Array, z: Array, E: Array, b: Array, D: Array, c: Array, cost: Array
) -> tuple[Array, tuple[Array, ...]]:
    (n_latents, d_in), latents, inputs = D.shape, (1, D.shape[0]), (1, D.shape[1])
    loss, dE, db, dD, dc, used = _call(
        "plain", (1, 1), D.shape, latents, D.shape, inputs, latents
    )(x, z, D, c.reshape(inputs), cost.reshape(latents))  # fmt: skip
    return loss[0, 0], (dE, db.reshape(n_latents), dD, dc.reshape(d_in), used.reshape(n_latents))


plain_loss = with_gradients(_passes)
"""(x, z, E, b, D, c, cost) -> the mean of ||x - z D - c||^2 + sum cost_i |z_i|, of E and D
`[d_sae, d_in]` and z `[batch, d_sae]`, which is x E^T + b wherever it is not 0: its gradient is
that of E and b. Every active latent is visited once; x has no gradient."""


@cache
def missing() -> str:
    """Why there are no sparse steps here, as the end of a sentence; "" if there are.

    The first call loads the loops, which takes one to two seconds, and compares them with dense
    products once.
    """
    if jax.default_backend() != "cpu":
        return f"a {jax.default_backend()} takes dense ones"
    if platform.machine() not in _TRIED:
        return f"they have not been tried on {platform.machine()}"
    if importlib.util.find_spec("numba") is None:
        return f"Numba is not installed: {NEEDS}"
    try:
        from . import sparse_kernels

        sparse_kernels.register()
        error = _error()
    except Exception as raised:  # whatever another version of jax or Numba does not like
        return f"they cannot be loaded ({type(raised).__name__}: {' '.join(str(raised).split())})"
    if not error < _SHARE_OF_ERROR:
        return f"they fail their own check (an error of {error:.1g})"
    return ""


def _error() -> float:
    """The largest error of the loops beside dense products, of the largest number each."""
    draw = np.random.default_rng(0).normal
    x, W, D = (jnp.asarray(draw(size=size), jnp.float32) for size in ((6, 5), (5, 9), (9, 5)))

    cost = jnp.linspace(0.1, 1, 9)

    def by_parts(encode: Callable, decode: Callable, W: Array, D: Array) -> Array:
        z = jax.nn.relu(encode(x, W))
        return jnp.mean(jnp.sum((x - decode(z, D)) ** 2, -1)) + z.mean(0) @ cost

    def in_one_go(W: Array, D: Array) -> Array:
        z = jax.lax.stop_gradient(jax.nn.relu(x @ W))
        return plain_loss(x, z, W.T, jnp.zeros(9), D, jnp.zeros(5), cost)

    dense, sparse, once = (
        jax.tree.leaves(jax.device_get(jax.jit(jax.value_and_grad(loss, (0, 1)))(W, D)))
        for loss in (
            partial(by_parts, jnp.matmul, jnp.matmul),
            partial(by_parts, encoding_product, decoding_product),
            in_one_go,
        )
    )
    pairs = [*zip(dense, sparse, strict=True), *zip(dense, once, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)
