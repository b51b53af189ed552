"""Results on disk: a directory whose every file is written whole or not at all, and sealed.

toysae-run.json          which files a run wrote here, see :mod:`toysae.runs.directory`
config.json              the experiment's fields, versions, device
plan.json                which SAEs that experiment asks for, cell by cell
table.csv                one row for each of them that is finished
groups/                  finished parts of cells, see :mod:`toysae.sweeps.store`
checkpoints/             half-trained ones, see :mod:`toysae.runs.checkpoints`
failed.json              SAEs of the last run that did not fit the device even alone
ceilings.csv             oracle curves of its worlds, once a figure asked for them

SAEs that are on disk and that the experiment does not ask for are left alone and left out.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from .. import checked
from ..axes import Points
from ..checked import Fields, integer, parse_json
from ..errors import ToysaeError, require, unknown
from ..runs.directory import Directory
from ..runs.lock import locked
from ..runs.provenance import provenance
from ..sae import RECIPES, SAE
from ..sae.forward import of_arrays
from ..training.members import member_grid
from .cells import cells
from .curves import ORACLES, oracle_curves
from .experiment import Experiment
from .store import Stored, find, stored_parts

CONFIG, PLAN, FAILED, RESULTS, CEILINGS = NAMES = (
    "config.json", "plan.json", "failed.json", "table.csv", "ceilings.csv"
)  # fmt: skip
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
    def groups(self) -> list[str]:
        """Cells by name that have at least one finished SAE, in the order they run."""
        places = self._places()
        return [c["group"] for c in self.plan if any(key in places for key in c["keys"])]

    @property
    def table(self) -> pd.DataFrame:
        """One row for each finished SAE, by cell, world and member (these in the order of the
        points that first ask for them, then of the grid, then of seeds). `row` is its place in
        the arrays of its `group`. What the axes set has a column, with "_asked" after a name that
        a score has; `setting` says all of it but the sparsity, or "-".

        Raises:
            ToysaeError: a file is not as it was written.
        """
        return self.table_of(self._places())

    def table_of(self, places: Mapping[str, tuple[Stored, int]]) -> pd.DataFrame:
        """The rows of :attr:`table` at some places, see :func:`toysae.sweeps.store.find`."""
        plan, frames = self.plan, []
        varied = any(any(cell.get("settings", ())) for cell in plan)
        for cell in plan:
            at = [i for i, key in enumerate(cell["keys"]) if key in places]
            if at:
                parts, rows = _together([places[cell["keys"][i]] for i in at])
                frame = pd.concat([part.table() for part in parts]).iloc[rows]
                names = {name: cell[name] for name in ("group", "world", "recipe", "init", "knob")}
                own = {"l1": [cell["l1"][i] for i in at], "row": range(len(at))}
                axes = _axes(cell, at, varied, frame)
                frames.append(frame.assign(**names, **own, **axes))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def arrays(self, group: str) -> dict[str, np.ndarray]:
        """Arrays of a cell's finished SAEs, all but `curve_steps` with a leading row axis."""
        parts, rows = _together(self._rows(group))
        held = [part.arrays() for part in parts]
        shared = held[0][_SHARED]
        return _stacked(held, rows) | {_SHARED: shared}

    def weights(self, group: str) -> dict[str, np.ndarray]:
        """Weights of a cell's finished SAEs with a leading row axis: `W_dec [rows, d_sae, d_in]`,
        `b_dec` where there is one, and the encoder's own."""
        parts, rows = _together(self._rows(group))
        have = all(part.has_weights for part in parts)
        require(have, f"group {group!r} was run without its weights: use --save-params")
        return _stacked([part.weights() for part in parts], rows)

    def sae(self, row: int) -> SAE:
        """The SAE of a row of :attr:`table`, ready to call.

        Raises:
            ToysaeError: no such row, or a run without its weights.
        """
        table = self.table
        require(len(table) > 0, f"nothing is finished in {self.name}: no SAE to take")
        row = integer("row", row, 0, len(table) - 1)
        group, place = str(table["group"][row]), int(table["row"][row])
        arrays = {name: jnp.asarray(held[place]) for name, held in self.weights(group).items()}
        recipe = str(table["recipe"][row])
        require(
            recipe in RECIPES,
            f"recipe {recipe!r} is not one of toysae's: first import the file that defines it",
        )
        experiment = experiment_of(self.config or {})
        cell = next(cell for cell in cells(experiment) if cell.slug == group)
        seeds = range(experiment.sae_seeds)
        hypers, sae_seeds = member_grid(cell.spec, cell.members, tuple(seeds))
        keys = next(found["keys"] for found in self.plan if found["group"] == group)
        places = self._places()
        member = [i for i, key in enumerate(keys) if key in places][place] % len(sae_seeds)
        return of_arrays(cell.spec, arrays, {n: jnp.asarray(v[member]) for n, v in hypers.items()})

    def ceilings(self, methods: Sequence[str] = ORACLES) -> pd.DataFrame:
        """The oracle curves of the worlds, see :func:`toysae.sweeps.curves.oracle_curves`: made
        from the settings the first time, then kept.

        Raises:
            ToysaeError: there are no results.
        """
        kept = self._kept_ceilings()
        missing = [name for name in methods if name not in set(kept["method"])]
        if missing:
            require(self.config is not None, f"{self.path} holds no results")
            made = oracle_curves(experiment_of(self.config or {}), missing)
            both = pd.concat([kept, made] if len(kept) else [made], ignore_index=True)
            text = both.to_csv(index=False).encode()
            with suppress(ToysaeError), locked(self.path):  # it can be made again
                self.directory.write({CEILINGS: text})
            kept = pd.read_csv(BytesIO(text))
        return kept[kept["method"].isin(methods)].reset_index(drop=True)

    def save_table(self) -> None:
        """Writes the whole table beside the groups; none if nothing is finished."""
        table, directory = self.table, self.directory
        if table.empty:
            directory.remove([RESULTS])
        else:
            directory.write({RESULTS: table.to_csv(index=False).encode()})

    def save_failed(self, failed: dict[str, str]) -> None:
        """Keeps what :attr:`failed` says."""
        self.directory.write({FAILED: json.dumps(failed, indent=1).encode()})

    def open(self, settings: dict[str, Any], prose: dict[str, Any], plan: list[dict]) -> list[str]:
        """Makes this the directory of a run, whatever settings it had before.

        Returns:
            What has changed, e.g. "l1 was [0.1], now [0.2]".
        """
        settings = json.loads(json.dumps(settings))
        try:
            old = (self.config or {}).get("experiment", settings)
        except ToysaeError:  # damaged: it is written anew
            old = settings
        changed = [
            f"{field} was {old.get(field)}, now {settings.get(field)}"
            for field in sorted({*settings, *old})
            if old.get(field) != settings.get(field)
        ]
        directory = self.directory
        directory.remove([FAILED, *[CEILINGS] * bool(changed)])
        config = {"experiment": settings, **prose, **provenance()}
        held = {PLAN: {"cells": plan}, CONFIG: config}
        directory.write({name: json.dumps(what, indent=1).encode() for name, what in held.items()})
        return changed

    def _json(self, name: str) -> dict[str, Any] | None:
        directory = self.directory
        if name not in directory.files:
            return None
        return Fields(parse_json(directory.read(name), name), self.path / name).value

    def _kept_ceilings(self) -> pd.DataFrame:
        directory = self.directory
        if CEILINGS in directory.files:
            with suppress(ToysaeError):  # it is made again
                return pd.read_csv(BytesIO(directory.read(CEILINGS)))
        return pd.DataFrame({"method": []})

    def _places(self) -> dict[str, tuple[Stored, int]]:
        return find(stored_parts(self.directory))

    def _rows(self, group: str) -> list[tuple[Stored, int]]:
        """Where each finished SAE of a cell is, in the order of its rows."""
        known = self.groups
        if group not in known:
            raise unknown("group", group, known)
        places = self._places()
        keys = next(cell["keys"] for cell in self.plan if cell["group"] == group)
        return [places[key] for key in keys if key in places]


