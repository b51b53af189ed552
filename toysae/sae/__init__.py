"""SAEs as data: decoder x encoder x activation x penalty x objective x init."""

from .activations import AbsTopK
from .amortised import LISTA, MLP
from .auxk import AuxK, GhostGradients
from .decoder_rows import decoder_rows
from .encoders import TiedGain
from .files import load_sae, save_sae
from .forward import SAE, finished, forward, init_params, init_stats, resolve
from .frequency import FrequencyAware, FrequencyTopK
from .frozen import Frozen, SoftFrozen
from .geometry_penalties import ChunkedCoherence, DecoderCoherence, EncDecSimilarity
from .inits import InitData, Kaiming, NoisedBasis
from .inits_data import DataSamples, Ica, KMeans, SemiNmf, Spectral
from .jumprelu import JumpReLU
from .k_schedule import AnnealedTopK
from .l0_control import ToL0
from .l0_penalties import L0Step, PreAct, Tanh
from .lp import AnnealedLp, Lp
from .matryoshka import Matryoshka, MatryoshkaRandom
from .named_inits import INITS
from .objectives import Denoising
from .part import Forward, Hyper, Hypers, Params, Part, Stats, Weights
from .pursuit import OMP, MatchingPursuit
from .recipe import KNOBS, Recipe
from .recipes import RECIPES, make_spec, recipe_row
from .resampling import ResampleDead, ResampleRare
from .spec import AXES, SAESpec, resolve_hypers

__all__ = [
    "AXES", "INITS", "KNOBS", "LISTA", "MLP", "OMP", "RECIPES", "SAE", "AbsTopK", "AnnealedLp",
    "AnnealedTopK", "AuxK", "ChunkedCoherence", "DataSamples", "DecoderCoherence", "Denoising",
    "EncDecSimilarity", "Forward", "FrequencyAware", "FrequencyTopK", "Frozen", "GhostGradients",
    "Hyper", "Hypers", "Ica", "InitData", "JumpReLU", "KMeans", "Kaiming", "L0Step", "Lp",
    "MatchingPursuit", "Matryoshka", "MatryoshkaRandom", "NoisedBasis", "Params", "Part", "PreAct",
    "Recipe", "ResampleDead", "ResampleRare", "SAESpec", "SemiNmf", "SoftFrozen", "Spectral",
    "Stats", "Tanh", "TiedGain", "ToL0", "Weights", "decoder_rows", "finished", "forward",
    "init_params", "init_stats", "load_sae", "make_spec", "recipe_row", "resolve", "resolve_hypers",
    "save_sae",
]  # fmt: skip
