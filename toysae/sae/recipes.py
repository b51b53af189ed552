"""Named SAEs: the one table that knows variant names. Add a row to add a recipe or an init."""

from collections.abc import Callable
from dataclasses import replace

from ..errors import unknown
from .activations import BatchTopK, TopK
from .decoders import Decoder, Free, Normalised, Orthonormal, TightFrame, UnitNorm
from .encoders import FISTA, Gated, Tied
from .inits import FromTruth, Init, Orthogonal, RandomUnit, SvdData, SvdWeights
from .part import Part
from .penalties import L1, GatedAux, L1DecoderNorm, Sum
from .spec import SAESpec

_MONO = UnitNorm("pre", "geometric_median")


def _held(d_in: int, d_sae: int) -> Decoder:
    return Orthonormal("none") if d_sae <= d_in else TightFrame("none")


RECIPES: dict[str, Callable[[int, int], dict[str, Part]]] = {
    # Cunningham et al. 2023: encoder bias only, rows normalised in the forward pass.
    "tied": lambda d, s: {"decoder": Normalised("none"), "encoder": Tied()},
    # Towards Monosemanticity 2023: pre-bias, unit-norm decoder with projected gradient.
    "untied": lambda d, s: {"decoder": _MONO},
    # Sharkey et al. 2022: no decoder bias, rows renormalised in the forward, orthogonal init.
    "interim-report": lambda d, s: {"decoder": Normalised("none"), "init": Orthogonal()},
    # Names that users ask for: an init on the untied SAE, and a decoder held to a constraint.
    "orthogonal": lambda d, s: {"decoder": _MONO, "init": Orthogonal()},
    "svd": lambda d, s: {"decoder": _MONO, "init": SvdWeights()},
    "held-orthogonal": lambda d, s: {"decoder": _held(d, s), "init": Orthogonal()},
    "held-orthogonal-tied": lambda d, s: {
        "decoder": _held(d, s), "encoder": Tied(), "init": Orthogonal(),
    },
    # Anthropic, April 2024 update.
    "untied-2024": lambda d, s: {"decoder": Free("pre"), "penalty": Sum((L1DecoderNorm(),))},
    "topk": lambda d, s: {"decoder": _MONO, "activation": TopK(), "penalty": Sum()},
    "batchtopk": lambda d, s: {"decoder": _MONO, "activation": BatchTopK(), "penalty": Sum()},
    "gated": lambda d, s: {
        "decoder": _MONO, "encoder": Gated(), "penalty": Sum((L1(), GatedAux())),
    },
    "fista": lambda d, s: {"decoder": UnitNorm("none"), "encoder": FISTA(), "penalty": Sum()},
}  # fmt: skip

INITS: dict[str, Init] = {
    "random": RandomUnit(encoder="independent"),
    "transpose": RandomUnit(),
    "orthogonal": Orthogonal(),
    "svd": SvdWeights(),
    "svd-data": SvdData(),
    "truth": FromTruth(),
}


def make_spec(recipe: str, d_in: int, d_sae: int, init: str | None = None, **axes) -> SAESpec:
    """The spec of a named recipe.

    Args:
        recipe: a row of :data:`RECIPES`.
        d_in: input dimension.
        d_sae: number of latents.
        init: a row of :data:`INITS`, or None for the recipe's own.
        **axes: parts that replace the recipe's, e.g. ``encoder=Tied()``.

    Raises:
        ToysaeError: an unknown name, or parts that exclude each other.
    """
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    if init is not None and init not in INITS:
        raise unknown("init", init, INITS)
    parts = {**RECIPES[recipe](d_in, d_sae), **axes}
    if init is not None:
        parts["init"] = INITS[init]
    return replace(SAESpec(d_in, d_sae), **parts)
