"""When do toy models put features in superposition, and in what geometry?

Phase diagrams of two features in one dimension and three in two, trained beside closed forms;
the share of a dimension that each of 400 features in 30 dimensions gets; D* against sparsity.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from toysae.errors import require
from toysae.plotting import superposition as draw
from toysae.plotting.style import save
from toysae.sweeps.study import Study, check_sizes
from toysae.worlds.tms import (
    TMSSpec,
    TrainedTMS,
    expected_loss,
    overlap,
    three_in_two,
    tms_hypers,
    train_tms,
    two_in_one,
)

FORMS = {(2, 1): two_in_one, (3, 2): three_in_two}
BIN = 0.0125  # width of the bins of D_i


@dataclass(frozen=True)
class Options:
    """Sizes of the three parts.

    Attributes:
        grid: importances, and densities, of the phase diagrams.
        seeds: of which the best is taken at each of their points.
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


def run(options: Options, out_dir: Path, figures_dir: Path) -> None:
    """The whole study: three parts, four figures.

    Raises:
        ToysaeError: a count below 1, max_sparsity below 1, or a density outside (0, 1].
    """
    o = options
    _check(o)
    phases = pd.concat([_phases(o, n, m) for n, m in FORMS], ignore_index=True)
    table = phases.assign(excess=phases["loss"] / phases["closed_form"] - 1)
    table = table.groupby(["n_features", "d_hidden", "arrangement"])["excess"]
    print("trained loss / lowest closed form - 1, over the phase diagrams' points")
    print(table.describe()[["count", "mean", "50%", "max"]].round(4).to_string(), flush=True)
    note = (
        f"best of {o.seeds} seeds by exact expected loss; {o.steps:,} steps of {o.batch_size} "
        f"samples, lr .005 falling over the second half; black lines: where the closed forms "
        f"cross; all other features have importance 1; an excess below 0 is what free gains and "
        f"biases win over the closed forms' unit gains"
    )
    save(draw.phase_diagrams(phases, note), phases, figures_dir, "phase_diagrams")

    spec = TMSSpec(o.n_features, o.d_hidden)
    size = f"{o.n_features} features of equal importance in {o.d_hidden} dimensions"
    densities = np.geomspace(1, 1 / o.max_sparsity, o.sweep_points)
    sweep = _train_large(o, spec, densities, o.sweep_seeds, o.sweep_steps, 1)
    dimensions, shares = _sweep_frames(sweep)
    note = (
        f"{size}; seeds at each density: {o.sweep_seeds}; {o.sweep_steps:,} steps of "
        f"{o.large_batch_size} samples; represented: ‖W_i‖ at least half the largest"
    )
    save(draw.dimensions_by_sparsity(dimensions, note), dimensions, figures_dir, "dimensions")
    save(draw.dimensionality_by_sparsity(shares, note), shares, figures_dir, "dimensionality")
    print(dimensions.groupby("density")[["dimensions", "represented", "loss"]].mean()
          .sort_index(ascending=False).round(3).to_string(), flush=True)  # fmt: skip

    curve = _train_large(o, spec, np.array([o.curve_density]), 1, o.curve_steps, 60)
    note = (
        f"{size}; density {o.curve_density:g}; 1 seed; {o.curve_steps:,} steps of "
        f"{o.large_batch_size} samples; represented: ‖W_i‖ at least half the largest"
    )
    fig, frame = draw.dimensionality_curves(
        curve.steps, curve.dimensionality()[:, 0, 0], curve.loss_curve[:, 0, 0],
        np.linalg.norm(curve.W[-1, 0, 0], axis=0), note,
    )  # fmt: skip
    save(fig, frame, figures_dir, "dimensionality_curves")
    np.savez_compressed(
        out_dir / "weights.npz", densities=densities, sweep_W=sweep.W[-1],
        curve_steps=curve.steps, curve_W=curve.W[:, 0, 0].astype(np.float16),
    )  # fmt: skip
    for name, table in (("phases", phases), ("dimensions", dimensions)):
        table.to_csv(out_dir / f"{name}.csv", index=False)


def _check(o: Options) -> None:
    check_sizes(o)
    require(1 <= o.max_sparsity < np.inf, f"max_sparsity {o.max_sparsity} must be at least 1")
    require(0 < o.curve_density <= 1, f"curve_density {o.curve_density} must be in (0, 1]")


def _phases(o: Options, n_features: int, d_hidden: int) -> pd.DataFrame:
    """Trained and closed form at every point of the phase diagram."""
    spec = TMSSpec(n_features, d_hidden)
    extra, density = np.meshgrid(np.geomspace(0.1, 10, o.grid), np.geomspace(0.01, 1, o.grid))
    extra, density = extra.ravel(), density.ravel()
    importance = np.ones((extra.size, n_features))
    importance[:, -1] = extra
    hypers = tms_hypers(spec, density, importance, lr=5e-3, lr_decay=0.5)
    trained = train_tms(spec, hypers, o.seeds, o.steps, o.batch_size, 1, 4096)
    rows = []
    for k in range(extra.size):
        # Exact, because a rare pair of firings decides and a sample of them is too small.
        exact = [
            expected_loss(
                np.asarray(W, float), np.asarray(b, float), density[k], importance[k], n_nodes=8
            )[0]
            for W, b in zip(trained.params.W[:, k], trained.params.b[:, k], strict=True)
        ]
        best = int(np.nanargmin(exact))
        W = trained.params.W[best, k]
        forms = FORMS[n_features, d_hidden](float(density[k]), float(extra[k]))
        name = min(forms, key=lambda form: forms[form])
        rows.append({
            "n_features": n_features, "d_hidden": d_hidden, "importance": extra[k],
            "density": density[k], "norm": np.linalg.norm(W[:, -1]),
            "overlap": float(overlap(W)[-1]), "loss": exact[best], "closed_form": forms[name],
            "arrangement": name, "state": _state(name),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _state(arrangement: str) -> str:
    """What an arrangement does with the extra feature."""
    if arrangement.startswith("extra alone"):
        return "alone on a dimension"
    return "not represented" if arrangement == "extra ignored" else "in superposition"


def _train_large(
    o: Options, spec: TMSSpec, densities: np.ndarray, seeds: int, n_steps: int, n_snapshots: int
) -> TrainedTMS:
    hypers = tms_hypers(spec, densities, lr=3e-3, lr_decay=0.3)
    return train_tms(spec, hypers, seeds, n_steps, o.large_batch_size, n_snapshots, 4096)


def _sweep_frames(sweep: TrainedTMS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """D* of each model, and the distribution of D_i of the represented features."""
    densities = np.asarray(sweep.hypers.density)
    stars, shares = sweep.dimensions()[-1], sweep.dimensionality()[-1]
    norms = np.linalg.norm(sweep.W[-1], axis=-2)
    kept = norms >= draw.REPRESENTED * norms.max(-1, keepdims=True)
    rows = [
        {"density": p, "seed": seed, "dimensions": stars[s, k],
         "represented": int(kept[s, k].sum()), "loss": sweep.loss[s, k]}
        for k, p in enumerate(densities)
        for s, seed in enumerate(sweep.seeds)
    ]  # fmt: skip
    bins = []
    for k, p in enumerate(densities):
        place = np.round(shares[:, k][kept[:, k]] / BIN).astype(int)
        at, counts = np.unique(place, return_counts=True)
        bins.append(pd.DataFrame({"density": p, "D_i": at * BIN, "share": counts / counts.sum()}))
    return pd.DataFrame(rows), pd.concat(bins, ignore_index=True)


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
    run=run,
)  # fmt: skip
