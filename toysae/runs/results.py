"""Results on disk: a directory whose files are each written whole or not at all, and sealed.

toysae-run.json          the files that runs wrote here, see :mod:`toysae.runs.directory`
config.json              the settings of the last run, versions, device
plan.json                the SAEs that it asks for, cell by cell
table.csv                one row for each of them that is finished
blocks/                  finished blocks of cells, see :mod:`toysae.runs.store`
checkpoints/             half-trained blocks, see :mod:`toysae.runs.checkpoints`
failed.json              SAEs of the last run that did not fit the device by themselves

SAEs on disk that the last run did not ask for are kept and left out of the results. This module
only reads; :mod:`toysae.runs.ledger` writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import checked
from ..aliases import OLD_COLUMNS, renamed
from ..checked import Fields, integer, parse_json, shown
from ..errors import require, unknown
from ..lazy import pd
from ..own_code import warn_of_other_code
from ..sae import SAE, SAESpec
from ..sae.files import classes_of, from_json
from ..sae.forward import of_arrays
from ..worlds import World
from .directory import Directory
from .mark import Seal
from .snapshot import Scan, joined
from .store import Place, find, stored_blocks
from .worlds import KIND, world_of

CONFIG, PLAN, FAILED, RESULTS = NAMES = ("config.json", "plan.json", "failed.json", "table.csv")
_SHARED = "curve_steps"  # the one array without a row axis


class Results:
    """A results directory, readable at any moment.

    Attributes:
        path: the directory.
        name: its name, for titles.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.name = self.path.name
        self._files: dict[str, Seal | None] = {}
        self._snapshot = Scan((), {})

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Opens an existing directory.

        Raises:
            ToysaeError: there are no results in it, or those of an older toysae.
        """
        results = cls(checked.path("path", path))
        require(results.config is not None, f"{path} holds no results: give a directory of a run")
        return results

    @property
    def directory(self) -> Directory:
        """The directory, with its files as they are at this moment."""
        return Directory.open(self.path)

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration of the last run, or None for a new directory."""
        return self._json(self.directory, CONFIG)

    @property
    def plan(self) -> list[dict[str, Any]]:
        """The cells of the last run, see :meth:`toysae.runs.cell.Cell.rows`."""
        return self._plan(self.directory)

    @property
    def failed(self) -> dict[str, str]:
        """Why SAEs of the last run could not be trained, by key."""
        return self._json(self.directory, FAILED) or {}

    @property
    def cells(self) -> list[str]:
        """The names of the cells that have at least one finished SAE, in the order they run."""
        return [cell.plan["cell"] for cell in self.snapshot().cells]

    @property
    def table(self) -> pd.DataFrame:
        """One row for each finished SAE, by cell, world and member.

        Members are in the order of the points that first ask for them, then of the grid, then of
        seeds. `row` is the place of an SAE in the arrays of its `cell`. The values that a sweep
        sets have columns, with "_asked" after a name that a score has; `setting` names all of them
        but the sparsity, or is "-".

        Raises:
            ToysaeError: a file is not as it was written.
        """
        return self.snapshot().table.copy()

    def arrays(self, cell: str) -> dict[str, np.ndarray]:
        """The arrays of a cell's finished SAEs, all but `curve_steps` with a leading row axis."""
        blocks, rows = joined(self._places(cell))
        arrays = [block.arrays() for block in blocks]
        return _concatenated(arrays, rows) | {_SHARED: arrays[0][_SHARED]}

    def weights(self, cell: str) -> dict[str, np.ndarray]:
        """The weights of a cell's finished SAEs with a leading row axis: `W_dec [rows, d_sae,
        d_in]`, `b_dec` if there is one, and the encoder's own."""
        blocks, rows = joined(self._places(cell))
        have = all(block.has_weights for block in blocks)
        require(have, f"cell {cell!r} was run without its weights: use --save-params")
        return _concatenated([block.weights() for block in blocks], rows)

    def select(self, **values: Any) -> pd.DataFrame:
        """The rows of :attr:`table` with these values; the index has their places there.

        >>> results.select(recipe="untied", ratio=4, init=["random", "svd"])

        Args:
            **values: of columns, one value or several.

        Raises:
            ToysaeError: no such column, or no row has these values.
        """
        table = self.table
        for column, value in renamed(values, OLD_COLUMNS, table.columns).items():
            if column not in table:
                raise unknown("column", column, table.columns)
            wanted = [value] if isinstance(value, str) or not np.iterable(value) else list(value)
            rows = table[table[column].isin(wanted)]
            require(len(rows) > 0, f"no row has {column} {shown(value)}: write one of "
                    f"{_few(table[column])}")  # fmt: skip
            table = rows
        return table

    def sae(self, row: int) -> SAE:
        """The SAE of a row of :attr:`table`, ready to call.

        Warns if a component of it is a user's own and its code has changed.

        Raises:
            ToysaeError: no such row, a run without its weights, or a component of a user's own
                whose file is not imported.
        """
        block, at = self._place(row)
        require(block.has_weights, f"row {row} was run without its weights: use --save-params")
        manifest = block.manifest()
        spec = from_json(manifest.any("spec"))
        require(isinstance(spec, SAESpec), f"{manifest.where} holds no spec: run again")
        code = manifest.object("code").value
        for component in classes_of(spec):
            warn_of_other_code(component, code, self.path)
        by_row = manifest.object("hypers").value
        hypers = {name: jnp.float32(values[at]) for name, values in by_row.items()}
        arrays = {name: jnp.asarray(values[at]) for name, values in block.weights().items()}
        return of_arrays(spec, arrays, hypers)

    def world(self, row: int) -> World:
        """The world that the SAE of a row of :attr:`table` was trained on, made again.

        Raises:
            ToysaeError: no such row; it was not trained on a named world, but for example on
                activations; or a world of a user's own whose file is not imported.
        """
        block, at = self._place(row)
        manifest = block.manifest()
        data = manifest.object("data")
        kind = data.text("kind", "data of a study's own")
        require(kind == KIND, f"row {row} was trained on {kind}, not on a world that make_world "
                f"makes: see results.manifest({row}).object('data') for its data")  # fmt: skip
        return world_of(data, manifest.items("worlds")[at])

    def arrays_of(self, row: int) -> dict[str, np.ndarray]:
        """The arrays of the SAE of a row of :attr:`table`, see :meth:`arrays`.

        Raises:
            ToysaeError: no such row.
        """
        block, at = self._place(row)
        arrays = block.arrays().items()
        return {name: values if name == _SHARED else values[at] for name, values in arrays}

    def manifest(self, row: int) -> Fields:
        """The manifest of the block that holds the SAE of a row of :attr:`table`, see
        :func:`toysae.runs.store.manifest_of`.

        Raises:
            ToysaeError: no such row.
        """
        return self._place(row)[0].manifest()

    def snapshot(self) -> Scan:
        """The finished SAEs at this moment; the blocks are scanned only if files have changed."""
        directory = self.directory
        if directory.files != self._files:
            files = dict(directory.files)  # reading may refresh those of the directory
            self._snapshot = Scan(self._plan(directory), find(stored_blocks(directory)))
            self._files = files
        return self._snapshot

    def _place(self, row: int) -> Place:
        """The place of a row of the table."""
        places = self.snapshot().places
        require(len(places) > 0, f"nothing is finished in {self.name}: no SAE to take")
        return places[integer("row", row, 0, len(places) - 1)]

    def _places(self, cell: str) -> list[Place]:
        """The places of the finished SAEs of a cell, in the order of its rows."""
        cells = self.snapshot().cells
        for each in cells:
            if each.plan["cell"] == cell:
                return each.places
        raise unknown("cell", cell, [each.plan["cell"] for each in cells])

    def _plan(self, directory: Directory) -> list[dict[str, Any]]:
        return (self._json(directory, PLAN) or {"cells": []})["cells"]

    def _json(self, directory: Directory, name: str) -> dict[str, Any] | None:
        if name not in directory.files:
            return None
        return Fields(parse_json(directory.read(name), name), self.path / name).value


def _few(values: pd.Series) -> str:
    known = [f"{value:g}" if isinstance(value, float) else str(value) for value in values.unique()]
    return ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")


def _concatenated(blocks: list[dict[str, np.ndarray]], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Some rows of the arrays that all blocks have, by name."""
    names = [n for n in blocks[0] if n != _SHARED and all(n in arrays for arrays in blocks)]
    return {n: np.concatenate([arrays[n] for arrays in blocks])[rows] for n in names}


def open_results(path: str | Path) -> Results:
    """Opens the results of a run.

    Raises:
        ToysaeError: there are no results in that directory, or those of an older toysae.
    """
    return Results.load(path)
