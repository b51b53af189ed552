"""The final loss of toy models: exact for few features; sampled, with curves, for many."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import pandas as pd

from toysae.evaluation.measure import Measure
from toysae.evaluation.scoring import table_of
from toysae.sae import SAE
from toysae.training import Ensemble, Probe, Trained
from toysae.training.state import keys_of
from toysae.worlds import Drawn, World
from toysae.worlds.tms import expected_loss, feature_dimensionality

from .toy_models import Features, rectified_error

Measured = tuple[pd.DataFrame, dict[str, np.ndarray]]


@dataclass(frozen=True)
class ExactLoss(Measure):
    """The expected loss: rare pairs of firings decide, of which a sample would have too few.

    Attributes:
        n_nodes: of the quadrature, see :func:`toysae.worlds.tms.expected_loss`.
    """

    n_nodes: int = 8
    curve_points: int = 1

    @property
    def probe(self) -> Probe:
        return no_curves

    def identity(self) -> dict[str, Any]:
        return {"measure": "toy model, exact loss", "version": 1, "n_nodes": self.n_nodes}

    def __call__(self, ensemble: Ensemble, trained: Trained, n_steps: int) -> Measured:
        assert isinstance(ensemble.worlds, Features)
        weights, importances = trained.saes.weights, ensemble.hypers["importance"]
        held = (weights.W_dec, weights.b_dec, ensemble.worlds.density, importances)
        W, b, density, importance = (np.asarray(v, float) for v in jax.device_get(held))
        others = np.ones(W.shape[-1] - 1)
        losses = [
            expected_loss(
                W[i, k], b[i, k], float(density[i]), np.append(others, importance[k]), self.n_nodes
            )[0]
            for i, k in np.ndindex(W.shape[:2])
        ]
        table = table_of(ensemble, trained, n_steps, {"loss": losses})
        return table, {"curve_steps": trained.curve_steps}


@dataclass(frozen=True)
class SampledLoss(Measure):
    """The loss on fresh samples, and curves of it and of every feature's D_i.

    Attributes:
        n_eval: samples, coupled over the densities of a seed.
        curve_points: points of the curves.
    """

    n_eval: int = 4096
    curve_points: int = 1

    @property
    def probe(self) -> Probe:
        return dimensionality_and_loss

    def identity(self) -> dict[str, Any]:
        sizes = {"n_eval": self.n_eval, "curve_points": self.curve_points}
        return {"measure": "toy model, sampled loss", "version": 1, **sizes}

    def __call__(self, ensemble: Ensemble, trained: Trained, n_steps: int) -> Measured:
        losses = sampled_loss(trained.saes, ensemble.worlds, ensemble.world_seeds, self.n_eval)
        curves = {
            f"curve_{name}": curve.reshape(-1, *curve.shape[2:])
            for name, curve in trained.curves.items()
        }
        table = table_of(ensemble, trained, n_steps, {"loss": losses})
        return table, {"curve_steps": trained.curve_steps, **curves}


def no_curves(sae: SAE, world: World, x: jax.Array) -> dict[str, jax.Array]:
    """Nothing: the curves then hold only the loss of each step."""
    return {}


def dimensionality_and_loss(sae: SAE, world: World, x: jax.Array) -> dict[str, jax.Array]:
    """D_i `[n_features]`, and the loss on samples that are the same at every point."""
    return {"D": feature_dimensionality(sae.W_dec), "eval_loss": loss_on(sae, x)}


def loss_on(sae: SAE, x: jax.Array) -> jax.Array:
    """The loss that training minimises, on these samples."""
    return rectified_error(x, sae(x).x_hat, sae.hypers["importance"])


@partial(jax.jit, static_argnames="n")
def sampled_loss(saes: SAE, worlds: Drawn, seeds: jax.Array, n: int) -> jax.Array:
    """The loss on `n` fresh samples, `[n_worlds, n_members]`."""

    def in_world(of_world: tuple[Drawn, jax.Array, SAE]) -> jax.Array:
        world, key, saes = of_world
        x = world.sample(key, n).x
        return jax.vmap(loss_on, (0, None))(saes, x)

    # One world at a time takes the memory of one.
    return jax.lax.map(in_world, (worlds, keys_of(seeds, "evaluation"), saes))
