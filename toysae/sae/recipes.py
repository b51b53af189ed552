"""Named SAEs: the one table that knows variant names. Add a row to add a recipe or an init."""

from collections.abc import Callable
from dataclasses import replace

from ..errors import unknown
from .activations import AbsTopK, BatchTopK, TopK
from .amortised import LISTA, MLP
from .auxk import AuxK
from .decoders import Decoder, Free, Normalised, Orthonormal, TightFrame, UnitNorm
from .encoders import FISTA, Gated, Tied, TiedGain
from .frequency import FrequencyAware
from .inits import (
    FromTruth,
    Init,
    Kaiming,
    NoisedBasis,
    Orthogonal,
    RandomUnit,
    SvdData,
    SvdWeights,
)
from .inits_data import DataSamples, Ica, KMeans, SemiNmf, Spectral
from .jumprelu import JumpReLU
from .l0_control import ToL0
from .l0_penalties import L0Step
from .matryoshka import Matryoshka
from .part import Part
from .penalties import L1, GatedAux, L1DecoderNorm, Sum
from .pursuit import OMP, MatchingPursuit
from .resampling import ResampleDead
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
    # Cunningham's SAE with a gain for each latent: shrinkage is no longer the price of tying.
    "tied-gain": lambda d, s: {"decoder": Normalised("none"), "encoder": TiedGain()},
    # Deeper and iterative encoders on the untied decoder: the amortisation ladder.
    "mlp": lambda d, s: {"decoder": _MONO, "encoder": MLP()},
    "lista": lambda d, s: {"decoder": _MONO, "encoder": LISTA()},
    "matching-pursuit": lambda d, s: {
        "decoder": UnitNorm("pre"), "encoder": MatchingPursuit(), "penalty": Sum(),
    },
    "omp": lambda d, s: {"decoder": UnitNorm("pre"), "encoder": OMP(), "penalty": Sum()},
    # Rajamanoharan et al. 2024: learned thresholds, an L0 penalty through the step.
    "jumprelu": lambda d, s: {
        "decoder": _MONO, "activation": JumpReLU(), "penalty": Sum((L0Step(),)),
    },
    "abstopk": lambda d, s: {"decoder": _MONO, "activation": AbsTopK(), "penalty": Sum()},
    # Gao et al. 2024: TopK whose dead latents learn the residual.
    "topk-auxk": lambda d, s: {
        "decoder": _MONO, "activation": TopK(), "penalty": Sum((AuxK(),)),
    },
    # Bussmann et al. 2025: nested prefixes of an eighth, a quarter, a half and all latents.
    "matryoshka": lambda d, s: {
        "decoder": _MONO, "activation": BatchTopK(), "penalty": Sum(),
        "objective": Matryoshka(nested_widths(s)),
    },
    # Towards Monosemanticity with its resampling of dead latents.
    "untied-resampled": lambda d, s: {"decoder": _MONO, "resample": ResampleDead()},
    # L1 driven to a target L0, so that variants are compared at equal sparsity.
    "tied-to-l0": lambda d, s: {
        "decoder": Normalised("none"), "encoder": Tied(), "penalty": ToL0(L1()),
    },
    "untied-to-l0": lambda d, s: {"decoder": _MONO, "penalty": ToL0(L1())},
    # Weighted by ln(1 / firing frequency).
    "frequency-aware": lambda d, s: {
        "decoder": _MONO, "penalty": Sum((FrequencyAware(L1()),)),
    },
}  # fmt: skip


def nested_widths(d_sae: int) -> tuple[int, ...]:
    """An eighth, a quarter, a half and all of `d_sae`, without repetition."""
    return tuple(sorted({max(d_sae // part, 1) for part in (8, 4, 2, 1)}))


INITS: dict[str, Init] = {
    "random": RandomUnit(encoder="independent"),
    "transpose": RandomUnit(),
    "orthogonal": Orthogonal(),
    "svd": SvdWeights(),
    "svd-data": SvdData(),
    "basis": NoisedBasis(),
    "kaiming": Kaiming(),
    "data-samples": DataSamples(),
    "k-means": KMeans(),
    "ica": Ica(),
    "semi-nmf": SemiNmf(),
    "spectral": Spectral(),
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
