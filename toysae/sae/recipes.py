"""Named SAEs: the one table that knows variant names. Add a row to add a recipe; a published one
in :mod:`toysae.sae.published`."""

from dataclasses import replace

from ..checked import shown
from ..errors import require, unknown
from .activations import AbsTopK, BatchTopK, TopK
from .amortised import LISTA, MLP
from .auxk import AuxK, GhostGradients
from .decoders import Decoder, Orthonormal, TightFrame, UnitNorm
from .encoders import FISTA, Encoder, Gated, Tied, TiedGain
from .frequency import FrequencyAware, FrequencyTopK
from .frozen import Frozen, SoftFrozen
from .geometry_penalties import DecoderCoherence, EncDecSimilarity
from .inits import FromTruth, Init, Orthogonal, SvdWeights
from .jumprelu import JumpReLU
from .k_schedule import AnnealedTopK
from .l0_control import ToL0
from .l0_penalties import L0Step
from .lp import Lp
from .matryoshka import MatryoshkaRandom
from .named_inits import INITS
from .objectives import Denoising
from .penalties import L1, CodesL1, GatedAux, Sum
from .published import PUBLISHED
from .pursuit import OMP
from .recipe import (
    AUX_TOY,
    HEDGES,
    JUMP_TOY,
    K_TOY,
    L1_TOY,
    NORMED,
    TIED_TOY,
    Recipe,
    matryoshka,
    mono,
    penalised,
)
from .resampling import ResampleDead, ResampleRare
from .spec import AXES, SAESpec

_FRAME = "no random dictionary is a tight frame, so it is held to an orthonormal one"


def _held(d_in: int, d_sae: int) -> Decoder:
    return Orthonormal("none") if d_sae <= d_in else TightFrame("none")


RECIPES: dict[str, Recipe] = {
    # The axes one by one: encoders, decoders and inits that users ask for by name.
    "tied": Recipe(
        "W_enc = W_dec^T, encoder bias only, rows normalised in the forward pass",
        lambda d, s: {"decoder": NORMED, "encoder": Tied()}, TIED_TOY,
    ),
    "tied-gain": Recipe(
        "tied direction with a free gain for each latent (Wright and Sharkey 2024)",
        lambda d, s: {"decoder": NORMED, "encoder": TiedGain()}, TIED_TOY,
    ),
    "untied": Recipe("pre-bias, unit-norm decoder, projected gradient, L1", mono(), L1_TOY),
    "untied-similar": Recipe(
        "untied, with a cost on 1 - cos(W_enc, W_dec) of each latent",
        penalised(L1(), EncDecSimilarity()), {"similarity_coeff": 0.03, **L1_TOY},
    ),
    "orthogonal": Recipe("untied, orthogonal init", mono(init=Orthogonal()), L1_TOY),
    "svd": Recipe(
        "untied, init from the singular vectors of the matrix that writes x",
        mono(init=SvdWeights()), L1_TOY,
    ),
    "held-orthogonal": Recipe(
        "decoder held orthonormal, or a tight frame if overcomplete",
        lambda d, s: {"decoder": _held(d, s), "init": Orthogonal()}, L1_TOY,
        notes=_FRAME, easy="orthogonal",
    ),
    "held-orthogonal-tied": Recipe(
        "decoder held orthonormal or a tight frame, tied",
        lambda d, s: {"decoder": _held(d, s), "encoder": Tied(), "init": Orthogonal()}, L1_TOY,
        notes=_FRAME, easy="orthogonal",
    ),
    "topk": Recipe(
        "the k largest of each sample, AuxK for dead latents",
        penalised(AuxK(), activation=TopK()), AUX_TOY,
    ),
    "abstopk": Recipe(
        "the k largest in size of each sample, signs kept (Zhu et al. 2025), AuxK",
        penalised(AuxK(), activation=AbsTopK()), AUX_TOY, signed=False,
        notes="a latent may stand for either end of its axis: read the |cos| scores",
    ),
    "batchtopk": Recipe(
        "the k * batch largest of each batch, AuxK for dead latents",
        penalised(AuxK(), activation=BatchTopK()), {**AUX_TOY, "k": 3.5},
    ),
    "jumprelu": Recipe(
        "learned thresholds, an L0 penalty through the step",
        penalised(L0Step(), activation=JumpReLU()), JUMP_TOY,
    ),
    "gated": Recipe(
        "gate and magnitude share directions",
        penalised(L1(), GatedAux(), encoder=Gated()), {**L1_TOY, "l1_coeff": 0.3},
    ),
    "matryoshka": Recipe(
        "BatchTopK, AuxK, nested prefixes of an eighth, a quarter, a half and all latents",
        matryoshka(AuxK()), {**AUX_TOY, "k": 3.0}, notes=HEDGES, easy="orthogonal",
    ),
    "mlp": Recipe(
        "a deeper encoder: smooth hidden layer, ReLU at the end", mono(encoder=MLP()), L1_TOY
    ),
    "lista": Recipe(
        "unrolled, learned ISTA encoder (Gregor and LeCun 2010)", mono(encoder=LISTA()), L1_TOY
    ),
    "fista": Recipe(
        "no encoder: non-negative FISTA codes (Beck and Teboulle 2009)",
        lambda d, s: {
            "decoder": UnitNorm("none"), "encoder": FISTA(), "penalty": CodesL1()
        }, L1_TOY,
    ),
    "omp": Recipe(
        "no encoder: k steps of non-negative Orthogonal Matching Pursuit",
        lambda d, s: {"decoder": UnitNorm("pre"), "encoder": OMP(), "penalty": Sum()}, K_TOY,
    ),
    "untied-resampled": Recipe(
        "untied, dead latents resampled", mono(resample=ResampleDead()), L1_TOY
    ),
    "tied-to-l0": Recipe(
        "tied, L1 driven to a target L0",
        lambda d, s: {"decoder": NORMED, "encoder": Tied(), "penalty": ToL0(L1())},
        {"l0_target": 5.0, **TIED_TOY},
    ),
    "untied-to-l0": Recipe(
        "untied, L1 driven to a target L0", mono(penalty=ToL0(L1())), {"l0_target": 4.0, **L1_TOY}
    ),
    "untied-resampled-rare": Recipe(
        "untied, latents that fire rarely resampled", mono(resample=ResampleRare()),
        {"min_rate": 1e-3, **L1_TOY},
    ),
    "untied-incoherent": Recipe(
        "untied, with a cost on the squared cosines of all pairs of latents",
        penalised(L1(), DecoderCoherence()), {"coherence_coeff": 1.0, **L1_TOY},
    ),
    "untied-lp": Recipe(
        "untied, Lp in place of L1", penalised(Lp()), {"p": 0.8, **L1_TOY, "l1_coeff": 0.1}
    ),
    "denoising": Recipe(
        "untied, x reconstructed from x with noise (Vincent et al. 2008)",
        mono(objective=Denoising()), {"noise": 0.05, **L1_TOY},
    ),
    "ghost-gradients": Recipe(
        "untied, dead latents fit the error through exp (Anthropic, January 2024 update)",
        penalised(L1(), GhostGradients()), {"dead_window": 20.0, **L1_TOY},
    ),
    "topk-annealed": Recipe(
        "TopK whose k falls to its value, AuxK", penalised(AuxK(), activation=AnnealedTopK()),
        {"k_start": 8.0, **AUX_TOY},
    ),
    "topk-frequency": Recipe(
        "TopK that puts back latents that fire rarely, AuxK",
        penalised(AuxK(), activation=FrequencyTopK()), {"freq_coeff": 0.02, **AUX_TOY},
    ),
    "matryoshka-random": Recipe(
        "BatchTopK, AuxK, ten nested prefixes drawn anew in each step (Nabeshima 2024)",
        penalised(AuxK(), activation=BatchTopK(), objective=MatryoshkaRandom()),
        {**AUX_TOY, "k": 3.0}, notes=HEDGES, easy="orthogonal",
    ),
    "frozen": Recipe(
        "decoder held at the truth: what an encoder can reach at best",
        lambda d, s: {"decoder": Frozen("pre", "geometric_median"), "init": FromTruth()}, L1_TOY,
    ),
    "soft-frozen": Recipe(
        "decoder held within cosine .8 of its start, which is near the truth",
        lambda d, s: {"decoder": SoftFrozen("pre", "geometric_median"), "init": FromTruth()},
        {"truth_noise": 0.5, **L1_TOY},
    ),
    "frequency-aware": Recipe(
        "untied, L1 weighted by ln(max(d_in, 1 / firing frequency))",
        penalised(FrequencyAware(L1())), {**L1_TOY, "l1_coeff": 0.045},
    ),
    **PUBLISHED,
}  # fmt: skip


