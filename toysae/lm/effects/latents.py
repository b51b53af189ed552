"""Facts about single latents that follow from weights alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ...recovery import cosines
from ...recovery.geometry import encoder_rows
from ...worlds.dictionaries import safe_unit_rows
from ..models.forward import LM
from ..models.matrices import reading_matrix
from ..models.sites import Site, parse_site
from ..saes.site_sae import SiteSAE

_ROWS = 64  # latents at once: a row of effects is as wide as the vocabulary
RESIDUAL = (
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out",
)  # fmt: skip
"""Sites whose activations are, or are added to, the residual stream."""
Effects = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Facts:
    """Facts about one latent of an SAE.

    Attributes:
        latent: its number.
        axis: the coordinate that its decoder row is nearest to.
        axis_cos: the |cos| with that coordinate: 1 for a latent that is a neuron.
        nearest: the living latent whose decoder row is nearest; None if no other lives.
        nearest_cos: the cosine with that latent.
        enc_dec_cos: the cosine of what it reads and what it writes; None for an encoder without
            directions.
        promoted: (token id, effect on its logit), the largest first.
        suppressed: the same, the most negative first. Both are empty off the residual stream.
    """

    latent: int
    axis: int
    axis_cos: float
    nearest: int | None
    nearest_cos: float
    enc_dec_cos: float | None
    promoted: Effects = ()
    suppressed: Effects = ()


def logit_effects(
    model: LM, site: str, directions: Float[Array, "n d_in"]
) -> Float[Array, "n n_vocab"]:
    """The direct effect of directions on the logits, through the final norm's weight and the
    unembedding only, less its mean over the vocabulary, on which no prediction depends. The norm's
    division by the length of the residual stream is left out.

    Raises:
        ToysaeError: no such site.
    """
    parse_site(site, model.config)
    out = reading_matrix(model, Site(model.config.n_layers - 1, "hook_resid_post"))
    effects = directions.astype(jnp.float32) @ out.astype(jnp.float32)
    return effects - effects.mean(1, keepdims=True)


def latent_facts(
    sae: SiteSAE,
    model: LM,
    latents: Sequence[int] | Int[np.ndarray, " n"],
    alive: Bool[np.ndarray, " d_sae"],
    n_tokens: int = 10,
    n_vocab: int | None = None,
) -> list[Facts]:
    """Facts about some latents.

    Args:
        sae: of a site of the model.
        model: whose unembedding is used.
        latents: which.
        alive: which latents count as neighbours.
        n_tokens: promoted, and as many suppressed.
        n_vocab: token ids from this one on are padding of the model and are left out.
    """
    chosen = np.asarray(latents)
    rows, read = sae.W_dec[chosen], encoder_rows(sae.sae)
    units = np.asarray(safe_unit_rows(rows))
    axes = np.abs(units).argmax(1)
    near, near_cos = _nearest(sae.W_dec, chosen, alive)
    reads = None if read is None else np.asarray(jnp.sum(safe_unit_rows(read[chosen]) * units, 1))
    effects: list[tuple[Effects, Effects]] = [((), ())] * len(chosen)
    if parse_site(sae.site, model.config).name in RESIDUAL:
        effects = _extremes(model, sae.site, rows / sae.scale, n_tokens, n_vocab)
    return [
        Facts(
            int(latent), int(axes[i]), float(abs(units[i, axes[i]])),
            int(near[i]) if np.isfinite(near_cos[i]) else None, float(near_cos[i]),
            None if reads is None else float(reads[i]), *effects[i],
        )
        for i, latent in enumerate(chosen)
    ]  # fmt: skip


def _nearest(W_dec: Array, chosen: np.ndarray, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each latent the one with the largest cosine, and the cosine; -inf if there is none."""

    def of_row(index: Array) -> tuple[Array, Array]:
        cos = cosines(W_dec[index][None], W_dec)[0]
        cos = jnp.where(jnp.asarray(alive), cos, -jnp.inf).at[index].set(-jnp.inf)
        return cos.argmax(), cos.max()

    return jax.device_get(jax.lax.map(of_row, jnp.asarray(chosen), batch_size=_ROWS))


def _extremes(
    model: LM, site: str, rows: Array, n_tokens: int, n_vocab: int | None
) -> list[tuple[Effects, Effects]]:
    """The tokens that each row promotes and suppresses most."""
    extremes = []
    for start in range(0, len(rows), _ROWS):
        effects = np.asarray(logit_effects(model, site, rows[start : start + _ROWS]))
        extremes += [ends_of(row, n_tokens) for row in effects[:, :n_vocab]]
    return extremes


def ends_of(values: Float[np.ndarray, " n_vocab"], n: int) -> tuple[Effects, Effects]:
    """The n largest values with their token ids, the largest first, and the n smallest, the
    smallest first."""
    order = np.argsort(values, kind="stable")
    largest, smallest = (
        tuple((int(i), float(values[i])) for i in end) for end in (order[::-1][:n], order[:n])
    )
    return largest, smallest
