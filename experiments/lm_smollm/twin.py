"""The twin of a captured site: the worlds that SAEs train on, and the statistics they match."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from toysae.digests import canonical, digest
from toysae.disk import write
from toysae.lm.capture.shards import Manifest
from toysae.lm.capture.stream import Source
from toysae.lm.cards.card import make_twin, normalised_world
from toysae.runs.cell import Data
from toysae.worlds import World, stack
from toysae.worlds.files import load_world, save_world


@dataclass(frozen=True, eq=False)
class TwinWorlds(Data):
    """Worlds of a site's twin, one for each seed of its directions, as SAEs of the site see it.

    Attributes:
        site: the folder of the captured site that the twin is fitted to.
        capture: its manifest.
        ratios: features over dimensions that the twin may have.
        seeds: of the directions and of the data streams.
    """

    site: Path
    capture: Manifest
    ratios: Sequence[float]
    seeds: tuple[int, ...]

    @property
    def is_kept(self) -> bool:
        """Whether :meth:`keep` has nothing left to do."""
        return all(file.exists() for file in [*self._tables.values(), *self._files.values()])

    def keep(self, source: Source) -> None:
        """Fits the twin to the site's activations, and writes its worlds and tables to disk."""
        if self.is_kept:
            return
        fitted = make_twin(source, ratios=self.ratios)
        for seed, file in self._files.items():
            save_world(normalised_world(fitted.twin, seed), file)
        for name, table in (
            ("numbers", pd.DataFrame([fitted.twin.numbers()])),
            ("statistics", fitted.table),
        ):
            write(self._tables[name], lambda path, t=table: t.to_csv(path, index=False))

    def table(self, name: str) -> pd.DataFrame:
        """The "numbers" of the twin, or the "statistics" that it was fitted to."""
        return pd.read_csv(self._tables[name])

    @cached_property
    def worlds(self) -> World:
        return stack([load_world(file) for file in self._files.values()])

    def identity(self) -> dict[str, Any]:
        m = self.capture
        capture = [m.weights, m.corpus, m.site, m.first, m.dtype, m.centred]
        return {"twin_of": capture, "version": 1, "ratios": list(self.ratios)}

    def manifest(self) -> dict[str, Any]:
        return {
            "kind": "a twin", "site": self.capture.site, "capture": str(self.site.absolute()),
            "ratios": list(self.ratios), "seeds": list(self.seeds),
            "files": [str(file.absolute()) for file in self._files.values()],
        }  # fmt: skip

    @property
    def _folder(self) -> Path:
        return self.site.parent / f"twin-{digest(canonical(self.identity()))}"

    @property
    def _files(self) -> dict[int, Path]:
        return {seed: self._folder / f"{seed}.safetensors" for seed in self.seeds}

    @property
    def _tables(self) -> dict[str, Path]:
        return {name: self._folder / f"{name}.csv" for name in ("numbers", "statistics")}
