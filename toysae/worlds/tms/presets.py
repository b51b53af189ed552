"""Published toy models by name, trained on demand, as matrices W for a world x = W f.

The papers sweep the density; the table has one that shows superposition clearly, and
:func:`tms_preset` takes any other.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from ...errors import require, unknown
from .geometry import Directions, tms_directions
from .model import TMSSpec
from .train import TrainedTMS, tms_hypers, train_tms

_ELHAGE = "Elhage et al. 2022, Toy Models of Superposition"
_ARENA = "McDougall et al., ARENA 3.0 ch. 1.3.1, Superposition & SAEs in toy models"


@dataclass(frozen=True)
class TMSPreset:
    """The setting of a named toy model.

    Attributes:
        spec: sizes, kind, pairing.
        decay: feature i has importance decay^i; 1 for equal importance.
        density: probability 1 - S that a feature is on.
        source: authors, year and place.
        n_steps: Adam steps.
        lr: Adam's learning rate.
        batch_size: samples a step.
    """

    spec: TMSSpec
    decay: float
    density: float
    source: str
    n_steps: int = 10_000
    lr: float = 1e-3
    batch_size: int = 1024


TMS_PRESETS: dict[str, TMSPreset] = {
    "tms-5-2": TMSPreset(TMSSpec(5, 2), 0.9, 0.1, f"{_ELHAGE}, introduction: S = .9"),
    "tms-20-5": TMSPreset(TMSSpec(20, 5), 0.7, 0.03, f"{_ELHAGE}, Demonstrating Superposition"),
    "tms-80-20": TMSPreset(TMSSpec(80, 20), 0.9, 0.03, f"{_ELHAGE}, Demonstrating Superposition"),
    "tms-400-30": TMSPreset(TMSSpec(400, 30), 1.0, 0.2, f"{_ELHAGE}, Geometry of Superposition"),
    "tms-6-3-pairs": TMSPreset(
        TMSSpec(6, 3, pairs="correlated"), 1.0, 0.1, f"{_ELHAGE}, Non-Uniform Superposition"
    ),
    "arena-5-2": TMSPreset(TMSSpec(5, 2), 1.0, 0.025, _ARENA),
}


@dataclass(frozen=True)
class TMSMatrix:
    """A trained toy model as the matrix of a world.

    Attributes:
        name: a row of :data:`PRESETS`.
        W: `[d_hidden, n_features]`; an SAE reads h = W f.
        b: `[n_features]` output bias.
        spec: sizes, kind, pairing (which says how features fire with each other).
        density: probability that a feature is on; its coefficient is then U[0, 1].
        importance: `[n_features]`.
        firing_probs: `[n_features]` marginal firing probabilities.
        trained: the run, with W and loss along training.
    """

    name: str
    W: Float[np.ndarray, "d_hidden n_features"]
    b: Float[np.ndarray, " n_features"]
    spec: TMSSpec
    density: float
    importance: Float[np.ndarray, " n_features"]
    firing_probs: Float[np.ndarray, " n_features"]
    trained: TrainedTMS

    def directions(self) -> Directions:
        """Returns the features that have a direction, see :func:`tms_directions`."""
        return tms_directions(self.W)


def importance_decay(n_features: int, decay: float) -> Float[np.ndarray, " n_features"]:
    """Returns the importance I_i = decay^i.

    Raises:
        ToysaeError: decay is not in (0, 1].
    """
    require(0 < decay <= 1, f"importance decay {decay:g} must be in (0, 1]")
    return decay ** np.arange(n_features)


def tms_preset(
    name: str,
    seed: int = 0,
    n_steps: int | None = None,
    density: float | None = None,
    n_snapshots: int = 50,
) -> TMSMatrix:
    """Trains a named toy model: seconds on two CPU cores, a minute or two for "tms-400-30".

    Args:
        name: a row of :data:`PRESETS`.
        seed: of the weights' init and of the data.
        n_steps: Adam steps instead of the source's.
        density: probability that a feature is on, instead of the table's.
        n_snapshots: snapshots of W along training, besides the one before it.

    Raises:
        ToysaeError: an unknown name, a value out of range, or a model that diverged.
    """
    if name not in TMS_PRESETS:
        raise unknown("toy model preset", name, TMS_PRESETS)
    preset = TMS_PRESETS[name]
    density = preset.density if density is None else density
    n = preset.spec.n_features
    importance = importance_decay(n, preset.decay)
    trained = train_tms(
        preset.spec,
        tms_hypers(preset.spec, density, importance, preset.lr),
        np.array([seed]),
        preset.n_steps if n_steps is None else n_steps,
        preset.batch_size,
        n_snapshots,
    )
    params = jax.tree.map(lambda v: v[0, 0], trained.params)
    require(bool(np.isfinite(params.W).all()), f"{name} diverged at seed {seed}: take another seed")
    return TMSMatrix(
        name, params.W, params.b, preset.spec, density, importance, np.full(n, density), trained
    )
