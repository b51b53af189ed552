"""Named initialisations: one row each. Add a row to add one."""

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
