"""What a run trains: of each cell the SAEs that are missing, in blocks that fit the device."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from ..digests import digest
from ..training import Ensemble
from ..training.devices import UNSPLIT, Split, layout_of
from ..training.memory import check_memory, fits
from .cell import Cell


@dataclass(frozen=True, eq=False)
class Block:
    """Some worlds of a cell, and of each the same members. They train as one ensemble, and are
    finished, or not, as one.

    Attributes:
        cell: the cell.
        worlds: places on the world axis of the cell.
        members: places on its member axis.
        split: of each SAE among several devices.
    """

    cell: Cell
    worlds: tuple[int, ...]
    members: tuple[int, ...]
    split: Split = UNSPLIT

    @property
    def keys(self) -> np.ndarray:
        """`[n_worlds, n_members]` of this block."""
        return self.cell.keys[np.ix_(self.worlds, self.members)]

    @property
    def name(self) -> str:
        """Of its files: says the cell, and which SAEs."""
        return f"{self.cell.name}-{digest(*self.keys.reshape(-1).tolist())[:8]}"

    @property
    def cost(self) -> int:
        """SAE-samples from the start to the end."""
        return len(self.worlds) * len(self.members) * self.cell.n_steps * self.cell.batch_size

    def ensemble(self) -> Ensemble:
        """What trains."""
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
        """Half of the members each, or of the worlds where there is one member; None of one SAE."""
        if len(self.members) > 1:
            at = len(self.members) // 2
            cut = [(self.worlds, self.members[:at]), (self.worlds, self.members[at:])]
        elif len(self.worlds) > 1:
            at = len(self.worlds) // 2
            cut = [(self.worlds[:at], self.members), (self.worlds[at:], self.members)]
        else:
            return None
        first, second = (Block(self.cell, *places, self.split) for places in cut)
        return first, second


def check_cells(cells: Sequence[Cell], split: Split = UNSPLIT) -> None:
    """Refuses cells that cannot be trained.

    Raises:
        ToysaeError: bad input; too few devices; an SAE that does not fit the device even alone.
    """
    for cell in cells:
        ensemble = replace(cell.ensemble, split=split)
        layout_of(len(cell.data.seeds), len(ensemble.sae_seeds), split)
        if not fits(ensemble):
            check_memory(Block(cell, (0,), (0,), split).ensemble())


def blocks_of(
    cells: Sequence[Cell],
    done: Collection[str],
    begun: Collection[np.ndarray] = (),
    split: Split = UNSPLIT,
) -> list[Block]:
    """Blocks that hold each missing SAE once.

    Args:
        cells: all of them; an SAE that two ask for is trained for the first.
        done: keys that are finished.
        begun: keys `[n_worlds, n_members]` of blocks that are half trained, and go on as they are.
        split: of each SAE among several devices.
    """
    taken, found = set(done), []
    for cell in cells:
        missing = np.zeros(cell.keys.shape, bool)
        for place, key in np.ndenumerate(cell.keys):
            missing[place] = key not in taken
            taken.add(key)
        for keys in begun:
            block = _placed(cell, keys, split)
            if block is not None and missing[np.ix_(block.worlds, block.members)].all():
                missing[np.ix_(block.worlds, block.members)] = False
                found.append(block)
        for block in _together(cell, missing, split):
            found += halved(block, lambda block: fits(block.ensemble()))
    return found


def halved(block: Block, fits: Callable[[Block], bool]) -> list[Block]:
    """The block, halved until each piece fits or is one SAE."""
    halves = block.halves()
    if halves is None or fits(block):
        return [block]
    return [piece for half in halves for piece in halved(half, fits)]


def _together(cell: Cell, missing: np.ndarray, split: Split) -> list[Block]:
    """Worlds that miss the same members stand together."""
    alike: dict[bytes, list[int]] = {}
    for world, row in enumerate(missing):
        if row.any():
            alike.setdefault(row.tobytes(), []).append(world)
    return [
        Block(cell, tuple(worlds), tuple(np.flatnonzero(missing[worlds[0]]).tolist()), split)
        for worlds in alike.values()
    ]


def _placed(cell: Cell, keys: np.ndarray, split: Split) -> Block | None:
    """The block of a cell that has these keys."""
    at: dict[str, tuple[int, ...]] = {}
    for place, key in np.ndenumerate(cell.keys):
        at.setdefault(key, place)
    if not all(key in at for key in keys.reshape(-1).tolist()):
        return None
    block = Block(
        cell,
        tuple(at[key][0] for key in keys[:, 0].tolist()),
        tuple(at[key][1] for key in keys[0].tolist()),
        split,
    )
    return block if np.array_equal(block.keys, keys) else None
