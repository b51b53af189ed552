"""The finished SAEs of a run at one moment: found in one scan, then read as often as need be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import groupby
from typing import Any

import numpy as np

from ..lazy import pd
from .store import Place, Stored, StoredPlaces

_SIZES = ("d_in", "n_steps", "batch_size")  # labels that repeat a column of the scores


@dataclass(frozen=True, eq=False)
class CellRows:
    """The finished SAEs of one cell.

    Attributes:
        plan: the cell as the plan has it, see :meth:`toysae.runs.cell.Cell.rows`.
        rows: which of the cell's rows are finished.
        places: of the SAEs of those rows.
    """

    plan: Mapping[str, Any]
    rows: list[int]
    places: list[Place]

    def values(self, kind: str, name: str) -> list[Any]:
        """The value of each finished row in one of the "columns" or "labels"."""
        value = self.plan[kind][name]
        one_for_all = not isinstance(value, list)
        return [value if one_for_all else value[row] for row in self.rows]


@dataclass(frozen=True, eq=False)
class Scan:
    """The finished SAEs of a run's cells.

    Attributes:
        plan: the cells that the run asks for, see :meth:`toysae.runs.cell.Cell.rows`.
        stored: the place of each stored SAE by its key.
    """

    plan: Sequence[Mapping[str, Any]]
    stored: StoredPlaces

    @cached_property
    def cells(self) -> list[CellRows]:
        """The cells that have finished SAEs, in the order of the plan."""
        cells = []
        for cell in self.plan:
            rows = [i for i, key in enumerate(cell["keys"]) if key in self.stored]
            if rows:
                cells.append(CellRows(cell, rows, [self.stored[cell["keys"][i]] for i in rows]))
        return cells

    @cached_property
    def places(self) -> list[Place]:
        """The place of each row of the table."""
        return [place for cell in self.cells for place in cell.places]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The table, see :attr:`toysae.runs.results.Results.table`.

        Raises:
            ToysaeError: a file is not as it was written.
        """
        texts = {name: block.table() for name, block in _blocks_of(self.places).items()}
        labels = {
            name
            for cell in self.plan
            for name, value in cell["labels"].items()
            if name not in _SIZES and any(each != "" for each in _listed(value))
        }

        def columns_of(cell: CellRows) -> tuple:
            """Equal for cells whose rows have the same columns."""
            headers = {texts[name].partition(b"\n")[0] for name in _blocks_of(cell.places)}
            return sorted(headers), [*cell.plan["columns"]], [*cell.plan["labels"]]

        frames = [
            _frame(list(cells), texts, labels) for _, cells in groupby(self.cells, columns_of)
        ]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def joined(places: Sequence[Place]) -> tuple[list[Stored], np.ndarray]:
    """The blocks that hold some SAEs, and the row of each SAE where these blocks are joined."""
    blocks = _blocks_of(places)
    ends = np.cumsum([len(block.keys) for block in blocks.values()])
    starts = dict(zip(blocks, [0, *ends.tolist()], strict=False))
    return list(blocks.values()), np.array([starts[block.name] + row for block, row in places])


def _blocks_of(places: Sequence[Place]) -> dict[str, Stored]:
    return {block.name: block for block, _ in places}


def _frame(cells: Sequence[CellRows], texts: Mapping[str, bytes], labels: set[str]) -> pd.DataFrame:
    """The rows of cells that have the same columns; `labels` that are empty everywhere are left
    out."""
    blocks, rows = joined([place for cell in cells for place in cell.places])
    scores = _scores([texts[block.name] for block in blocks]).iloc[rows].reset_index(drop=True)
    columns = {"cell": [cell.plan["cell"] for cell in cells for _ in cell.rows]}
    for name in cells[0].plan["columns"]:
        columns[name] = [value for cell in cells for value in cell.values("columns", name)]
    scores = scores.drop(columns=[name for name in columns if name in scores])
    scores = scores.assign(row=[i for cell in cells for i in range(len(cell.rows))])
    last = {}
    for name in cells[0].plan["labels"]:
        if name in labels:
            values = [value for cell in cells for value in cell.values("labels", name)]
            title = f"{name}_asked" if name in scores else name
            last[title] = ["-" if value == "" else value for value in values]
    return pd.concat([pd.DataFrame(columns), scores], axis=1).assign(**last)


def _scores(texts: Sequence[bytes]) -> pd.DataFrame:
    """The tables of several blocks below each other."""
    header = texts[0].partition(b"\n")[0]
    bodies = [text.partition(b"\n") for text in texts]
    if all(body[0] == header for body in bodies):
        table = pd.read_csv(BytesIO(b"\n".join([header, b"".join(body[2] for body in bodies)])))
        if all(dtype.kind in "biuf" for dtype in table.dtypes):
            return table
    # Blocks may read one column differently, as numbers or as text: each is read by itself.
    return pd.concat([pd.read_csv(BytesIO(text)) for text in texts])


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
