"""The blocks of a run, which any number of processes take in turn until none is left.

queue.json      which run it belongs to, and the blocks in order: the cell, worlds and members of
                each, and why one that does not fit the device was left out
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
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
        split: how each SAE is split among several devices.
        lease_seconds: after which the claim of a process that stands still has lapsed.
        keep_weights: whether a block without its weights counts as not finished.
    """

    path: Path
    cells: Sequence[Cell]
    split: Split = UNSPLIT
    lease_seconds: float = LEASE_SECONDS
    keep_weights: bool = False

    @cached_property
    def claims(self) -> Claims:
        """The claims of this process."""
        return Claims(self.path, self.lease_seconds)

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Keeps other processes from taking a block or changing the queue in the `with` block."""
        with telling_of_no_access(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with held(self._lock, _MOST_WAIT):
            yield

    def write(self, blocks: Sequence[Block], failed: Mapping[str, str] | None = None) -> None:
        """Makes these the blocks of the run; `failed` says by name why one is left out."""
        rows = [
            {"cell": self.cells.index(block.cell), "worlds": block.worlds,
             "members": block.members, "failed": (failed or {}).get(block.name, "")}
            for block in blocks
        ]  # fmt: skip
        text = json.dumps({"run": self._run, "blocks": rows}).encode()
        Directory.open(self.path).write({QUEUE: text})

    def read(self, directory: Directory | None = None) -> tuple[list[Block], dict[str, str]]:
        """Returns the blocks in order, and by name why some could not be trained; from a
        `directory` that was opened just before, if there is one.

        Raises:
            ToysaeError: another run has begun there, while this one held no block.
        """
        text = (directory or Directory.open(self.path)).read(QUEUE)
        fields = Fields(parse_json(text, QUEUE), QUEUE)
        require(
            fields.text("run") == self._run,
            f"another run, of other SAEs, has begun in {self.path} meanwhile: run again when it "
            "has ended, or choose another --out",
        )
        blocks, failed = [], {}
        for item in fields.items("blocks"):
            row = Fields(item, QUEUE)
            cell = self.cells[row.integer("cell", low=0, high=len(self.cells) - 1)]
            block = Block(cell, tuple(row.items("worlds")), tuple(row.items("members")), self.split)
            blocks.append(block)
            if why := row.text("failed", ""):
                failed[block.name] = why
        return blocks, failed

    def take(self) -> Block | None:
        """Claims the first block that is neither finished nor claimed; None if there is none at
        this moment."""
        with self.planning():
            directory = Directory.open(self.path)
            blocks, failed = self.read(directory)
            for block in blocks:
                is_left = block.name not in failed and not self.is_done(block, directory)
                if is_left and self.claims.take(block.name):
                    return block
        return None

    def replace(self, block: Block, by: Sequence[Block], why: str = "") -> None:
        """Replaces a block by others; if there are none, notes why it is left out."""
        with self.planning():
            blocks, failed = self.read()
            at = [each.name for each in blocks].index(block.name)
            if by:
                blocks[at : at + 1] = by
            else:
                failed[block.name] = why
            self.write(blocks, failed)

    def done(self) -> dict[str, int]:
        """The SAE-samples that each block has been trained on, by name: all of a finished block,
        otherwise those up to the last checkpoint."""
        directory, done = Directory.open(self.path), {}
        for block in self.read(directory)[0]:
            if self.is_done(block, directory):
                done[block.name] = block.cost
            else:
                step = max(Checkpoints(directory, block.name).steps(), default=0)
                done[block.name] = block.cost * step // max(block.cell.n_steps, 1)
        return done

    def is_done(self, block: Block, directory: Directory | None = None) -> bool:
        """Whether a block is finished."""
        files = (directory or Directory.open(self.path)).files
        names = files_of(block.name) if self.keep_weights else [manifest_name(block.name)]
        return all(files.get(name) is not None for name in names)

    def is_empty(self) -> bool:
        """Whether every block is finished, or could not be trained."""
        directory = Directory.open(self.path)
        blocks, failed = self.read(directory)
        return all(b.name in failed or self.is_done(b, directory) for b in blocks)

    @cached_property
    def _lock(self) -> SoftFileLease:
        return SoftFileLease(self.path / PLANNING, lease_duration=self.lease_seconds)

    @cached_property
    def _run(self) -> str:
        """A digest of all keys: blocks are given by their places in the cells of one run."""
        return digest(*(cell.name + digest(*cell.keys.reshape(-1).tolist()) for cell in self.cells))
