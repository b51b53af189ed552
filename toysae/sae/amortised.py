"""Encoders deeper than one linear map: an MLP, and learned iterations of ISTA."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from ..checked import integer
from ..errors import require
from ..keys import named_key
from .component import Encoding, Hyper, Hypers, Weights
from .encoders import PRE_ACTS, Encoder, Shift, affine
from .fista import exact_lipschitz

_BRANCH = 0.1


@dataclass(frozen=True)
class MLP(Encoder):
    """pre_acts = x W_enc + b_enc + g_n(... g_1(x)) W_out with g_i(y) = GELU(y W_hidden_i + b).

    A deeper encoder (compare O'Neill et al. 2024, arXiv 2411.13117): smooth hidden layers and a
    linear last one, around a linear skip. It starts as the linear encoder of the given
    directions, plus a branch of about a tenth of its size: hidden weights are N(0, 2 / fan_in),
    W_out is N(0, 0.01 / fan_in), biases 0.

    Attributes:
        width_factor: width of the hidden layers, in units of d_in.
        n_hidden: number of hidden layers.
    """

    width_factor: float = 4.0
    n_hidden: int = 1
    provides: ClassVar = PRE_ACTS

    def __post_init__(self) -> None:
        require(self.width_factor > 0, f"MLP width_factor {self.width_factor} must be above 0")
        require(self.n_hidden != 0, "MLP n_hidden 0: without a hidden layer, use encoder=Untied()")
        integer("MLP n_hidden", self.n_hidden, 1, 100)

    def latent_axes(self) -> Mapping[str, tuple[int, ...]]:
        hidden = (f"{kind}_hidden_{i}" for i in range(self.n_hidden) for kind in ("W", "b"))
        return {"W_enc": (-1,), "b_enc": (-1,), "W_out": (-1,), **dict.fromkeys(hidden, ())}

    def init(self, key: PRNGKeyArray, enc_rows: Array, h: Hypers) -> dict[str, Array]:
        d_sae, d_in = enc_rows.shape
        width = max(1, round(self.width_factor * d_in))
        enc = {"W_enc": enc_rows.T, "b_enc": jnp.zeros(d_sae)}
        fan_in = d_in
        for i in range(self.n_hidden):
            W = jax.random.normal(named_key(key, f"hidden {i}"), (fan_in, width))
            enc |= {f"W_hidden_{i}": W * (2 / fan_in) ** 0.5, f"b_hidden_{i}": jnp.zeros(width)}
            fan_in = width
        W_out = jax.random.normal(named_key(key, "out"), (fan_in, d_sae))
        return {**enc, "W_out": W_out * (_BRANCH / fan_in**0.5)}

    def encode(self, w: Weights, x: Array, shift: Shift, h: Hypers) -> Encoding:
        y = jax.nn.gelu(affine(w, x, shift, w.enc["W_hidden_0"], w.enc["b_hidden_0"]))
        for i in range(1, self.n_hidden):
            y = jax.nn.gelu(affine(w, y, None, w.enc[f"W_hidden_{i}"], w.enc[f"b_hidden_{i}"]))
        return Encoding(
            affine(w, x, shift, w.enc["W_enc"], w.enc["b_enc"]) + w.product(y, w.enc["W_out"])
        )

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        # Each layer before and after its GELU, and a gradient.
        return 3 * batch * self.n_hidden * max(1, round(self.width_factor * d_in))


@dataclass(frozen=True)
class LISTA(Encoder):
    """Learned ISTA (Gregor and LeCun 2010): pre_t = x W_enc + ReLU(pre_{t-1}) S + b_enc.

    The pre-activations of the last step are returned; the activation then makes z. It starts as
    `n_steps` iterations of ISTA from zero for ||x - zD||^2 + lista_l1 ||z||_1 with D the initial
    encoder directions: W_enc = D^T / L, S = 1 - D D^T / L, b_enc = -lista_l1 / (2 L), L the
    largest eigenvalue of D D^T. S takes d_sae^2 numbers, for each step if not shared.

    Attributes:
        n_steps: iterations; 1 is a linear encoder.
        shared: one W_enc, S and b_enc for all steps, as in the paper, or each its own (stacked
            along a leading axis).
    """

    n_steps: int = 3
    shared: bool = True
    provides: ClassVar = PRE_ACTS
    hypers: ClassVar = (Hyper("lista_l1", default=0.1, low=0.0),)

    def __post_init__(self) -> None:
        integer("LISTA n_steps", self.n_steps, 1, 1_000)

    def latent_axes(self) -> Mapping[str, tuple[int, ...]]:
        mixing = {"S": (-2, -1)} if self.n_steps > 1 else {}
        return {"W_enc": (-1,), "b_enc": (-1,), **mixing}

    def init(self, key: PRNGKeyArray, enc_rows: Array, h: Hypers) -> dict[str, Array]:
        d_sae = enc_rows.shape[0]
        lipschitz = exact_lipschitz(enc_rows)
        b_enc = jnp.zeros(d_sae) - h["lista_l1"] / (2 * lipschitz)
        enc = {"W_enc": enc_rows.T / lipschitz, "b_enc": b_enc}
        if self.n_steps > 1:
            enc["S"] = jnp.eye(d_sae) - enc_rows @ enc_rows.T / lipschitz
        if self.shared:
            return enc
        times = {"W_enc": self.n_steps, "b_enc": self.n_steps, "S": self.n_steps - 1}
        return {name: jnp.stack([array] * times[name]) for name, array in enc.items()}

    def encode(self, w: Weights, x: Array, shift: Shift, h: Hypers) -> Encoding:
        def drive(t: int) -> Array:
            W, b = w.enc["W_enc"], w.enc["b_enc"]
            return affine(w, x, shift, W, b) if self.shared else affine(w, x, shift, W[t], b[t])

        pre = first = drive(0)
        for t in range(1, self.n_steps):
            S = w.enc["S"] if self.shared else w.enc["S"][t - 1]
            pre = (first if self.shared else drive(t)) + jax.nn.relu(pre) @ S
        return Encoding(pre)

    def working_floats(self, batch: int, d_in: int, d_sae: int) -> int:
        # Each further step's codes and their gradient; the sum of the gradients of S.
        return (self.n_steps - 1) * 2 * batch * d_sae + (self.n_steps > 1) * d_sae**2
