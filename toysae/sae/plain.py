"""The loss of plain SAEs by their arrays, as loops and kernels compute it in one go.

E and D `[d_sae, d_in]` encode and decode, z follows x E^T + b, x_hat = z D + c, and each latent has
a cost of its mean |z|.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .component import Hypers, Stats, Weights
from .encoders import Tied, Untied
from .objectives import Plain
from .penalties import L1, L1DecoderNorm, Penalty, Sum, coefficient_now, row_norms
from .spec import SAESpec

ENCODERS = (Untied, Tied)
LINEAR = (L1, L1DecoderNorm)
"""The penalties that are a cost of each latent's mean |z|."""


def is_plain(spec: SAESpec) -> bool:
    """Whether an SAE's reconstruction is computed from these arrays and z alone. By class: a class
    of the user's own may differ in its gradient."""
    selects = spec.activation.says("selects")
    return type(spec.encoder) in ENCODERS and selects and type(spec.objective) is Plain


def parts_of(penalty: Penalty) -> tuple[Penalty, ...]:
    """The penalties that add up."""
    return penalty.parts if isinstance(penalty, Sum) else (penalty,)


def other_parts(penalty: Penalty) -> Sum:
    """Those that are no cost of each latent's mean |z|."""
    return Sum(tuple(part for part in parts_of(penalty) if type(part) not in LINEAR))


def arrays_of(
    spec: SAESpec, w: Weights, run: Stats, h: Hypers
) -> tuple[
    Float[Array, "d_sae d_in"], Float[Array, " d_sae"],
    Float[Array, "d_sae d_in"], Float[Array, " d_in"], Float[Array, " d_sae"],
]:  # fmt: skip
    """E, b, D, c and the cost of each latent."""
    E = w.W_dec if isinstance(spec.encoder, Tied) else w.enc["W_enc"].T
    b = w.enc["b_enc"]
    if spec.decoder.bias == "pre":
        assert w.b_dec is not None
        b = b - E @ w.b_dec
    cost = jnp.zeros(spec.d_sae)
    for part in parts_of(spec.penalty):
        if type(part) in LINEAR:
            now = coefficient_now("l1", run, h)
            cost = cost + (now * row_norms(w.W_dec) if isinstance(part, L1DecoderNorm) else now)
    c = jnp.zeros(spec.d_in) if w.b_dec is None else w.b_dec
    return E, b, w.W_dec, c, cost
