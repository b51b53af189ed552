"""Results on disk: a directory whose every file is written whole or not at all, and sealed.

toysae-run.json          which files a run wrote here, see :mod:`toysae.runs.directory`
config.json              the settings of the run that wrote here last, versions, device
plan.json                which SAEs it asks for, cell by cell
table.csv                one row for each of them that is finished
blocks/                  finished blocks of cells, see :mod:`toysae.runs.store`
checkpoints/             half-trained ones, see :mod:`toysae.runs.checkpoints`
failed.json              SAEs of the last run that did not fit the device even alone

SAEs that are on disk and that the last run did not ask for are left alone and left out. Here it is
only read; :mod:`toysae.runs.ledger` writes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from .. import checked
from ..aliases import COLUMNS, renamed
from ..checked import Fields, integer, parse_json, shown
from ..errors import require, unknown
from ..own_code import warn_of_other_code
from ..sae import SAE, SAESpec
from ..sae.files import classes_of, from_json
from ..sae.forward import of_arrays
from ..worlds import World
from .directory import Directory
from .store import Stored, StoredPlaces, find, stored_blocks
from .worlds import KIND, world_of

CONFIG, PLAN, FAILED, RESULTS = NAMES = ("config.json", "plan.json", "failed.json", "table.csv")
_SIZES = ("d_in", "n_steps", "batch_size")  # have columns that say the same
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

    @classmethod
    def load(cls, path: str | Path) -> "Results":
        """Opens an existing directory.

        Raises:
            ToysaeError: there are no results in it, or those of an older toysae.
        """
        found = cls(checked.path("path", path))
        require(found.config is not None, f"{path} holds no results: give a directory of a run")
        return found

    @property
    def directory(self) -> Directory:
        """Its files, as they are at this moment."""
        return Directory.open(self.path)

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration of the last run, or None for a new directory."""
        return self._json(CONFIG)

    @property
    def plan(self) -> list[dict[str, Any]]:
        """The cells of the last run: what their rows are called, and the `keys` of them."""
        return (self._json(PLAN) or {"cells": []})["cells"]

    @property
    def failed(self) -> dict[str, str]:
        """By key, why an SAE of the last run could not be trained."""
        return self._json(FAILED) or {}

    @property
    def cells(self) -> list[str]:
        """Cells by name that have at least one finished SAE, in the order they run."""
        places = self._places()
        return [c["cell"] for c in self.plan if any(key in places for key in c["keys"])]

    @property
    def table(self) -> pd.DataFrame:
        """One row for each finished SAE, by cell, world and member (these in the order of the
        points that first ask for them, then of the grid, then of seeds). `row` is its place in
        the arrays of its `cell`. What the points set has a column, with "_asked" after a name that
        a score has; `setting` says all of it but the sparsity, or "-".

        Raises:
            ToysaeError: a file is not as it was written.
        """
        return self.table_of(self._places())

    def table_of(self, places: StoredPlaces) -> pd.DataFrame:
        """The rows of :attr:`table` at some places, see :func:`toysae.runs.store.find`."""
        plan, frames = self.plan, []
        told = {name for cell in plan for name, value in cell["labels"].items() if _says(value)}
        for cell in plan:
            at = [i for i, key in enumerate(cell["keys"]) if key in places]
            if at:
                blocks, rows = _together([places[cell["keys"][i]] for i in at])
                frame = pd.concat([block.table() for block in blocks]).iloc[rows]
                columns = {"cell": cell["cell"]} | _taken(cell["columns"], at)
                scores = frame.drop(columns=[n for n in columns if n in frame]).assign(
                    row=range(len(at))
                )
                labels = {
                    f"{name}_asked" if name in scores else name: _or_dash(value)
                    for name, value in _taken(cell["labels"], at).items()
                    if name in told and name not in _SIZES
                }
                named = pd.DataFrame(columns, index=scores.index)
                frames.append(pd.concat([named, scores], axis=1).assign(**labels))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def arrays(self, cell: str) -> dict[str, np.ndarray]:
        """Arrays of a cell's finished SAEs, all but `curve_steps` with a leading row axis."""
        blocks, rows = _together(self._rows(cell))
        held = [block.arrays() for block in blocks]
        shared = held[0][_SHARED]
        return _stacked(held, rows) | {_SHARED: shared}

    def weights(self, cell: str) -> dict[str, np.ndarray]:
        """Weights of a cell's finished SAEs with a leading row axis: `W_dec [rows, d_sae, d_in]`,
        `b_dec` where there is one, and the encoder's own."""
        blocks, rows = _together(self._rows(cell))
        have = all(block.has_weights for block in blocks)
        require(have, f"cell {cell!r} was run without its weights: use --save-params")
        return _stacked([block.weights() for block in blocks], rows)

    def select(self, **values: Any) -> pd.DataFrame:
        """The rows of :attr:`table` with these values; its index says their places there.

        >>> results.select(recipe="untied", ratio=4, init=["random", "svd"])

        Args:
            **values: of columns, one value or several.

        Raises:
            ToysaeError: no such column, or no row has these values.
        """
        table = self.table
        for column, value in renamed(values, COLUMNS, table.columns).items():
            if column not in table:
                raise unknown("column", column, table.columns)
            wanted = [value] if isinstance(value, str) or not np.iterable(value) else list(value)
            kept = table[table[column].isin(wanted)]
            require(len(kept) > 0, f"no row has {column} {shown(value)}: of the others "
                    f"{_few(table[column])} are there")  # fmt: skip
            table = kept
        return table

    def sae(self, row: int) -> SAE:
        """The SAE of a row of :attr:`table`, ready to call.

        Warns where a part of it is of a user's own and has other code now.

        Raises:
            ToysaeError: no such row, a run without its weights, or a part of a user's own whose
                file is not imported.
        """
        block, at = self._stored(row)
        require(block.has_weights, f"row {row} was run without its weights: use --save-params")
        manifest = block.manifest()
        spec = from_json(manifest.any("spec"))
        require(isinstance(spec, SAESpec), f"{manifest.where} holds no spec: run again")
        code = manifest.object("code").value
        for part in classes_of(spec):
            warn_of_other_code(part, code, self.path)
        held = manifest.object("hypers").value
        hypers = {name: jnp.float32(values[at]) for name, values in held.items()}
        arrays = {name: jnp.asarray(values[at]) for name, values in block.weights().items()}
        return of_arrays(spec, arrays, hypers)

    def world(self, row: int) -> World:
        """The world that the SAE of a row of :attr:`table` was trained on, made again.

        Raises:
            ToysaeError: no such row; it was trained on activations; or a world of a user's own
                whose file is not imported.
        """
        block, at = self._stored(row)
        manifest = block.manifest()
        data = manifest.object("data")
        kind = data.text("kind")
        named = "only a world with a name is made again"
        require(kind == KIND, f"row {row} was trained on {kind}: {named}")
        return world_of(data, manifest.items("worlds")[at])

    def arrays_of(self, row: int) -> dict[str, np.ndarray]:
        """The arrays of the SAE of a row of :attr:`table`, see :meth:`arrays`.

        Raises:
            ToysaeError: no such row.
        """
        block, at = self._stored(row)
        held = block.arrays().items()
        return {name: values if name == _SHARED else values[at] for name, values in held}

    def manifest(self, row: int) -> Fields:
        """What is written down of the SAE of a row of :attr:`table` and of those that trained with
        it, see :func:`toysae.runs.store.manifest_of`.

        Raises:
            ToysaeError: no such row.
        """
        return self._stored(row)[0].manifest()

    def _stored(self, row: int) -> tuple[Stored, int]:
        """The block of a row of the table, and its row there."""
        places = self._places()
        keys = [key for cell in self.plan for key in cell["keys"] if key in places]
        require(len(keys) > 0, f"nothing is finished in {self.name}: no SAE to take")
        return places[keys[integer("row", row, 0, len(keys) - 1)]]

    def _json(self, name: str) -> dict[str, Any] | None:
        directory = self.directory
        if name not in directory.files:
            return None
        return Fields(parse_json(directory.read(name), name), self.path / name).value

    def _places(self) -> Mapping[str, tuple[Stored, int]]:
        return find(stored_blocks(self.directory))

    def _rows(self, cell: str) -> list[tuple[Stored, int]]:
        """Where each finished SAE of a cell is, in the order of its rows."""
        known = self.cells
        if cell not in known:
            raise unknown("cell", cell, known)
        places = self._places()
        keys = next(each["keys"] for each in self.plan if each["cell"] == cell)
        return [places[key] for key in keys if key in places]


