"""The blocks of a run, which any number of processes take in turn until none is left.

queue.json      which run it is of, and the blocks in order: the cell, worlds and members of each,
                and why one that does not fit the device was left out
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import SoftFileLease

from ..checked import Fields, parse_json
from ..digests import digest
from ..disk import telling_of_no_access
from ..errors import require
from ..training.devices import UNSPLIT, Split
from .blocks import Block
from .cell import Cell
from .checkpoints import Checkpoints
from .claims import LEASE_SECONDS, Claims, held
from .directory import Directory
from .mark import PLANNING
from .store import files_of, manifest_name

QUEUE = "queue.json"
_MOST_WAIT = 1800.0  # seconds: another may be making the queue of many thousand SAEs


@dataclass(frozen=True, eq=False)
class Queue:
    """The queue of a directory, as one of its processes sees it.

    Attributes:
        path: of the directory.
        cells: of the run.
        split: of each SAE among several devices.
        lease_seconds: after which the claim of a process that stands still has lapsed.
        keep_weights: a block without its weights is not finished.
    """

    path: Path
    cells: Sequence[Cell]
    split: Split = UNSPLIT
    lease_seconds: float = LEASE_SECONDS
    keep_weights: bool = False
    claims: Claims = field(init=False)
    _lease: SoftFileLease = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "claims", Claims(self.path, self.lease_seconds))
        lease = SoftFileLease(self.path / PLANNING, lease_duration=self.lease_seconds)
        object.__setattr__(self, "_lease", lease)

    @contextmanager
    def planning(self) -> Iterator[None]:
        """No other process takes a block or changes the queue in the block."""
        with telling_of_no_access(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with held(self._lease, _MOST_WAIT):
            yield

    def write(self, blocks: Sequence[Block], failed: Mapping[str, str] | None = None) -> None:
        """Makes these the blocks of the run."""
        rows = [
            {"cell": self.cells.index(block.cell), "worlds": block.worlds,
             "members": block.members, "failed": (failed or {}).get(block.name, "")}
            for block in blocks
        ]  # fmt: skip
        text = json.dumps({"run": self._run(), "blocks": rows}).encode()
        Directory.open(self.path).write({QUEUE: text})

    def read(self) -> tuple[list[Block], dict[str, str]]:
        """The blocks in order, and by name why some could not be trained.

        Raises:
            ToysaeError: another run has begun there, while this one held no block.
        """
        held = Fields(parse_json(Directory.open(self.path).read(QUEUE), QUEUE), QUEUE)
        require(
            held.text("run") == self._run(),
            f"another run, of other SAEs, has begun in {self.path} meanwhile: run again when it "
            "has ended, or choose another --out",
        )
        blocks, failed = [], {}
        for item in held.items("blocks"):
            row = Fields(item, QUEUE)
            cell = self.cells[row.integer("cell", low=0, high=len(self.cells) - 1)]
            block = Block(cell, tuple(row.items("worlds")), tuple(row.items("members")), self.split)
            blocks.append(block)
            if why := row.text("failed", ""):
                failed[block.name] = why
        return blocks, failed

    def take(self) -> Block | None:
        """The first block that is neither finished nor claimed, claimed now; None if there is none
        at this moment."""
        with self.planning():
            blocks, failed = self.read()
            directory = Directory.open(self.path)
            for block in blocks:
                is_left = block.name not in failed and not self._is_done(directory, block)
                if is_left and self.claims.take(block.name):
                    return block
        return None

    def replace(self, block: Block, by: Sequence[Block], why: str = "") -> None:
        """Puts other blocks in the place of one; if there are none, notes why it is left out."""
        with self.planning():
            blocks, failed = self.read()
            at = [each.name for each in blocks].index(block.name)
            if by:
                blocks[at : at + 1] = by
            else:
                failed[block.name] = why
            self.write(blocks, failed)

    def done(self) -> dict[str, int]:
        """Of each block by name the SAE-samples that are trained: of finished ones all, of those in
        work up to the last checkpoint."""
        directory, found = Directory.open(self.path), {}
        for block in self.read()[0]:
            if self._is_done(directory, block):
                found[block.name] = block.cost
            else:
                step = max(Checkpoints(directory, block.name).steps(), default=0)
                found[block.name] = block.cost * step // max(block.cell.n_steps, 1)
        return found

    def is_done(self, block: Block) -> bool:
        """Whether a block is finished."""
        return self._is_done(Directory.open(self.path), block)

    def is_empty(self) -> bool:
        """Whether every block is finished, or could not be trained."""
        blocks, failed = self.read()
        directory = Directory.open(self.path)
        return all(b.name in failed or self._is_done(directory, b) for b in blocks)

    def _run(self) -> str:
        """Tells runs of other cells apart, in whose places the blocks are given."""
        return digest(*(cell.name + digest(*cell.keys.reshape(-1).tolist()) for cell in self.cells))

    def _is_done(self, directory: Directory, block: Block) -> bool:
        names = files_of(block.name) if self.keep_weights else [manifest_name(block.name)]
        return all(directory.files.get(name) is not None for name in names)
