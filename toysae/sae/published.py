"""Published recipes, each with its paper's own settings."""

from .activations import BatchTopK, TopK
from .auxk import AuxK
from .decoders import Free, UnitNorm
from .encoders import Gated, Tied
from .geometry_penalties import ChunkedCoherence
from .inits import Orthogonal, Short
from .jumprelu import JumpReLU
from .l0_control import ToL0
from .l0_penalties import L0Step, PreAct, Tanh
from .lp import AnnealedLp
from .penalties import L1, GatedAux, L1DecoderNorm, Sum
from .pursuit import MatchingPursuit
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
from .resampling import ResampleDead

_ADAM = {"beta1": 0.0, "beta2": 0.999}
_BENCH = {"lr": 3e-4, "grad_clip": 1.0, "batch_size": 1024, "n_steps": 195_313, "d_sae": 4096}
_BENCH_NOTE = (
    "five seeds at each L0 of 15 to 45; bfloat16 autocast; what AuxK and clipping are given is its "
    "library's default"
)

PUBLISHED: dict[str, Recipe] = {
    "interim-report-2022": Recipe(
        "Sharkey, Braun, Millidge 2022: no decoder bias, orthogonal init, forward-normalised",
        lambda d, s: {"decoder": NORMED, "init": Orthogonal()}, L1_TOY,
        {"lr": 1e-3, "batch_size": 256, "n_steps": 20_000, "l1_coeff": 1.0}, "interim-report",
        "l1_coeff is the middle of a grid of 17, 10^-2 to 10^2",
    ),
    "cunningham-2023": Recipe(
        "Cunningham et al. 2023: tied, rows of unit norm, no decoder bias",
        lambda d, s: {"decoder": NORMED, "encoder": Tied()}, TIED_TOY,
        {"lr": 1e-3, "l1_coeff": 8.6e-4}, "cunningham-code",
        "5M to 50M activations of Pythia-70M and 410M; l1_coeff 3.2e-4 on MLP layers; no batch "
        "size is given, its code's default is 256",
    ),
    "towards-monosemanticity-2023": Recipe(
        "Bricken et al. 2023: untied, unit-norm decoder, dead latents resampled",
        mono(resample=ResampleDead()), L1_TOY,
        {"batch_size": 8192, "n_steps": 1_000_000}, "monosemanticity-sum",
        "resampled after 25k, 50k, 75k and 100k steps, here after an eighth to a half of training; "
        "it states no learning rate",
    ),
    "anthropic-april-2024": Recipe(
        "Conerly et al. 2024: free decoder, L1 weighted by its norms, W_enc = W_dec^T",
        lambda d, s: {
            "decoder": Free("post"), "penalty": Sum((L1DecoderNorm(),)), "init": Short(),
        },
        {**L1_TOY, "l1_warmup": 0.05},
        {"lr": 5e-5, "lr_decay": 0.2, "l1_coeff": 5.0, "l1_warmup": 0.05, "grad_clip": 1.0,
         "batch_size": 4096, "n_steps": 200_000},
        notes="x is scaled to mean square norm d_in; rows start at norms .05 to 1, here .1; "
        "l1_coeff 2, 5 and 10 are reported; its warm-up and the scaling are known at second hand",
    ),
    "anthropic-january-2025": Recipe(
        "Conerly et al. 2025: JumpReLU, tanh L0 penalty, pre-activation cost, free decoder",
        lambda d, s: {
            "decoder": Free("post"), "activation": JumpReLU(to_input=True),
            "penalty": Sum((Tanh(), PreAct())), "init": Short(),
        },
        {**JUMP_TOY, "l0_coeff": 0.02, "dec_scale": 0.58},
        {"lr": 2e-4, "lr_decay": 0.2, "l0_coeff": 10.0, "l0_warmup": 1.0, "tanh_scale": 4.0,
         "pre_act_coeff": 3e-6, "bandwidth": 2.0, "threshold_init": 0.1, "grad_clip": 1.0,
         "batch_size": 32_768, "dec_scale": 0.58},
        notes="numbers known at second hand; x is scaled to mean norm sqrt(d_in); there b_enc "
        "starts where every latent fires in 10,000 / d_sae of the samples, and W_enc at "
        "(d_in / d_sae) W_dec^T",
    ),
    "gao-topk-2024": Recipe(
        "Gao et al. 2024: TopK, and AuxK for dead latents", penalised(AuxK(), activation=TopK()),
        AUX_TOY,
        {"lr": 1e-4, "k": 32.0, "aux_coeff": 1 / 32, "aux_fraction": 0.5, "dead_window": 76.0,
         "batch_size": 131_072, "d_sae": 32_768},
        notes="lr falls as 1 / sqrt(d_sae); Adam's eps 6.25e-10; x is normalised token by token; "
        "dead after 10M tokens",
    ),
    "gated-2024": Recipe(
        "Rajamanoharan et al. 2024: Gated SAE", penalised(L1(), GatedAux(), encoder=Gated()),
        {**L1_TOY, "l1_coeff": 0.3},
        {"lr": 3e-4, **_ADAM, "batch_size": 4096, "n_steps": 300_000},
        notes="squared error averaged over d_in; resampled as in Bricken et al.",
    ),
    "jumprelu-2024": Recipe(
        "Rajamanoharan et al. 2024: JumpReLU SAE, L0 through the step",
        penalised(L0Step(), activation=JumpReLU()), JUMP_TOY,
        {"lr": 7e-5, **_ADAM, "bandwidth": 1e-3, "threshold_init": 1e-3, "l0_coeff": 6e-4,
         "batch_size": 4096},
        notes="as its successor Gemma Scope states them; x is scaled to mean square norm 1; lr "
        "warms up over 1,000 steps, l0_coeff (6e-4 is one of several) over 10,000",
    ),
    "p-annealing-2024": Recipe(
        "Karvonen et al. 2024: Lp with p annealed from 1 towards 0",
        penalised(AnnealedLp()), L1_TOY,
        {"lr": 3e-4, "lr_warmup": 0.027, "p_start": 0.27, "p_end": 0.2, "l1_coeff": 0.05,
         "batch_size": 8192, "n_steps": 36_621},
        notes="p falls in 10 steps, here continuously; l1_coeff .02 to .08",
    ),
    "batchtopk-2024": Recipe(
        "Bussmann et al. 2024: BatchTopK, and AuxK for dead latents",
        penalised(AuxK(), activation=BatchTopK()), {**AUX_TOY, "k": 3.5},
        {"lr": 3e-4, "beta2": 0.99, "k": 32.0, "aux_coeff": 1 / 32, "dead_window": 5.0,
         "batch_size": 4096, "n_steps": 244_141, "d_sae": 12_288},
        notes="x is centred and scaled token by token; the error that AuxK fits keeps its gradient",
    ),
    "matryoshka-2025": Recipe(
        "Bussmann et al. 2025: nested prefixes on BatchTopK, with AuxK", matryoshka(AuxK()),
        {**AUX_TOY, "k": 3.0},
        {"lr": 3e-4, "k": 40.0, "grad_clip": 1.0, "batch_size": 2048, "n_steps": 244_141,
         "d_sae": 65_536},
        notes=f"prefixes of 2048, 6144, 14336, 30720 and 65536; k 20 to 320; {HEDGES}",
        easy="orthogonal",
    ),
    "mp-sae-2025": Recipe(
        "Costa et al. 2025: k unrolled steps of Matching Pursuit",
        lambda d, s: {
            "decoder": UnitNorm("pre"), "encoder": MatchingPursuit(), "penalty": Sum(),
        },
        K_TOY,
        {"lr": 1e-3, "beta2": 0.95, "k": 100.0, "grad_clip": 1.0, "batch_size": 5000,
         "n_steps": 40_000},
        notes="rows start at unit norm and are not held there; weight decay 1e-4",
    ),
    "ortsae-2025": Recipe(
        "Korznikov et al. 2025: BatchTopK with a cost on cosines between latents",
        penalised(ChunkedCoherence(), AuxK(), activation=BatchTopK()),
        {"coherence_coeff": 0.05, **AUX_TOY, "k": 3.5},
        {"lr": 2e-4, "coherence_coeff": 0.25, "aux_coeff": 1 / 32, "batch_size": 2048,
         "n_steps": 244_141, "d_sae": 65_536},
        notes="AdamW; L0 25 to 130",
    ),
    "synthsaebench-l1": Recipe(
        "SynthSAEBench 2026: standard SAE, L1 driven to an L0", mono(penalty=ToL0(L1())),
        {"l0_target": 4.0, **L1_TOY},
        {"l0_target": 25.0, "l1_coeff": 2.0, "l1_warmup": 1 / 3, **_BENCH}, notes=_BENCH_NOTE,
    ),
    "synthsaebench-batchtopk": Recipe(
        "SynthSAEBench 2026: BatchTopK", penalised(AuxK(raw=True), activation=BatchTopK()),
        {**AUX_TOY, "k": 3.5},
        {"k": 25.0, "aux_coeff": 1.0, "dead_window": 1000.0, **_BENCH}, notes=_BENCH_NOTE,
    ),
    "synthsaebench-matryoshka": Recipe(
        "SynthSAEBench 2026: Matryoshka", matryoshka(AuxK(raw=True), divisors=(32, 8, 2, 1)),
        {**AUX_TOY, "k": 3.0},
        {"k": 25.0, "aux_coeff": 1.0, "dead_window": 1000.0, **_BENCH},
        notes=f"{_BENCH_NOTE}; {HEDGES}",
        easy="orthogonal",
    ),
    "synthsaebench-jumprelu": Recipe(
        "SynthSAEBench 2026: JumpReLU, L0 penalty driven to an L0",
        penalised(ToL0(L0Step()), activation=JumpReLU()),
        {"l0_target": 3.0, **JUMP_TOY, "l0_coeff": 0.004, "l0_gain": 0.002},
        {"l0_target": 25.0, "l0_coeff": 1.0, "bandwidth": 1.0, "threshold_init": 1.0, **_BENCH},
        notes=f"{_BENCH_NOTE}; x is scaled to mean norm sqrt(d_in)",
    ),
    "synthsaebench-mp": Recipe(
        "SynthSAEBench 2026: Matching Pursuit",
        lambda d, s: {
            "decoder": UnitNorm("pre"), "encoder": MatchingPursuit(32), "penalty": Sum(),
        },
        K_TOY, {"k": 25.0, **_BENCH}, notes=_BENCH_NOTE,
    ),
}  # fmt: skip
