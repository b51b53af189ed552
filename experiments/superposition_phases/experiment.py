"""When do toy models put features in superposition, and in what geometry?

Phase diagrams of two features in one dimension and three in two, trained and compared with closed
forms; the share of a dimension that each of 400 features in 30 dimensions gets; D* by sparsity.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from toysae.errors import require
from toysae.evaluation.measure import Measure
from toysae.points import Points, grid
from toysae.runs.cell import Cell
from toysae.runs.results import Results
from toysae.sweeps.study import Drawing, Study, check_sizes
from toysae.worlds.tms import (
    dimensions_per_feature,
    feature_dimensionality,
    overlap,
    three_in_two,
    two_in_one,
)

from . import figures
from .measure import ExactLoss, SampledLoss
from .toy_models import FeatureData, toy_model

FORMS = {(2, 1): two_in_one, (3, 2): three_in_two}
SWEEP, CURVE = "by-sparsity", "along-training"
BIN = 0.0125  # width of the bins of D_i


@dataclass(frozen=True)
class Options:
    """Sizes of the three parts.

    Attributes:
        grid: importances, and densities, of the phase diagrams.
        seeds: models at each of their points, of which the best is taken.
        steps: Adam steps of their models.
        batch_size: samples a step there.
        n_features: features of the larger model.
        d_hidden: its hidden dimensions.
        large_batch_size: samples a step there.
        sweep_points: densities from 1 down to 1 / max_sparsity.
        max_sparsity: largest 1 / (1 - S).
        sweep_seeds: models at each.
        sweep_steps: their Adam steps.
        curve_density: density of the model whose D_i are followed.
        curve_steps: its Adam steps.
    """

    grid: int = 16
    seeds: int = 10
    steps: int = 3000
    batch_size: int = 256
    n_features: int = 400
    d_hidden: int = 30
    large_batch_size: int = 512
    sweep_points: int = 18
    max_sparsity: float = 10.0
    sweep_seeds: int = 2
    sweep_steps: int = 2500
    curve_density: float = 0.5
    curve_steps: int = 8000


def cells(o: Options) -> list[Cell]:
    """A cell for each phase diagram, one over densities, and one of a model that is followed.

    Raises:
        ToysaeError: a count below 1, max_sparsity below 1, or a density outside (0, 1].
    """
    check_sizes(o)
    require(1 <= o.max_sparsity < np.inf, f"max_sparsity {o.max_sparsity} must be at least 1")
    require(0 < o.curve_density <= 1, f"curve_density {o.curve_density} must be in (0, 1]")
    importance = np.geomspace(0.1, 10, o.grid).tolist()
    small = grid(importance=importance, lr=5e-3, lr_decay=0.5)
    large = grid(lr=3e-3, lr_decay=0.3)
    phases = [
        _cell(_phase_name(n, m), n, m, np.geomspace(0.01, 1, o.grid), o.seeds, small, o.steps,
              o.batch_size, ExactLoss())
        for n, m in FORMS
    ]  # fmt: skip
    sizes, batch = (o.n_features, o.d_hidden), o.large_batch_size
    densities = np.geomspace(1, 1 / o.max_sparsity, o.sweep_points)
    return [
        *phases,
        _cell(SWEEP, *sizes, densities, o.sweep_seeds, large, o.sweep_steps, batch, SampledLoss()),
        _cell(CURVE, *sizes, [o.curve_density], 1, large, o.curve_steps, batch,
              SampledLoss(curve_points=60)),
    ]  # fmt: skip


def _cell(
    name: str, n_features: int, d_hidden: int, densities: Sequence[float] | np.ndarray,
    n_seeds: int, members: Points, n_steps: int, batch_size: int, measure: Measure,
) -> Cell:  # fmt: skip
    data = FeatureData.each(n_features, list(densities), n_seeds)
    spec = toy_model(n_features, d_hidden)
    return Cell(name, data, spec, members, (0,), n_steps, batch_size, measure)


def _phase_name(n_features: int, d_hidden: int) -> str:
    return f"{n_features}-in-{d_hidden}"


def _of_cell(results: Results, name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of a cell, and their W `[rows, d_hidden, n_features]`."""
    table = results.select(cell=name).reset_index(drop=True)
    return table, results.weights(name)["W_dec"]


