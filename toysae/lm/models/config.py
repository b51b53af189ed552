"""The architecture of a language model of any family: all that shapes the compiled program."""

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MLPAct = Literal["gelu", "gelu_new", "silu", "relu"]


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding (Su et al. 2021), the two halves of a head rotated together.

    Attributes:
        dims: how many dimensions of each head are rotated, from the first on.
        base: of the wavelengths.
        factor: long wavelengths are stretched by it; 1 for none.
        kind: "linear" stretches all wavelengths; "llama3" those above `n_ctx / low` positions and,
            in part, those between `n_ctx / high` and that.
        low, high, n_ctx: of "llama3"; `n_ctx` is the original context.
    """

    dims: int
    base: float
    factor: float = 1.0
    kind: Literal["linear", "llama3"] = "linear"
    low: float = 1.0
    high: float = 4.0
    n_ctx: int = 8192

    def frequencies(self) -> Float[np.ndarray, " half"]:
        """Radians per position, `[dims / 2]`."""
        plain = self.base ** -(np.arange(0, self.dims, 2) / self.dims)
        if self.kind == "linear":
            return plain / self.factor
        turns = self.n_ctx * plain / (2 * math.pi)
        share = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return plain * (share + (1 - share) / self.factor)

    def angles(self, n: int) -> Float[Array, "n half"]:
        """The angles of positions 0 to n - 1, in radians."""
        return jnp.asarray(np.outer(np.arange(n), self.frequencies()), jnp.float32)


@dataclass(frozen=True)
class LMConfig:
    """A decoder-only transformer.

    Attributes:
        family: "gpt-neox", "gpt2" or "llama".
        n_layers, d_model, n_heads, n_kv_heads, d_head, d_mlp, n_vocab: sizes.
        n_ctx: the positions it was trained on.
        act: the nonlinearity of the MLP.
        norm: LayerNorm, or RMSNorm.
        norm_eps: added to the variance.
        parallel: attention and MLP read the same residual stream; there is no `hook_resid_mid`.
        gated: the MLP's hidden layer is act(x W_gate) * (x W_in).
        rotary: None where positions are learned.
    """

    family: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    n_vocab: int
    n_ctx: int
    act: MLPAct
    norm: Literal["layer", "rms"]
    norm_eps: float
    parallel: bool = False
    gated: bool = False
    rotary: Rotary | None = None