def recipe_row(recipe: str) -> Recipe:
    """A row of :data:`RECIPES`.

    Raises:
        ToysaeError: no recipe of that name, with the nearest, or a row that is not a Recipe.
    """
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    row = RECIPES[recipe]
    require(
        isinstance(row, Recipe),
        f"RECIPES[{recipe!r}] is {shown(row)}, not a Recipe: write RECIPES[{recipe!r}] = "
        "Recipe(about, components, toy)",
    )
    return row


def make_spec(
    recipe: str, d_in: int, d_sae: int, init: str | Init | None = None, **axes
) -> SAESpec:
    """The spec of a named recipe.

    Args:
        recipe: a row of :data:`RECIPES`.
        d_in: input dimension.
        d_sae: number of latents.
        init: a row of :data:`INITS`, an init of one's own, or None for the recipe's.
        **axes: components that replace the recipe's, e.g. ``encoder=Tied()``.

    Raises:
        ToysaeError: an unknown name, or components that exclude each other.
    """
    own = recipe_row(recipe).components(d_in, d_sae)
    for name in axes:
        if name not in (*AXES, "arithmetic"):
            raise unknown("axis", name, [*AXES, "arithmetic"])
    if "encoder" in own and isinstance(axes.get("encoder"), Encoder):
        own_name, other = type(own["encoder"]).__name__, type(axes["encoder"]).__name__
        require(
            own_name == other,
            f"recipe {recipe!r} is an SAE with a {own_name} encoder, and encoder={other}() would "
            "replace it: start from 'untied', say",
        )
    components = {**own, **axes}
    if init is not None:
        if not isinstance(init, Init) and (not isinstance(init, str) or init not in INITS):
            raise unknown("init", init, INITS)
        components["init"] = init if isinstance(init, Init) else INITS[init]
    return replace(SAESpec(d_in, d_sae), **components)
