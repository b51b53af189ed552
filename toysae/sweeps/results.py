"""Results on disk: a directory whose every file is written whole or not at all.

config.json              the experiment's fields, versions, device
table.csv                one row for each SAE
groups/<group>.csv       its rows; written last, so it marks the group as finished
groups/<group>.npz       arrays by row: MCS of every feature, curves, firings
groups/<group>.safetensors   weights, if kept
ceilings.csv             oracle curves of its worlds, once a figure asked for them
"""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from ..disk import write
from ..errors import ToysaeError, require, unknown
from .curves import oracle_curves
from .experiment import Experiment


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
            ToysaeError: there are no results in it.
        """
        found = cls(path)
        require(found.config is not None, f"{path} holds no results: give a directory of a run")
        return found

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration it was made with, or None for a new directory."""
        file = self.path / "config.json"
        if not file.exists():
            return None
        try:
            return json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise ToysaeError(f"{file} is not JSON ({error}): remove the directory") from error

    @property
    def groups(self) -> list[str]:
        """Finished groups by name."""
        return sorted(file.stem for file in (self.path / "groups").glob("*.csv"))

    @property
    def table(self) -> pd.DataFrame:
        """One row for each SAE of every finished group."""
        frames = [pd.read_csv(self.path / "groups" / f"{name}.csv") for name in self.groups]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def arrays(self, group: str) -> dict[str, np.ndarray]:
        """Arrays of a finished group, most with a leading row axis."""
        self._require_group(group)
        with np.load(self.path / "groups" / f"{group}.npz") as file:
            return dict(file)

    def weights(self, group: str) -> dict[str, np.ndarray]:
        """Weights of a finished group with a leading row axis: `W_dec [rows, d_sae, d_in]`,
        `b_dec` where there is one, and the encoder's own."""
        self._require_group(group)
        file = self.path / "groups" / f"{group}.safetensors"
        require(file.exists(), f"group {group!r} was run without its weights: use --save-params")
        return load_file(file)

    def ceilings(self) -> pd.DataFrame:
        """The oracle curves of the worlds, see :func:`toysae.sweeps.curves.oracle_curves`: made
        from the settings the first time, then kept.

        Raises:
            ToysaeError: there are no results.
        """
        file = self.path / "ceilings.csv"
        if not file.exists():
            require(self.config is not None, f"{self.path} holds no results")
            table = oracle_curves(experiment_of(self.config or {}))
            write(file, lambda path: table.to_csv(path, index=False))
        return pd.read_csv(file)

    def _require_group(self, group: str) -> None:
        if group not in self.groups:
            raise unknown("group", group, self.groups)

    def open(self, settings: dict[str, Any], prose: dict[str, Any]) -> None:
        """Creates the directory or continues one with the same settings.

        Raises:
            ToysaeError: it holds a different configuration, naming the first field that differs.
        """
        settings = json.loads(json.dumps(settings))
        old = self.config
        if old is None:
            stray = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
            require(
                not stray, f"{self.path} is not empty and holds no results: choose another --out"
            )
        else:
            for field in sorted({*settings, *old["experiment"]}):
                had, wants = old["experiment"].get(field), settings.get(field)
                require(
                    had == wants,
                    f"{self.path} holds a different configuration: {field} was {had}, now {wants}: "
                    "choose another --out, or --fresh to discard it",
                )
        config = {"experiment": settings, **prose, **provenance()}
        self.path.mkdir(parents=True, exist_ok=True)
        write(self.path / "config.json", lambda p: p.write_text(json.dumps(config, indent=1)))
        (self.path / "groups").mkdir(exist_ok=True)

    def save_group(
        self,
        group: str,
        table: pd.DataFrame,
        arrays: dict[str, np.ndarray],
        weights: dict[str, np.ndarray] | None,
    ) -> None:
        """Writes a finished group; its table comes last."""
        stem = self.path / "groups" / group
        if weights is not None:
            write(Path(f"{stem}.safetensors"), lambda p: save_file(weights, p))
        write(Path(f"{stem}.npz"), lambda p: _save_arrays(p, arrays))
        write(Path(f"{stem}.csv"), lambda p: table.to_csv(p, index=False))

    def save_table(self) -> None:
        """Writes the whole table beside the groups."""
        write(self.path / "table.csv", lambda p: self.table.to_csv(p, index=False))


def experiment_of(config: dict[str, Any]) -> Experiment:
    """The experiment whose settings a configuration holds."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config["experiment"].items()
    }
    return Experiment(config["question"], **settings)


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def provenance() -> dict[str, Any]:
    """Versions, commit, device and time, to stand beside numbers."""
    names = ("toysae", "jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
        "versions": {name: version(name) for name in names},
        "commit": _commit(),
        "python": platform.python_version(),
        "backend": jax.default_backend(),
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "cpu_cores": os.cpu_count(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The commit of the checkout that this code runs from, if it does run from one."""
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
