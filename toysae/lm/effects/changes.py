"""Changes of one latent while a model runs, and checks of the tokens that the model reads."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from ...errors import require
from ..models.forward import LM, check_tokens
from ..models.sites import parse_site, width
from ..saes.site_sae import SiteSAE, Spliced, spliced

TokenArray = Int[Array | np.ndarray, "n_seq n_ctx"]
Lengths = Int[Array | np.ndarray, " n_seq"]


@dataclass(frozen=True)
class Change:
    """Multiplies a latent, or sets it to a value at every position.

    Attributes:
        times: what z is multiplied by: 0 ablates the latent (x - z d), -4 writes A - 5 a X.
        pin: the value that z is set to at every position, in units of z, as in Towards
            Monosemanticity (Bricken et al. 2023); `times` is then ignored.
    """

    times: float = 0.0
    pin: float | None = None

    def __post_init__(self) -> None:
        for name, value in {"times": self.times, "pin": self.pin}.items():
            require(value is None or math.isfinite(value), f"{name} {value} is not finite")

    @property
    def everywhere(self) -> bool:
        """Whether it also changes activations where the latent does not fire."""
        return self.pin is not None

    def __str__(self) -> str:
        if self.pin is not None:
            return f"pinned to {self.pin:g}"
        return "ablated" if self.times == 0 else f"times {self.times:g}"


def latent_edit(sae: SiteSAE, latent: int | None, change: Change) -> Spliced:
    """The edit that changes one latent, or nothing if `latent` is None, and keeps the SAE's error.
    All latents and numbers share one compiled program."""
    d_sae = len(sae.W_dec)
    times, pinned = np.ones(d_sae, np.float32), np.full(d_sae, np.nan, np.float32)
    if latent is not None and change.pin is not None:
        pinned[latent] = change.pin
    elif latent is not None:
        times[latent] = change.times
    return spliced(sae, times=jnp.asarray(times), pinned=jnp.asarray(pinned), error=True)


def check_fits(model: LM, sae: SiteSAE) -> None:
    """Refuses an SAE that cannot be of a site of the model.

    Raises:
        ToysaeError: no such site, or another width.
    """
    d, d_in = width(parse_site(sae.site, model.config), model.config), sae.sae.spec.d_in
    require(d_in == d, f"the SAE reads {d_in} dimensions, {sae.site} of {model.name} has {d}")


def checked_text(
    model: LM, tokens: TokenArray, lengths: Lengths | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (token ids, tokens of each sequence): all `n_ctx` if `lengths` is None.

    Raises:
        ToysaeError: no sequence, ids that the model does not have, lengths that do not fit.
    """
    ids = np.asarray(tokens, np.int32)
    n, n_ctx = ids.shape
    require(n > 0, "there are no sequences to run")
    check_tokens(model, ids)
    sizes = np.full(n, n_ctx) if lengths is None else np.asarray(lengths)
    fits = len(sizes) == n and sizes.min() >= 1 and sizes.max() <= n_ctx
    require(fits, f"lengths must be {n} numbers of 1 to {n_ctx}")
    return ids, sizes


def token_batches(
    tokens: Int[np.ndarray, "n n_ctx"], counted: Bool[np.ndarray, "n n_ctx"], batch_size: int
) -> Iterator[tuple[slice, Array, Array]]:
    """Yields (which sequences, tokens `[b, n_ctx]`, the positions that count `[b, n_ctx]`). All
    batches have one shape, the last filled up with positions that do not count.

    Raises:
        ToysaeError: a batch size below 1.
    """
    require(batch_size >= 1, f"batch_size {batch_size} must be at least 1")
    n, size = len(tokens), min(batch_size, len(tokens))
    for start in range(0, n, size):
        some = slice(start, min(start + size, n))
        pad = ((0, size - (some.stop - start)), (0, 0))
        yield some, jnp.asarray(np.pad(tokens[some], pad)), jnp.asarray(np.pad(counted[some], pad))
