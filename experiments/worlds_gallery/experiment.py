"""What does each named world look like? A panel figure for each, and a table of all."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import pandas as pd

from toysae.errors import unknown
from toysae.plotting.panel import panel_figure
from toysae.runs.cell import Cell
from toysae.runs.progress import say
from toysae.runs.results import Results
from toysae.sweeps.study import Drawing, Study
from toysae.worlds import WORLDS, make_world, world_fields
from toysae.worlds.panel import FeaturePanel, compare_panels, world_panel

SHOWN = (
    "features",
    "L0: mean, sd",
    "rank-frequency exponent",
    "largest firing-correlation eigenvalue",
    "excess kurtosis by dimension",
    "participation ratio / dimensions",
)  # in the first table


@dataclass(frozen=True)
class Options:
    """Which worlds, and how many samples.

    Attributes:
        worlds: by name; all if none is given.
        n_samples: drawn from each.
        max_features: worlds of more features by default are left out unless they are named.
        seed: of the worlds and of the samples.
    """

    worlds: tuple[str, ...] = ()
    n_samples: int = 65_536
    max_features: int = 20_000
    seed: int = 0


def cells(o: Options) -> list[Cell]:
    """No cells: only worlds are shown.

    Raises:
        ToysaeError: there is no world of a name.
    """
    for name in o.worlds:
        if name not in WORLDS:
            raise unknown("world", name, WORLDS)
    return []


@lru_cache(maxsize=1)
def panels(o: Options) -> dict[str, FeaturePanel]:
    """The panel of each world at its defaults, measured once for the tables and the figures."""
    names = o.worlds or tuple(
        name for name in WORLDS if world_fields(name).get("n_features", 0) <= o.max_features
    )
    measured = {}
    for name in names:
        start = time.perf_counter()
        measured[name] = world_panel(make_world(name, o.seed), o.n_samples, o.seed)
        say(f"{name}: {time.perf_counter() - start:.1f} s")
    return measured


def answer(o: Options, results: Results) -> dict[str, pd.DataFrame]:
    """The numbers of the panels, a row for each world."""
    rows = compare_panels(*panels(o).values())
    table = pd.DataFrame(rows, columns=["what", *panels(o)]).set_index("what").T
    table = table.rename_axis("world").reset_index()
    first = ["world", *SHOWN]
    return {"worlds": table[first], "other_statistics": table.drop(columns=first[1:])}


def draw(o: Options, results: Results) -> Iterator[Drawing]:
    """A figure for each world."""
    for name, panel in panels(o).items():
        yield f"world_{name}", *panel_figure({name: panel})


study = Study(
    question="What does each named world look like, in the statistics that a real model shows too?",
    expected="Independent worlds keep their firing correlations under the noise edge; trees, "
    "groups and copulas rise above it. Plain worlds are heavy-tailed along every dimension and "
    "spread over nearly all of them.",
    run_time="about 5 s a world on 2 CPU cores, more for the largest",
    options=Options(),
    smoke={"n_samples": 2048, "worlds": ("antipodal", "exclusive-pair")},
    cells=cells,
    answer=answer,
    draw=draw,
)
