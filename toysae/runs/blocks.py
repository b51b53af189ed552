"""Blocks: the SAEs of a cell that are still missing, in pieces that fit the device."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import numpy as np

from ..digests import digest
from ..training import Ensemble
from ..training.devices import UNSPLIT, Split, layout_of
from ..training.memory import check_memory, fits
from ..training.ways import check_arithmetic
from .cell import Cell


@dataclass(frozen=True, eq=False)
class Block:
    """Some members of a cell on some of its worlds, which train and are finished as one ensemble.

    Attributes:
        cell: whose SAEs they are.
        worlds: places on the world axis of the cell.
        members: places on the member axis of the cell.
        split: how each SAE is split among several devices.
    """

    cell: Cell
    worlds: tuple[int, ...]
    members: tuple[int, ...]
    split: Split = UNSPLIT

    @cached_property
    def keys(self) -> np.ndarray:
        """The keys of its SAEs, `[n_worlds, n_members]`."""
        return self.cell.keys[np.ix_(self.worlds, self.members)]

    @cached_property
    def name(self) -> str:
        """The stem of its files' names: the cell's name and a digest of the keys."""
        return f"{self.cell.name}-{digest(*self.keys.reshape(-1).tolist())[:8]}"

    @property
    def cost(self) -> int:
        """The number of SAE-samples of its whole training."""
        return len(self.worlds) * len(self.members) * self.cell.n_steps * self.cell.batch_size

    def ensemble(self) -> Ensemble:
        """The ensemble that trains."""
        whole = replace(self.cell.ensemble, split=self.split)
        if self.keys.size == self.cell.keys.size:
            return whole
        worlds, members = np.array(self.worlds), np.array(self.members)
        return replace(
            whole,
            worlds=jax.tree.map(lambda leaf: leaf[worlds], whole.worlds),
            world_seeds=whole.world_seeds[worlds],
            hypers={name: value[members] for name, value in whole.hypers.items()},
            sae_seeds=whole.sae_seeds[members],
        )

    def halves(self) -> "tuple[Block, Block] | None":
        """Two blocks with half of the members each, or half of the worlds if there is one member;
        None for a single SAE."""
        if len(self.members) > 1:
            axis, places = "members", self.members
        elif len(self.worlds) > 1:
            axis, places = "worlds", self.worlds
        else:
            return None
        half = len(places) // 2
        return replace(self, **{axis: places[:half]}), replace(self, **{axis: places[half:]})


def check_cells(cells: Sequence[Cell], split: Split = UNSPLIT) -> None:
    """Refuses cells that cannot be trained.

    Raises:
        ToysaeError: bad input; too few devices; an SAE that does not fit the device by itself.
    """
    for cell in cells:
        ensemble = replace(cell.ensemble, split=split)
        layout_of(len(cell.data.seeds), len(ensemble.sae_seeds), split)
        check_arithmetic(cell.spec, cell.batch_size, split)
        if not fits(ensemble):
            check_memory(Block(cell, (0,), (0,), split).ensemble())


def blocks_of(
    cells: Sequence[Cell],
    done: Collection[str],
    begun: Collection[np.ndarray] = (),
    split: Split = UNSPLIT,
) -> list[Block]:
    """Blocks that together hold each missing SAE once.

    Args:
        cells: all of them; an SAE that two ask for is trained for the first.
        done: keys of finished SAEs.
        begun: keys `[n_worlds, n_members]` of half-trained blocks, which go on as they are.
        split: how each SAE is split among several devices.
    """
    assigned, blocks = set(done), []
    for cell in cells:
        missing = np.zeros(cell.keys.shape, bool)
        for place, key in np.ndenumerate(cell.keys):
            missing[place] = key not in assigned
            assigned.add(key)
        for keys in begun:
            block = _block_with_keys(cell, keys, split)
            if block is not None and missing[np.ix_(block.worlds, block.members)].all():
                missing[np.ix_(block.worlds, block.members)] = False
                blocks.append(block)
        for block in _blocks_of_missing(cell, missing, split):
            blocks += halved(block, lambda block: fits(block.ensemble()))
    return blocks


def halved(block: Block, fits: Callable[[Block], bool]) -> list[Block]:
    """The block, halved until each piece fits or is a single SAE."""
    halves = block.halves()
    if halves is None or fits(block):
        return [block]
    return [piece for half in halves for piece in halved(half, fits)]


def _blocks_of_missing(cell: Cell, missing: np.ndarray, split: Split) -> list[Block]:
    """A block for all worlds on which the same members are missing."""
    worlds_by_members: dict[bytes, list[int]] = {}
    for world, row in enumerate(missing):
        if row.any():
            worlds_by_members.setdefault(row.tobytes(), []).append(world)
    return [
        Block(cell, tuple(worlds), tuple(np.flatnonzero(missing[worlds[0]]).tolist()), split)
        for worlds in worlds_by_members.values()
    ]


def _block_with_keys(cell: Cell, keys: np.ndarray, split: Split) -> Block | None:
    """The block of a cell that has the keys `[n_worlds, n_members]`, if there is one."""
    places: dict[str, tuple[int, ...]] = {}
    for place, key in np.ndenumerate(cell.keys):
        places.setdefault(key, place)
    if not all(key in places for key in keys.reshape(-1).tolist()):
        return None
    worlds = tuple(places[key][0] for key in keys[:, 0].tolist())
    block = Block(cell, worlds, tuple(places[key][1] for key in keys[0].tolist()), split)
    return block if np.array_equal(block.keys, keys) else None
