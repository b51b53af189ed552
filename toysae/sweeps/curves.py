"""The oracle curves of an experiment: what its worlds allow at each L0."""

from dataclasses import replace

import jax
import pandas as pd

from .ceilings import ceilings
from .cells import cells, worlds_of
from .experiment import Experiment

ORACLES = ("truth-fista", "truth-omp", "truth-encoder")
_SAMPLES = 16_384
_STEPS = 10_000


def oracle_curves(experiment: Experiment) -> pd.DataFrame:
    """:data:`ORACLES` on the first world seed of every world of an experiment.

    The encoder is trained for as many steps as the SAEs of that world, at most 10,000.

    Returns:
        What :func:`toysae.sweeps.ceilings.ceilings` gives, after the columns `world`,
        `n_features` and `d_in`.
    """
    first = replace(experiment, world_seeds=1)
    worlds = worlds_of(first)
    steps: dict[tuple, int] = {}
    for cell in cells(first, worlds):
        key = (cell.world, cell.world_fields)
        steps[key] = max(steps.get(key, 1), cell.n_steps)
    tables = []
    for (name, fields), n_steps in steps.items():
        world = jax.tree.map(lambda leaf: leaf[0], worlds(name, fields))
        table = ceilings(world, n_samples=min(first.n_eval, _SAMPLES), methods=ORACLES,
                         n_steps=min(n_steps, _STEPS))  # fmt: skip
        head = {"world": name, "n_features": len(world.target), "d_in": world.d_in}
        tables.append(pd.concat([pd.DataFrame(head, index=table.index), table], axis=1))
    return pd.concat(tables, ignore_index=True)
