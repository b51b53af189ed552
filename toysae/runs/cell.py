"""Cells: SAEs that share one compiled program, with their data and their measure."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..digests import FORMAT, canonical, digest
from ..door import check_fields
from ..evaluation.measure import Measure
from ..own_code import own_code
from ..points import Points
from ..sae import SAESpec
from ..sae.files import as_json
from ..training import Ensemble, Feed
from ..training.members import ensemble_of, member_grid
from ..worlds import Drawn

Column = str | float | Sequence[str | float]
"""One value for all rows of a cell, or one for each of its members before SAE seeds."""


class Data(ABC):
    """What the SAEs of a cell train on: worlds, or what stands in for them."""

    seeds: tuple[int, ...]
    """Seeds of the data streams, one for each world."""

    @property
    @abstractmethod
    def worlds(self) -> Drawn:
        """The stacked worlds, leading axis `[len(seeds)]`; made once."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that decides the data of all worlds alike, as JSON holds it."""

    def identity_of(self, i: int) -> dict[str, Any]:
        """Everything else that decides the data of the i-th world."""
        return {"world_seed": self.seeds[i]}

    def columns(self) -> Mapping[str, Sequence[str | float]]:
        """Columns of the table with one value for each world, besides those of the measure."""
        return {}

    def own_components(self) -> tuple[object, ...]:
        """Objects whose code decides the data too, where a user wrote it."""
        return ()

    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """What is stored about the data with the SAEs, as JSON holds it; `kind` names the data."""

    @contextmanager
    def feeding(self, n_steps: int, batch_size: int) -> Iterator[Feed | None]:
        """Gives each step its data while a block trains, if :attr:`worlds` do not draw them."""
        yield None


@dataclass(frozen=True, eq=False)
class Cell:
    """SAEs that share one compiled program: every member on every world of the data.

    Attributes:
        name: of the cell, with which the names of its files begin.
        data: what the SAEs train on.
        spec: of every member.
        members: the numbers of each, before seeds.
        sae_seeds: each member is trained once with each.
        n_steps: of training.
        batch_size: samples a step.
        measure: what is measured of the trained SAEs.
        columns: columns that identify their rows, before the scores in the table.
        labels: further columns, after the scores. A label with the name of a score gets "_asked"
            after its name.
    """

    name: str
    data: Data
    spec: SAESpec
    members: Points
    sae_seeds: tuple[int, ...]
    n_steps: int
    batch_size: int
    measure: Measure
    columns: Mapping[str, Column] = field(default_factory=dict)
    labels: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)

    @cached_property
    def ensemble(self) -> Ensemble:
        """All SAEs of the cell, whether or not they fit the device together.

        Raises:
            ToysaeError: a number that is unknown, missing or out of bounds.
        """
        d = self.data
        return ensemble_of(
            d.worlds, d.seeds, self.spec, self.members, self.sae_seeds, self.batch_size
        )

    @cached_property
    def keys(self) -> np.ndarray:
        """`[n_worlds, n_members]` strings of 16 hex digits: for each SAE a hash of everything that
        decides its numbers, and of nothing else.

        Results are found by their key, whatever they were made for. It does not depend on versions,
        the device, names, labels, or the other SAEs that train in the same block.
        """
        shared = {
            "format": FORMAT,
            **self.data.identity(),
            "spec": as_json(self.spec, "spec"),
            "n_steps": self.n_steps,
            "batch_size": self.batch_size,
            **self.measure.identity(),
        }
        if code := own_code(self.spec, *self.data.own_components(), self.measure):
            shared["code"] = code
        text = canonical(shared)
        hypers, seeds = self.hypers
        members = [
            canonical({"sae_seed": seed, "hypers": {name: v[i] for name, v in hypers.items()}})
            for i, seed in enumerate(seeds)
        ]
        worlds = [canonical(self.data.identity_of(i)) for i in range(len(self.data.seeds))]
        return np.array([[digest(text, world, member) for member in members] for world in worlds])

    @cached_property
    def hypers(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The numbers of the SAEs on one world by name, and their seeds, each `[n_members]`."""
        return member_grid(self.spec, self.members, self.sae_seeds)

    def rows(self) -> dict[str, Any]:
        """The rows of the cell in the table, as JSON holds them: its name, the values of its
        `columns` and `labels`, and the `keys`."""
        columns = {name: self._by_row(value) for name, value in self.columns.items()}
        labels = {name: self._by_row(value) for name, value in self.labels.items()}
        n_members = len(self.hypers[1])
        for name, values in self.data.columns().items():
            columns[name] = np.repeat(np.asarray(values), n_members).tolist()
        keys = self.keys.reshape(-1).tolist()
        return {"cell": self.name, "columns": columns, "labels": labels, "keys": keys}

    def _by_row(self, value: Column) -> Any:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return value
        each = np.repeat(np.asarray(value), len(self.sae_seeds))  # seeds vary fastest
        return np.tile(each, len(self.data.seeds)).tolist()