def phases(results: Results) -> pd.DataFrame:
    """The best seed and the closed form at every point of the phase diagrams."""
    rows = []
    for (n_features, d_hidden), closed_forms in FORMS.items():
        table, weights = _of_cell(results, _phase_name(n_features, d_hidden))
        for best in table.groupby(["density", "importance"])["loss"].idxmin():
            model, W = table.loc[best], weights[best]
            forms = closed_forms(float(model["density"]), float(model["importance"]))
            name = min(forms, key=lambda form: forms[form])
            rows.append({
                "n_features": n_features, "d_hidden": d_hidden, "importance": model["importance"],
                "density": model["density"], "norm": np.linalg.norm(W[:, -1]),
                "overlap": float(overlap(W)[-1]), "loss": model["loss"],
                "closed_form": forms[name], "arrangement": name, "state": _state(name),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _state(arrangement: str) -> str:
    """What becomes of the extra feature in an arrangement."""
    if arrangement.startswith("extra alone"):
        return "alone on a dimension"
    return "not represented" if arrangement == "extra ignored" else "in superposition"


def sweep(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """D* of each model, and the distribution of D_i of the represented features."""
    table, W = _of_cell(results, SWEEP)
    norms = np.linalg.norm(W, axis=-2)
    kept = norms >= figures.REPRESENTED * norms.max(-1, keepdims=True)
    dimensions = pd.DataFrame({
        "density": table["density"], "seed": table["world_seed"],
        "dimensions": np.asarray(dimensions_per_feature(W)), "represented": kept.sum(-1),
        "loss": table["loss"],
    })  # fmt: skip
    shares, bins = np.asarray(feature_dimensionality(W)), []
    for density, part in table.groupby("density", sort=False):
        place = np.round(shares[part.index][kept[part.index]] / BIN).astype(int)
        at, counts = np.unique(place, return_counts=True)
        share = {"D_i": at * BIN, "share": counts / counts.sum()}
        bins.append(pd.DataFrame({"density": density, **share}))
    return dimensions, pd.concat(bins, ignore_index=True)


def answer(o: Options, results: Results) -> dict[str, pd.DataFrame]:
    """How far training stays above the closed forms, and D* by density."""
    best = phases(results)
    best = best.assign(excess=best["loss"] / best["closed_form"] - 1)
    excess = best.groupby(["n_features", "d_hidden", "arrangement"])["excess"].describe()
    by_density = sweep(results)[0].groupby("density")[["dimensions", "represented", "loss"]].mean()
    return {
        "excess_over_closed_forms": excess[["count", "mean", "50%", "max"]].round(4).reset_index(),
        "dimensions_by_density": by_density.sort_index(ascending=False).round(3).reset_index(),
    }


def draw(o: Options, results: Results) -> Iterator[Drawing]:
    """The phase diagrams, D* and D_i by sparsity, and D_i along training."""
    best = phases(results)
    note = (
        f"best of {o.seeds} seeds by exact expected loss; {o.steps:,} steps of {o.batch_size} "
        f"samples, lr .005 falling over the second half; black lines: where the closed forms "
        f"cross; all other features have importance 1; an excess below 0 is what free gains and "
        f"biases win over the closed forms' unit gains"
    )
    yield "phase_diagrams", figures.phase_diagrams(best, note), best

    size = f"{o.n_features} features of equal importance in {o.d_hidden} dimensions"
    dimensions, shares = sweep(results)
    note = (
        f"{size}; seeds at each density: {o.sweep_seeds}; {o.sweep_steps:,} steps of "
        f"{o.large_batch_size} samples; represented: ‖W_i‖ at least half the largest"
    )
    yield "dimensions", figures.dimensions_by_sparsity(dimensions, note), dimensions
    yield "dimensionality", figures.dimensionality_by_sparsity(shares, note), shares

    held, W = results.arrays(CURVE), results.weights(CURVE)["W_dec"]
    note = (
        f"{size}; density {o.curve_density:g}; 1 seed; {o.curve_steps:,} steps of "
        f"{o.large_batch_size} samples; represented: ‖W_i‖ at least half the largest"
    )
    yield "dimensionality_curves", *figures.dimensionality_curves(
        held["curve_steps"], held["curve_D"][0].T, held["curve_eval_loss"][0],
        np.linalg.norm(W[0], axis=0), note,
    )  # fmt: skip


study = Study(
    question="When do toy models put features in superposition, and in what geometry?",
    expected="Elhage et al. 2022: sharp borders between ignoring a feature, giving it a "
    "dimension and storing it in superposition; D* sticky at 1 and 1/2; D_i at 3/4, 2/3, 1/2, "
    "2/5, 3/8 and 0. Dense and equally important features share every dimension instead: D* is 1 "
    "and D_i about m / n.",
    run_time="about 6 CPU minutes",
    options=Options(),
    smoke={
        "grid": 4, "seeds": 2, "steps": 200, "n_features": 40, "d_hidden": 6, "sweep_points": 5,
        "sweep_seeds": 1, "sweep_steps": 200, "curve_steps": 200,
    },
    cells=cells,
    answer=answer,
    draw=draw,
    keep_weights=True,
)  # fmt: skip
