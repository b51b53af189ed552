"""Runs cells block by block, keeping every finished block on disk."""

import gc
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import checked, hosts
from ..bits import in_32_bits
from ..errors import ToysaeError
from ..programs import forget_if_short
from ..sae import SAE
from ..training import Snapshot, train_group
from ..training.devices import UNSPLIT, Split
from ..training.memory import bytes_needed
from ..watch import Request, Stopped, about, doing, stop_requests
from .blocks import Block, blocks_of, check_cells
from .cell import Cell
from .checkpoints import Checkpoints, clear_away
from .directory import BROKEN, Directory
from .ledger import open_run, save_failed, save_table
from .lock import locked
from .mark import check_ours
from .progress import Progress, say
from .provenance import provenance
from .results import NAMES, Results
from .space import check_space
from .store import (
    files_of,
    find,
    finished,
    manifest_of,
    save_block,
    set_broken_aside,
    stored_blocks,
)


class Unfinished(ToysaeError):
    """Some SAEs could not be trained; the others are on disk."""


@dataclass(frozen=True)
class Options:
    """How a run is done, which changes no number but by the order of sums.

    Attributes:
        fresh: discard what runs have written there and begin again; anything else is left.
        quiet: no progress bar, and only lines about what went wrong.
        checkpoint_seconds: how often a block's training is saved while it lasts; 0 for every chunk.
        split: of each SAE among several devices.
        keep_weights: keep the SAEs' weights.
    """

    fresh: bool = False
    quiet: bool = False
    checkpoint_seconds: float = 60.0
    split: Split = UNSPLIT
    keep_weights: bool = True

    def __post_init__(self) -> None:
        checked.number("checkpoint_seconds", self.checkpoint_seconds, low=0)


PLAIN = Options()
"""Nothing special."""


