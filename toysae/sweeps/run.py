"""Runs an experiment group by group, keeping every finished group on disk."""

import shutil
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from ..errors import require
from ..recovery.probe import recovery_probe
from ..sae import SAE
from ..training import Group, train_group
from .experiment import Cell, Experiment, Worlds, cells, worlds_of
from .members import make_group
from .progress import Progress
from .results import Results
from .scoring import score_group


def run(
    experiment: Experiment, out: str | Path, fresh: bool = False, quiet: bool = False
) -> Results:
    """Trains and scores what is not yet in `out`.

    Args:
        experiment: what to run.
        out: the results directory; finished groups in it are kept.
        fresh: discard what is there and begin again.
        quiet: no progress bar.

    Returns:
        The complete results.

    Raises:
        ToysaeError: bad input, always before anything trains.
    """
    worlds = worlds_of(experiment)
    plan = cells(experiment, worlds)
    groups = {cell.slug: _group(cell, worlds, experiment) for cell in plan}
    results = Results(out)
    if fresh and results.path.exists():
        require(results.config is not None, f"{out} holds no results: --fresh will not delete it")
        shutil.rmtree(results.path)
    prose = {"question": experiment.question, "expected": experiment.expected}
    results.open(experiment.settings(), prose)
    done = set(results.groups)
    cost = {cell.slug: cell.n_steps * groups[cell.slug].n_rows for cell in plan}
    with Progress(cost, experiment.batch_size, done, quiet) as progress:
        for cell in plan:
            if cell.slug not in done:
                _run_cell(cell, groups.pop(cell.slug), experiment, results, progress)
    results.save_table()
    return results


def _group(cell: Cell, worlds: Worlds, e: Experiment) -> Group:
    made, seeds = worlds(cell.world, cell.world_fields), range(e.world_seeds)
    return make_group(made, seeds, cell.spec, cell.hypers(), range(e.sae_seeds), e.batch_size)


def _run_cell(
    cell: Cell, group: Group, e: Experiment, results: Results, progress: Progress
) -> None:
    trained = train_group(
        group,
        cell.n_steps,
        recovery_probe,
        e.curve_points,
        on_chunk=lambda step: progress.update(cell.slug, step * group.n_rows),
    )
    scores, arrays = score_group(group, trained, cell.n_steps, e.n_eval)
    names = {"group": cell.slug, "world": cell.world, "recipe": cell.recipe, "init": cell.init}
    asked = np.repeat(np.asarray(cell.asked, float), e.sae_seeds)
    knob = {"knob": cell.knob, "l1": np.tile(asked, e.world_seeds)}
    table = pd.concat([pd.DataFrame({**names, **knob}, index=scores.index), scores], axis=1)
    weights = saved_weights(trained.saes) if e.save_params else None
    results.save_group(cell.slug, table, arrays, weights)


def saved_weights(saes: SAE) -> dict[str, np.ndarray]:
    """An ensemble's weights by name with one leading row axis."""
    parts = asdict(saes.weights)
    del parts["arithmetic"]
    weights = {**parts.pop("enc"), **parts.pop("act")}
    weights.update({name: value for name, value in parts.items() if value is not None})
    weights.update({name: value for name, value in saes.run.items() if name != "progress"})
    flat = jax.device_get(weights)
    return {k: np.ascontiguousarray(v.reshape(-1, *v.shape[2:])) for k, v in flat.items()}
