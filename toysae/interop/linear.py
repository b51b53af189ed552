"""SAEs from the arrays of other libraries: one encoder product, one decoder product."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checked import Fields, integer
from ..errors import require
from ..sae import SAE, SAESpec
from ..sae.activations import Activation, ReLU, Threshold, TopK
from ..sae.component import Weights
from ..sae.decoders import Free
from ..sae.encoders import Encoder, Gated, Untied
from ..sae.penalties import GatedAux, Sum

Tensors = dict[str, np.ndarray]
GATED = ("b_gate", "b_mag", "r_mag")
"""The tensors of a gated encoder besides its matrix."""


def build_sae(
    tensors: Tensors,
    *,
    pre_bias: bool,
    encoder: Encoder | None = None,
    activation: Activation | None = None,
    run: dict[str, Array] | None = None,
    k: float | None = None,
) -> SAE:
    """Returns an SAE made of arrays that are named as in toysae.

    Args:
        tensors: `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_in]`, `b_dec [d_in]` and the encoder's
            own, `b_enc [d_sae]` or, gated, `b_gate`, `b_mag` and `r_mag`. Cast to float32.
        pre_bias: whether x - b_dec is encoded instead of x.
        encoder: Untied() by default.
        activation: ReLU() by default.
        run: statistics that the activation reads.
        k: the number that TopK reads.

    Raises:
        ToysaeError: a tensor is missing, does not fit `W_dec` or holds values that are not finite.
    """
    encoder = encoder or Untied()
    own = ["W_enc", *(GATED if isinstance(encoder, Gated) else ("b_enc",))]
    for name in (*own, "W_dec", "b_dec"):
        require(name in tensors, f"tensor {name} is missing: it has {', '.join(sorted(tensors))}")
    require(tensors["W_dec"].ndim == 2, f"W_dec has shape {list(tensors['W_dec'].shape)}: a "
            "matrix [d_sae, d_in] is needed")  # fmt: skip
    d_sae, d_in = tensors["W_dec"].shape
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    arrays = {}
    for name in (*own, "W_dec", "b_dec"):
        shape = shapes.get(name, (d_sae,))
        require(tensors[name].shape == shape, f"{name} has shape {list(tensors[name].shape)}, "
                f"W_dec's {[d_sae, d_in]} needs {list(shape)}")  # fmt: skip
        finite = np.isfinite(tensors[name]).all()
        require(finite, f"{name} holds values that are not finite: save the SAE again")
        arrays[name] = jnp.asarray(tensors[name], jnp.float32)
    spec = SAESpec(
        d_in,
        d_sae,
        decoder=Free("pre" if pre_bias else "post"),
        encoder=encoder,
        activation=activation or ReLU(),
        penalty=Sum((GatedAux(),)) if isinstance(encoder, Gated) else Sum(),
    )
    hypers = {} if k is None else {"k": jnp.float32(k)}
    weights = Weights(arrays["W_dec"], arrays["b_dec"], {name: arrays[name] for name in own})
    return SAE(weights, {**(run or {}), "progress": jnp.float32(1)}, hypers, spec)


def check_tensors(tensors: Tensors, known: Collection[str], kind: str) -> None:
    """Raises:
    ToysaeError: a tensor has a name that is not known, so that its effect would be lost.
    """
    others = ", ".join(sorted(set(tensors) - set(known)))
    require(not others, f"tensor {others} has no meaning in a {kind}: remove it if that changes "
            "nothing in the SAE")  # fmt: skip


def check_read(config: Fields, harmless: Collection[str]) -> None:
    """Raises:
    ToysaeError: a field was not read and is not known to be harmless.
    """
    others = ", ".join(name for name in config.unread() if name not in harmless)
    require(not others, f"{config.where} has {others}, of which it is not known what it changes: "
            "remove it if it changes nothing in a trained SAE")  # fmt: skip


def topk(tensors: Tensors, k: Any, *, pre_bias: bool) -> SAE:
    """:func:`build_sae` with the k largest pre-activations of each sample.

    Raises:
        ToysaeError: k is outside 1..d_sae; see :func:`build_sae`.
    """
    k = integer("k", k, 1, len(tensors.get("W_dec", ())) or None)
    return build_sae(tensors, pre_bias=pre_bias, activation=TopK(), k=k)


def build_jump_relu(
    tensors: Tensors, threshold: Float[np.ndarray, "*d_sae"], *, pre_bias: bool
) -> SAE:
    """:func:`build_sae` with a constant threshold for each latent, or one for all.

    The other libraries keep z > threshold, :class:`Threshold` keeps z >= threshold: with the next
    larger float the two are the same for every z.

    Raises:
        ToysaeError: the threshold has another shape or is not finite; see :func:`build_sae`.
    """
    require(np.isfinite(threshold).all(), "threshold holds values that are not finite")
    above = np.nextafter(np.maximum(threshold, 0).astype(np.float32), np.float32(np.inf))
    run = {"threshold": jnp.stack([jnp.asarray(above), jnp.ones(above.shape)], -1)}
    d_sae = tensors["W_dec"].shape[0] if "W_dec" in tensors else 0
    require(above.shape in ((), (d_sae,)), f"threshold has shape {list(above.shape)}, not [] or "
            f"[{d_sae}]")  # fmt: skip
    return build_sae(tensors, pre_bias=pre_bias, activation=Threshold(), run=run)


def constant_threshold(sae: SAE) -> Float[np.ndarray, "*d_sae"]:
    """The t for which z > t is what a :class:`Threshold` keeps: inverts :func:`build_jump_relu`."""
    pair = np.asarray(sae.run["threshold"], np.float32)
    at_least = pair[..., 0] / np.maximum(pair[..., 1], np.float32(1e-12))
    below = np.nextafter(at_least, np.float32(-np.inf))
    return np.asarray(np.maximum(below, np.float32(0)))