@in_32_bits
def run(
    cells: Sequence[Cell],
    out: str | Path,
    options: Options = PLAIN,
    *,
    settings: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Results:
    """Trains and measures what is not yet in `out`. Of many processes, see :mod:`toysae.hosts`, the
    first reads and writes there, so that the others need not see that disk.

    Args:
        cells: what to train.
        out: the results directory; of the SAEs in it those that the cells ask for are used, the
            others are kept.
        options: how.
        settings: what the cells were made from, to say what has changed since the run before.
        about: what else is written down beside the settings, such as the question.

    Returns:
        The complete results.

    Raises:
        ToysaeError: bad input, another process at the same directory, or too little disk space,
            before anything trains; a full disk.
        Unfinished: SAEs that did not fit the device even alone; all others are finished.
        Stopped: by Ctrl-C or SIGTERM, at the end of a chunk; the same call goes on.
    """
    check_cells(cells, options.split)
    path = Path(out)
    hosts.on_first(check_ours, path)
    results = Results(path)
    with ExitStack() as held:
        hosts.on_first(lambda: held.enter_context(locked(path)))
        request = held.enter_context(stop_requests(speaks=hosts.is_first()))
        doing(f"reading {path}")
        places = hosts.on_first(_prepare, results, cells, options, settings or {}, about or {})
        blocks = [Block(cells[i], worlds, members, options.split) for i, worlds, members in places]
        try:
            failed = _Run(path, options, request).train(blocks)
        except BaseException:
            if hosts.is_first():
                with suppress(ToysaeError):  # what went wrong is said, not what followed
                    save_table(results)
            raise
        hosts.on_first(save_table, results)
        if number := hosts.largest(request.number):
            raise Stopped(f"stopped: every SAE that fits is finished in {path}", number)
        if failed:
            hosts.on_first(save_failed, results, failed)
            raise Unfinished(
                f"{len(failed)} SAEs did not fit the device even alone: "
                f"{'; '.join(dict.fromkeys(failed.values()))}. The others are in {path}: use a "
                "smaller d_sae or batch_size"
            )
    return results


def _prepare(
    results: Results,
    cells: Sequence[Cell],
    o: Options,
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Makes the directory that of these cells. What is left to train: of each block the cell's
    place, its worlds and its members."""
    path, asked = results.path, {key for cell in cells for key in cell.keys.reshape(-1).tolist()}
    directory = Directory.claim(path)
    directory.check_reachable()
    directory.tidy()
    if o.fresh:
        _discard(directory)
    for line in set_broken_aside(directory):
        say(line)
    for name in directory.names():
        if wrong := directory.wrong(name):
            for place in directory.set_aside([name]):
                say(f"{path / name} {wrong}: moved to {place}")
    places = find(stored_blocks(directory))
    done = finished(places, o.keep_weights)
    begun = clear_away(directory, done)
    blocks = blocks_of(cells, done, begun, o.split)
    directory.check_free([*NAMES, *(name for block in blocks for name in files_of(block.name))])
    check_space(path, blocks, o.keep_weights)
    changed = open_run(directory, settings, about, [cell.rows() for cell in cells])
    others = set(places) - asked
    if others:
        why = "; ".join(changed) or "of earlier settings"
        say(f"{len(others)} SAEs in {path} are not asked for ({why}): kept, left out of the table")
    bare = (set(places) & asked) - done
    if bare:
        say(f"{len(bare)} SAEs in {path} are there without their weights: trained again for them")
    if not o.quiet and (asked & done or begun):
        say(f"{len(asked & done)} of {len(asked)} SAEs are finished in {path}")
    save_table(results)
    return [(cells.index(block.cell), block.worlds, block.members) for block in blocks]


def _discard(directory: Directory) -> None:
    """Removes all that runs have written, and names the rest."""
    moved = directory.remove(list(directory.files))
    if moved:
        say(f"{len(moved)} files had other bytes than were written: moved to {moved[0].parent}")
    left = [name for name in directory.strangers() if name != BROKEN]
    if left:
        few = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        say(f"{directory.path} also holds what is none of a run's results, which is left: {few}")


@dataclass(frozen=True)
class _Run:
    """What all blocks of a run share."""

    path: Path
    options: Options
    request: Request

    def train(self, blocks: Iterable[Block]) -> dict[str, str]:
        """Trains all blocks; one that does not fit the device in halves. What failed, and why."""
        left, failed = deque(blocks), {}
        cost = {block.name: block.cost for block in left}
        with Progress(cost, self.options.quiet) as progress:
            while left:
                block = left.popleft()
                self._stop(block, 0, hosts.largest(self.request.number))
                if self._fits(block, progress):
                    continue
                gc.collect()  # arrays of what did not fit
                halves = block.halves() or ()
                progress.replace(block.name, {half.name: half.cost for half in halves})
                left.extendleft(reversed(halves))
                hosts.on_first(self._forget, block)
                if halves:
                    say(f"{block.name} does not fit the device: its {block.keys.size} SAEs go on "
                        "in halves")  # fmt: skip
                else:
                    say(f"{block.name} does not fit the device: left out")
                    failed[block.keys.item()] = block.name
        return failed

    def _fits(self, block: Block, progress: Progress) -> bool:
        """Trains a block; whether the device had the memory for it."""
        try:
            with about(block.name):
                self._train(block, progress)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if jax.process_count() > 1:  # the others wait for what will not come
                raise ToysaeError(
                    f"{block.name} does not fit the devices of process {jax.process_index()}: "
                    "use --split-latent, a smaller batch_size, or fewer SAEs in one experiment"
                ) from error
            return False
        return True

    def _train(self, block: Block, progress: Progress) -> None:
        cell, group = block.cell, block.group()
        forget_if_short(bytes_needed(group) if jax.default_backend() == "cpu" else 0)
        hosts.on_first(lambda: self._checkpoints(block).begin(block.keys, cell.n_steps))
        resume = hosts.on_first(lambda: self._checkpoints(block).latest(group))
        saved = time.monotonic()
        if resume is not None:
            say(f"{block.name} goes on at step {resume.step:,} of {cell.n_steps:,}")

        def on_chunk(snapshot: Snapshot) -> None:
            nonlocal saved
            progress.update(block.name, snapshot.step * group.n_rows * group.batch_size)
            stop = hosts.largest(self.request.number)
            late = time.monotonic() - saved >= self.options.checkpoint_seconds
            if stop or hosts.from_first(late):
                doing(f"saving step {snapshot.step:,}")
                whole = hosts.whole(snapshot)
                hosts.on_first(lambda: self._checkpoints(block).save(whole))
                saved = time.monotonic()
            self._stop(block, snapshot.step, stop)

        with cell.data.feeding(cell.n_steps, cell.batch_size) as feed:
            trained = train_group(
                group, cell.n_steps, cell.measure.probe, cell.measure.curve_points,
                on_chunk=on_chunk, resume=resume, feed=feed,
            )  # fmt: skip
        doing("scoring")
        scores, arrays = cell.measure(group, trained, cell.n_steps)
        weights = saved_weights(trained.saes) if self.options.keep_weights else None
        keys = block.keys.reshape(-1).tolist()
        doing("writing its results")

        def save() -> None:
            told = {**manifest_of(block), **provenance()}
            save_block(Directory.open(self.path), block.name, keys, scores, arrays, weights, told)

        hosts.on_first(save)
        hosts.on_first(self._forget, block)

    def _forget(self, block: Block) -> None:
        self._checkpoints(block).remove()

    def _checkpoints(self, block: Block) -> Checkpoints:
        """The block's, in the process that writes."""
        return Checkpoints(Directory.open(self.path), block.name)

    def _stop(self, block: Block, step: int, number: int) -> None:
        """Does, if a signal of that number has asked for it."""
        if number:
            raise Stopped(hosts.on_first(self._stopped_at, block, step), number)

    def _stopped_at(self, block: Block, step: int) -> str:
        results = Results(self.path)
        n_asked = sum(len(cell["keys"]) for cell in results.plan)
        return (
            f"stopped: {len(results.table)} of {n_asked} SAEs are finished, {block.name} is at "
            f"step {step:,} of {block.cell.n_steps:,}; all of it is kept in {self.path}"
        )


def saved_weights(saes: SAE) -> dict[str, np.ndarray]:
    """An ensemble's weights by name with one leading row axis."""
    parts = asdict(saes.weights)
    del parts["arithmetic"]
    weights = {**parts.pop("enc"), **parts.pop("act")}
    weights.update({name: value for name, value in parts.items() if value is not None})
    weights.update({name: value for name, value in saes.run.items() if name != "progress"})
    flat = jax.device_get(weights)
    return {k: np.ascontiguousarray(v.reshape(-1, *v.shape[2:])) for k, v in flat.items()}
