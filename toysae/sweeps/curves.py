"""The oracle curves of an experiment: what its worlds allow at each L0."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import pandas as pd

from ..evaluation.ceilings import ceilings
from .cells import cells, worlds_of
from .experiment import Experiment

ORACLES = ("truth-fista", "truth-omp", "truth-encoder")
_SAMPLES = 16_384
_STEPS = 10_000


def oracle_curves(experiment: Experiment, methods: Sequence[str] = ORACLES) -> pd.DataFrame:
    """Some of :data:`ORACLES` on the first world seed of every world of an experiment.

    The encoder is trained for as many steps as the SAEs of that world, at most 10,000.

    Returns:
        What :func:`toysae.evaluation.ceilings.ceilings` gives, after the columns `world`, `setting`
        (as in the table of the results; the rows of a world come once for each), `n_features`
        and `d_in`.
    """
    first = replace(experiment, world_seeds=1)
    worlds = worlds_of(first)
    steps: dict[tuple, int] = {}
    settings: dict[tuple, dict[str, None]] = {}
    for cell in cells(first, worlds):
        key = (cell.world, cell.world_fields)
        steps[key] = max(steps.get(key, 1), cell.n_steps)
        settings.setdefault(key, {}).update(dict.fromkeys(cell.settings))
    tables = []
    for (name, fields), n_steps in steps.items():
        world = jax.tree.map(lambda leaf: leaf[0], worlds(name, fields))
        table = ceilings(world, n_samples=min(first.n_eval, _SAMPLES), methods=methods,
                         n_steps=min(n_steps, _STEPS))  # fmt: skip
        for setting in settings[name, fields]:
            head = {"world": name, "setting": setting or "-", "n_features": len(world.target),
                    "d_in": world.d_in}  # fmt: skip
            tables.append(pd.concat([pd.DataFrame(head, index=table.index), table], axis=1))
    return pd.concat(tables, ignore_index=True)
