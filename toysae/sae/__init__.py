"""SAEs as data: decoder x encoder x activation x penalty x objective x init x resampling."""

from ..door import guard
from .activations import AbsTopK, BatchTopK, ReLU, Threshold, TopK
from .amortised import LISTA, MLP
from .auxk import AuxK, GhostGradients
from .component import Component, Forward, Hyper, Hypers, Params, Stats, Weights
from .decoder_rows import decoder_rows
from .decoders import Free, Normalised, Orthonormal, TightFrame, UnitNorm
from .encoders import FISTA, Gated, Tied, TiedGain, Untied
from .files import load_sae, save_sae
from .forward import SAE, finished, forward, init_params, init_stats, resolve
from .frequency import FrequencyAware, FrequencyTopK
from .frozen import Frozen, SoftFrozen
from .geometry_penalties import ChunkedCoherence, DecoderCoherence, EncDecSimilarity
from .inits import (
    FromTruth,
    Init,
    InitData,
    Kaiming,
    NoisedBasis,
    Orthogonal,
    RandomUnit,
    Short,
    SvdData,
    SvdWeights,
)
from .inits_data import DataSamples, Ica, KMeans, SemiNmf, Spectral
from .jumprelu import JumpReLU
from .k_schedule import AnnealedTopK
from .l0_control import ToL0
from .l0_penalties import L0Step, PreAct, Tanh
from .lp import AnnealedLp, Lp
from .matryoshka import Matryoshka, MatryoshkaRandom
from .named_inits import INITS
from .objectives import Denoising, Plain
from .penalties import L1, CodesL1, GatedAux, L1DecoderNorm, Sum
from .pursuit import OMP, MatchingPursuit
from .recipe import KNOBS, Recipe
from .recipes import RECIPES, make_spec, recipe_row
from .resampling import Never, ResampleDead, ResampleRare
from .spec import AXES, SAESpec, resolve_hypers

__all__ = [
    "AXES",
    "FISTA",
    "INITS",
    "KNOBS",
    "L1",
    "LISTA",
    "MLP",
    "OMP",
    "RECIPES",
    "SAE",
    "AbsTopK",
    "AnnealedLp",
    "AnnealedTopK",
    "AuxK",
    "BatchTopK",
    "ChunkedCoherence",
    "CodesL1",
    "Component",
    "DataSamples",
    "DecoderCoherence",
    "Denoising",
    "EncDecSimilarity",
    "Forward",
    "Free",
    "FrequencyAware",
    "FrequencyTopK",
    "FromTruth",
    "Frozen",
    "Gated",
    "GatedAux",
    "GhostGradients",
    "Hyper",
    "Hypers",
    "Ica",
    "Init",
    "InitData",
    "JumpReLU",
    "KMeans",
    "Kaiming",
    "L0Step",
    "L1DecoderNorm",
    "Lp",
    "MatchingPursuit",
    "Matryoshka",
    "MatryoshkaRandom",
    "Never",
    "NoisedBasis",
    "Normalised",
    "Orthogonal",
    "Orthonormal",
    "Params",
    "Plain",
    "PreAct",
    "RandomUnit",
    "ReLU",
    "Recipe",
    "ResampleDead",
    "ResampleRare",
    "SAESpec",
    "SemiNmf",
    "Short",
    "SoftFrozen",
    "Spectral",
    "Stats",
    "Sum",
    "SvdData",
    "SvdWeights",
    "Tanh",
    "Threshold",
    "Tied",
    "TiedGain",
    "TightFrame",
    "ToL0",
    "TopK",
    "UnitNorm",
    "Untied",
    "Weights",
    "decoder_rows",
    "finished",
    "forward",
    "init_params",
    "init_stats",
    "load_sae",
    "make_spec",
    "recipe_row",
    "resolve",
    "resolve_hypers",
    "save_sae",
]  # fmt: skip

guard(globals())
