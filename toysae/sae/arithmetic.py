"""The products of a training step: in float32, with bfloat16 factors, or fused.

"float32" takes dense products or, on a CPU and while few latents are active, sparse ones
(:mod:`toysae.sae.sparse`), whichever is faster; "dense" and "sparse" say which. They differ in the
order of sums alone.

With "bfloat16" both factors are rounded to 8 bits and the sums are kept in float32, as autocast
does (Micikevicius et al. 2018, "Mixed precision training"); parameters, Adam and all else stay in
float32. "float32" leaves it to jax's `jax_default_matmul_precision`. "fused" is float32 too, with
the loss and its gradients from kernels of their own (:mod:`toysae.sae.kernels`); products elsewhere
are plain ones.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float

FUSED, SPARSE, DENSE = "fused", "sparse", "dense"
ARITHMETICS = ("float32", DENSE, SPARSE, "bfloat16", FUSED)


def product(
    arithmetic: str, a: Float[Array, "*batch k"], b: Float[Array, "k n"]
) -> Float[Array, "*batch n"]:
    """The dense product a b, in one of :data:`ARITHMETICS`."""
    return _rounded_product(a, b) if arithmetic == "bfloat16" else a @ b


@jax.custom_vjp
def _rounded_product(a: Array, b: Array) -> Array:
    return _forward(a, b)[0]


def _forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return _contract(a, b, 0), (a, b)


def _backward(factors: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    a, b = factors
    g = g.astype(jnp.bfloat16)
    rows, slopes = (m.reshape(-1, m.shape[-1]) for m in (a, g))
    return _contract(g, b, 1), _over_samples(rows, slopes)


def _over_samples(a: BFloat16[Array, "n k"], b: BFloat16[Array, "n m"]) -> Float[Array, "k m"]:
    """The product a^T b. A CPU contracts both along their columns at half the rate, so there the
    narrower of the two is transposed first."""
    if jax.default_backend() != "cpu":
        dims = (((0,), (0,)), ((), ()))
        return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
    if a.shape[1] <= b.shape[1]:
        return _contract(_transposed(a), b, 0)
    return jax.lax.optimization_barrier(_contract(_transposed(b), a, 0)).T


def _transposed(m: BFloat16[Array, "n k"]) -> BFloat16[Array, "k n"]:
    """The transpose, written out as a list, or XLA would fold it into the product again."""
    return jax.lax.optimization_barrier(m.T.reshape(-1)).reshape(m.T.shape)


_rounded_product.defvjp(_forward, _backward)


def _contract(a: BFloat16[Array, "*batch k"], b: BFloat16[Array, "_ _"], axis: int) -> Array:
    """Sums over a's last axis and b's `axis`, in float32."""
    dims = (((a.ndim - 1,), (axis,)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
