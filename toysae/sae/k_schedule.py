"""TopK whose k falls to its final value during training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from .activations import Act, Activation, TopK, check_k
from .component import Hyper, Hypers, Stats


@dataclass(frozen=True)
class AnnealedTopK(Activation):
    """TopK with k moving linearly from `k_start` to `k` over the first `k_anneal` of training,
    so that more latents are used early on; k from then on and at inference. k need not be whole
    on the way: the largest whole number in it counts."""

    hypers: ClassVar = (
        *TopK.hypers,
        Hyper("k_start", low=1),
        Hyper("k_anneal", default=0.5, low=0.0, high=1.0),
    )

    selects = True

    def apply(self, pre_acts: Array, act: Act, run: Stats, h: Hypers) -> Array:
        left = jnp.maximum(1 - run["progress"] / jnp.maximum(h["k_anneal"], 1e-9), 0.0)
        k = h["k"] + (h["k_start"] - h["k"]) * left
        return TopK().apply(pre_acts, act, run, {"k": jnp.floor(k)})

    def check_numbers(self, d_sae: int, h: Mapping[str, float]) -> None:
        check_k(self, d_sae, h["k"])
        check_k(self, d_sae, h["k_start"], False, "k_start")