def _axes(cell: dict[str, Any], at: list[int], varied: bool, table: pd.DataFrame) -> dict:
    """The columns of what the axes set, which no score may be called like."""
    labels = cell.get("labels", {}).items()
    columns: dict[str, Any] = {
        f"{name}_asked" if name in table else name: value
        for name, value in labels
        if name not in _SIZES
    }
    return columns | ({"setting": [cell["settings"][i] or "-" for i in at]} if varied else {})


def _together(found: list[tuple[Stored, int]]) -> tuple[list[Stored], np.ndarray]:
    """The parts of some SAEs, and the places of these when all that the parts hold is put
    together."""
    parts = {part.name: part for part, _ in found}
    ends = np.cumsum([len(part.keys) for part in parts.values()])
    starts = dict(zip(parts, [0, *ends.tolist()], strict=False))
    return list(parts.values()), np.array([starts[part.name] + row for part, row in found])


def _stacked(held: list[dict[str, np.ndarray]], rows: np.ndarray) -> dict[str, np.ndarray]:
    names = [name for name in held[0] if name != _SHARED and all(name in each for each in held)]
    return {name: np.concatenate([each[name] for each in held])[rows] for name in names}


def experiment_of(config: dict[str, Any]) -> Experiment:
    """The experiment whose settings a configuration holds."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config["experiment"].items()
    }
    axes = Points.of(settings.pop("axes", [{}]))
    return Experiment(config["question"], axes=axes, **settings)