def _taken(columns: dict[str, Any], at: list[int]) -> dict[str, Any]:
    """Of each column the values of some rows of its cell."""
    return {
        name: [value[i] for i in at] if isinstance(value, list) else value
        for name, value in columns.items()
    }


def _says(value: Any) -> bool:
    """Whether a label says something of any row."""
    return any(each != "" for each in value) if isinstance(value, list) else value != ""


def _or_dash(value: Any) -> Any:
    return ["-" if each == "" else each for each in value] if isinstance(value, list) else value


def _few(values: pd.Series) -> str:
    known = [f"{value:g}" if isinstance(value, float) else str(value) for value in values.unique()]
    return ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")


def _together(found: list[tuple[Stored, int]]) -> tuple[list[Stored], np.ndarray]:
    """The blocks of some SAEs, and the places of these when all that the blocks hold is put
    together."""
    blocks = {block.name: block for block, _ in found}
    ends = np.cumsum([len(block.keys) for block in blocks.values()])
    starts = dict(zip(blocks, [0, *ends.tolist()], strict=False))
    return list(blocks.values()), np.array([starts[block.name] + row for block, row in found])


def _stacked(held: list[dict[str, np.ndarray]], rows: np.ndarray) -> dict[str, np.ndarray]:
    names = [name for name in held[0] if name != _SHARED and all(name in each for each in held)]
    return {name: np.concatenate([each[name] for each in held])[rows] for name in names}


def open_results(path: str | Path) -> Results:
    """The results of a run, :meth:`Results.load`.

    Raises:
        ToysaeError: there are no results in that directory, or those of an older toysae.
    """
    return Results.load(path)
