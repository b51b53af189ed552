"""Normalises inputs to about unit variance a dimension, and folds that into an SAE's weights."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ...errors import require, unknown
from ...interop.linear import Tensors

SCALES = ("mean-norm", "rms", "none")


@dataclass(frozen=True)
class Normalisation:
    """x -> (x - mean) * scale.

    Attributes:
        mean: `[d_in]`.
        scale: a positive number.
    """

    mean: Float[np.ndarray, " d_in"]
    scale: float


def normalisation(
    x: Float[np.ndarray, "n d_in"], centre: bool = True, scale: str = "rms"
) -> Normalisation:
    """Measures a normalisation on a sample of activations.

    Args:
        x: activations as the model has them.
        centre: whether to subtract the mean.
        scale: what is scaled to sqrt(d_in): "mean-norm", the mean of ‖x‖ (Anthropic, April 2024);
            "rms", the root of the mean of ‖x‖^2; "none" leaves the scale as it is.

    Raises:
        ToysaeError: another scale, or activations that are all alike.
    """
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    x = np.asarray(x, np.float64)
    d_in = x.shape[1]
    mean = x.mean(0) if centre else np.zeros(d_in)
    norms = np.linalg.norm(x - mean, axis=1)
    sizes = {"mean-norm": norms.mean(), "rms": np.sqrt((norms**2).mean()), "none": d_in**0.5}
    require(sizes[scale] > 0, "these activations are all alike: there is nothing to learn")
    return Normalisation(mean.astype(np.float32), float(d_in**0.5 / sizes[scale]))


def folded(tensors: Tensors, n: Normalisation, pre_bias: bool) -> Tensors:
    """Folds a normalisation into the weights of an SAE: for x it has the latents that the given one
    has for (x - mean) * scale, and its x_hat is in the units of x.

    Args:
        tensors: as SAELens names them, see :func:`toysae.interop.saelens.saelens_files`: `W_enc`,
            `W_dec`, `b_dec` and `b_enc`; or, gated, `b_gate` and `b_mag`.
        n: the normalisation of its inputs.
        pre_bias: whether it encodes its input less `b_dec`.

    Returns:
        Tensors of an SAE that encodes x itself, not x - b_dec.
    """
    W_enc, W_dec = tensors["W_enc"].astype(np.float64), tensors["W_dec"].astype(np.float64)
    b_dec, mean = tensors["b_dec"].astype(np.float64), n.mean.astype(np.float64)
    shift = -(mean * n.scale + (b_dec if pre_bias else 0)) @ W_enc
    out = dict(tensors)
    if "r_mag" in tensors:  # both paths of a gated SAE read one product
        out["b_mag"] = tensors["b_mag"] + shift * np.exp(tensors["r_mag"].astype(np.float64))
        out["b_gate"] = tensors["b_gate"] + shift
    else:
        out["b_enc"] = tensors["b_enc"] + shift
    out |= {"W_enc": W_enc * n.scale, "W_dec": W_dec / n.scale, "b_dec": b_dec / n.scale + mean}
    return {name: np.asarray(array, np.float32) for name, array in out.items()}
