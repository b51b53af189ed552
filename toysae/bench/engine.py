"""What the engine of :mod:`toysae.runs` costs: its overhead in training, and opening results."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np

from ..evaluation.measure import Measure, RecoveryScores
from ..points import grid
from ..runs.blocks import Block
from ..runs.cell import Cell
from ..runs.directory import Directory
from ..runs.ledger import open_run, save_table
from ..runs.options import Options
from ..runs.provenance import provenance
from ..runs.results import Results
from ..runs.run import run, saved_weights
from ..runs.store import manifest_of, save_block
from ..runs.worlds import Worlds
from ..sae import RECIPES, make_spec
from ..training import train_ensemble
from .presets import Preset, preset_fields
from .timing import median, range_text, seconds_of
from .training import Trainer


def preset_cell(p: Preset, n_steps: int, measure: Measure, world_seed: int = 0) -> Cell:
    """The preset's ensemble as a cell, with the recipe's toy numbers."""
    return Cell(
        name=f"{p.recipe}-{world_seed}",
        data=Worlds(p.world, tuple(preset_fields(p).items()), (world_seed,)),
        spec=make_spec(p.recipe, p.d_in, p.d_sae, arithmetic=p.arithmetic),
        members=grid(**RECIPES[p.recipe].toy),
        sae_seeds=tuple(range(p.n_members)),
        n_steps=n_steps,
        batch_size=p.batch_size,
        measure=measure,
        columns={"recipe": p.recipe, "world": p.world},
    )


@dataclass(frozen=True)
class Overhead:
    """The same ensemble through the engine, and trained and measured directly.

    Attributes:
        shape: of the ensemble.
        n_eval: samples that each SAE is scored on.
        curve_points: of the learning curves.
        least_seconds: that the steps of a round take.
    """

    shape: Preset
    n_eval: int = 65_536
    curve_points: int = 40
    least_seconds: float = 20.0

    def time(self, seconds: float, rounds: int) -> dict[str, Any]:
        """A row: seconds of both, in turns, and how much longer the engine takes in per cent."""
        n_steps = Trainer(self.shape, max(seconds, self.least_seconds)).chunk
        measure = RecoveryScores(self.n_eval, self.curve_points)
        cell = preset_cell(self.shape, n_steps, measure)
        ways = {"direct": direct_seconds, "engine": engine_seconds}
        for way in ways.values():
            way(replace(cell, n_steps=2))  # compiles; the number of steps is traced
        timed: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                timed[name].append(way(replace(cell)))  # of which nothing is cached
        overhead = 100 * (np.array(timed["engine"]) / np.array(timed["direct"]) - 1)
        return {
            "shape": self.shape.shape,
            "SAEs": self.shape.n_members,
            "steps": n_steps,
            **{f"{name} s": median(took, 3) for name, took in timed.items()},
            "overhead %": median(overhead),
            "low-high %": range_text(overhead),
            "rounds": {f"{name} s": took for name, took in timed.items()},
        }


def direct_seconds(cell: Cell) -> float:
    """Seconds of training and measuring a cell's SAEs and nothing else."""

    def work() -> Any:
        m = cell.measure
        trained = train_ensemble(cell.ensemble, cell.n_steps, m.probe, m.curve_points)
        return m(cell.ensemble, trained, cell.n_steps)[1]

    return seconds_of(work)


def engine_seconds(cell: Cell) -> float:
    """Seconds of a run of a cell in a new directory, with its weights kept."""
    with TemporaryDirectory() as folder:
        return seconds_of(lambda: run([cell], Path(folder) / "run", Options(quiet=True)).path)


@dataclass(frozen=True)
class Opening:
    """A directory of many finished SAEs, opened and read.

    Attributes:
        shape: of each SAE.
        n_saes: in all.
        n_blocks: that they are in, as many in each.
    """

    shape: Preset
    n_saes: int
    n_blocks: int

    def time(self, seconds: float, rounds: int) -> dict[str, Any]:
        """A row: seconds from the path to the whole table."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "run"
            write_s = seconds_of(lambda: self.write(path))
            n_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            timed = [self.read_seconds(path) for _ in range(rounds)]
        return {
            "SAEs": self.n_saes,
            "blocks": self.n_blocks,
            "MB": round(n_bytes / 1e6, 1),
            "open and read s": median(timed, 3),
            "low-high s": range_text(timed),
            "write s": round(write_s, 1),
            "rounds": {"open and read s": timed},
        }

    def read_seconds(self, path: Path) -> float:
        """Seconds of opening the directory and reading its table."""
        return seconds_of(lambda: len(Results.load(path).table))

    def write(self, path: Path) -> None:
        """Writes the directory as a run does, every SAE with the numbers of one that is trained
        for one step."""
        cells = list(self._cells())
        directory = Directory.claim(path)
        open_run(directory, {}, {}, [cell.rows() for cell in cells])
        measure = cells[0].measure
        ensemble = preset_cell(self.shape, 1, measure).ensemble
        trained = train_ensemble(ensemble, 1, measure.probe, measure.curve_points)
        table, arrays = measure(ensemble, trained, 1)
        steps, weights = {"curve_steps": arrays.pop("curve_steps")}, saved_weights(trained.saes)
        made_by = provenance()
        for cell in cells:
            n_saes = cell.keys.size
            block, rows = Block(cell, (0,), tuple(range(n_saes))), np.zeros(n_saes, int)
            own, kept = jax.tree.map(lambda leaf, rows=rows: leaf[rows], (arrays, weights))
            keys, about = block.keys.reshape(-1).tolist(), {**manifest_of(block), **made_by}
            save_block(
                directory, block.name, keys, table.iloc[rows], own | steps, kept, about
            )  # fmt: skip
        save_table(Results(path))

    def _cells(self) -> Iterator[Cell]:
        """A cell a block, which differ in their number of steps."""
        n_members = self.n_saes // self.n_blocks
        first = preset_cell(
            replace(self.shape, n_members=n_members), 1, RecoveryScores(n_eval=1024, curve_points=4)
        )
        for n_steps in range(1, self.n_blocks + 1):
            yield replace(first, name=f"{first.name}-{n_steps}", n_steps=n_steps)
