"""Runs cells block by block and keeps every finished block on disk."""

import gc
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import hosts
from ..bits import in_32_bits
from ..errors import ToysaeError
from ..programs import forget_if_short
from ..sae import SAE
from ..training import Snapshot, train_ensemble
from ..training.memory import bytes_needed
from ..watch import Request, Stopped, about, doing, stop_requests
from .blocks import Block, check_cells
from .cell import Cell
from .checkpoints import Checkpoints
from .directory import Directory
from .launch import Launcher, follow, work_command
from .ledger import save_failed, save_table
from .mark import check_ours
from .options import DEFAULTS, Options
from .prepare import prepare
from .progress import Progress, say
from .provenance import provenance
from .queue import Queue
from .results import Results
from .store import manifest_of, save_block

_WAIT_SECONDS = 1.0  # between looks at the blocks that others train


class Unfinished(ToysaeError):
    """Some SAEs could not be trained; the others are on disk."""


@in_32_bits
def run(
    cells: Sequence[Cell],
    out: str | Path,
    options: Options = DEFAULTS,
    *,
    launch: Launcher | None = None,
    settings: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Results:
    """Trains and measures the SAEs of cells that are not yet in `out`.

    Several processes may do so at once, on one machine or on many that share the directory: each
    takes blocks of SAEs until none is left. Of many processes that train as one, see
    :mod:`toysae.hosts`, only the first reads and writes there, so that the others need not see
    that disk.

    Args:
        cells: what to train.
        out: the results directory. Its SAEs that the cells ask for are used, others are kept.
        options: how to run them.
        launch: starts other processes that do the work in place of this one, see
            :mod:`toysae.runs.launch`. `about["command"]` must tell them how to make the same cells.
        settings: what the cells were made from, to report what has changed since the last run.
        about: what else is written down with the settings, such as the question.

    Returns:
        The results, complete unless `options.wait` is False.

    Raises:
        ToysaeError: before anything trains, bad input, other processes that train other SAEs in the
            directory, or too little disk space; later, a full disk.
        Unfinished: some SAEs did not fit the device by themselves; all others are finished.
        Stopped: by Ctrl-C or SIGTERM, at the end of a chunk; the same call goes on.
    """
    check_cells(cells, options.split)
    path = Path(out)
    hosts.on_first(check_ours, path)
    results = Results(path)
    queue = Queue(path, cells, options.split, options.lease_seconds, options.keep_weights)
    with stop_requests(speaks=hosts.is_first()) as request:
        doing(f"reading {path}")
        hosts.on_first(prepare, queue, options, settings or {}, about or {})
        try:
            if launch is None:
                _Run(path, queue, options, request).train()
            else:
                follow(queue, launch, work_command(path), options.quiet)
        except BaseException:
            if hosts.is_first():
                with suppress(ToysaeError):  # only the first error is reported
                    save_table(results)
            raise
        finally:
            queue.claims.release_all()
        hosts.on_first(save_table, results)
        if number := hosts.largest_of_all(request.number):
            raise Stopped(f"stopped: every SAE that fits is finished in {path}", number)
        failed = hosts.on_first(lambda: queue.read()[1])
        if failed and options.wait:
            hosts.on_first(
                lambda: save_failed(results, [b for b in queue.read()[0] if b.name in failed])
            )
            raise Unfinished(
                f"{len(failed)} SAEs did not fit the device even alone: "
                f"{'; '.join(failed)}. The others are in {path}: use a smaller d_sae or batch_size"
            )
    return results


class _Lost(Exception):
    """Another process has taken over the block."""


@dataclass(frozen=True)
class _Run:
    """The blocks that one process of a run trains."""

    path: Path
    queue: Queue
    options: Options
    request: Request

    def train(self) -> None:
        """Trains blocks until none is left; one that does not fit the device in halves.

        The claim of a finished block is given up only after the next one is claimed, so that others
        see at any moment between two blocks that this process is at work.
        """
        cost = hosts.on_first(lambda: {block.name: block.cost for block in self.queue.read()[0]})
        last: Block | None = None
        with Progress(cost, self.options.quiet) as progress:
            while True:
                self._stop(None, 0, hosts.largest_of_all(self.request.number))
                block = self._next()
                if last is not None and (block is None or block.name != last.name):
                    hosts.on_first(self.queue.claims.release, last.name)
                last = block
                if block is None:
                    if not self.options.wait or hosts.on_first(self.queue.is_empty):
                        return
                    doing("waiting for blocks that other processes train", _WAIT_SECONDS * 100,
                          phase="waiting")  # fmt: skip
                    progress.follow(hosts.on_first(self.queue.done))
                    time.sleep(_WAIT_SECONDS)
                    continue
                if not self._fits(block, progress):
                    gc.collect()  # arrays of the block that did not fit
                    self._halve(block, progress)

    def _next(self) -> Block | None:
        """Claims a block, the same in all processes that train as one."""
        cells = self.queue.cells

        def take() -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
            block = self.queue.take()
            return None if block is None else (cells.index(block.cell), block.worlds, block.members)

        taken = hosts.on_first(take)
        if taken is None:
            return None
        cell, worlds, members = taken
        return Block(cells[cell], worlds, members, self.options.split)

    def _halve(self, block: Block, progress: Progress) -> None:
        """Queues the halves of a block that does not fit the device, or leaves out its one SAE."""
        halves = block.halves() or ()
        progress.replace(block.name, {half.name: half.cost for half in halves})
        hosts.on_first(self._forget, block)
        if halves:
            say(f"{block.name} does not fit the device: its {block.keys.size} SAEs go on in halves")
        else:
            say(f"{block.name} does not fit the device: left out")
        hosts.on_first(self.queue.replace, block, halves, "does not fit the device")

    def _fits(self, block: Block, progress: Progress) -> bool:
        """Trains a block, and returns whether the device had the memory for it."""
        try:
            with about(block.name):
                self._train(block, progress)
        except _Lost:
            say(f"{block.name} was taken over by another process while this one stood still")
            hosts.on_first(self.queue.claims.release, block.name)
            if hosts.on_first(self.queue.is_done, block):  # nobody needs this checkpoint
                hosts.on_first(self._forget, block)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if jax.process_count() > 1:  # the others wait for this one
                raise ToysaeError(
                    f"{block.name} does not fit the devices of process {jax.process_index()}: "
                    "use --split-latent, a smaller batch_size, or fewer SAEs in one experiment"
                ) from error
            return False
        return True

    def _train(self, block: Block, progress: Progress) -> None:
        """Trains, measures and stores a block, from its last checkpoint on."""
        cell, ensemble = block.cell, block.ensemble()
        forget_if_short(bytes_needed(ensemble) if jax.default_backend() == "cpu" else 0)
        hosts.on_first(lambda: self._checkpoints(block).begin(block.keys, cell.n_steps))
        resume = hosts.on_first(lambda: self._checkpoints(block).latest(ensemble))
        saved = time.monotonic()
        if resume is not None:
            say(f"{block.name} goes on at step {resume.step:,} of {cell.n_steps:,}")

        def on_chunk(snapshot: Snapshot) -> None:
            nonlocal saved
            self._check_held(block)
            progress.update(block.name, snapshot.step * ensemble.n_rows * ensemble.batch_size)
            stop = hosts.largest_of_all(self.request.number)
            late = time.monotonic() - saved >= self.options.checkpoint_seconds
            if stop or hosts.from_first(late):
                doing(f"saving step {snapshot.step:,}", phase="writing")
                whole = hosts.whole(snapshot)
                hosts.on_first(lambda: self._checkpoints(block).save(whole))
                saved = time.monotonic()
            self._stop(block, snapshot.step, stop)

        with cell.data.feeding(cell.n_steps, cell.batch_size) as feed:
            trained = train_ensemble(
                ensemble, cell.n_steps, cell.measure.probe, cell.measure.curve_points,
                on_chunk=on_chunk, resume=resume, feed=feed,
            )  # fmt: skip
        doing("scoring", phase="scoring")
        scores, arrays = cell.measure(ensemble, trained, cell.n_steps)
        weights = saved_weights(trained.saes) if self.options.keep_weights else None
        keys = block.keys.reshape(-1).tolist()
        doing("writing its results", phase="writing")
        self._check_held(block)

        def save() -> None:
            ways = [list(way) for way in trained.ways]
            manifest = {**manifest_of(block), "ways": ways, **provenance()}
            directory = Directory.open(self.path)
            save_block(directory, block.name, keys, scores, arrays, weights, manifest)
            self._forget(block)

        hosts.on_first(save)

    def _check_held(self, block: Block) -> None:
        """Ends the training of a block whose claim this process has lost."""
        if hosts.on_first(self.queue.claims.is_lost, block.name):
            raise _Lost

    def _forget(self, block: Block) -> None:
        self._checkpoints(block).remove()

    def _checkpoints(self, block: Block) -> Checkpoints:
        """The checkpoints of a block, in the process that writes."""
        return Checkpoints(Directory.open(self.path), block.name)

    def _stop(self, block: Block | None, step: int, number: int) -> None:
        """Raises :class:`Stopped` if a signal, of that number, has asked for it."""
        if number:
            raise Stopped(hosts.on_first(self._stopped_at, block, step), number)

    def _stopped_at(self, block: Block | None, step: int) -> str:
        """A line that says how far the run is."""
        results = Results(self.path)
        n_asked = sum(len(cell["keys"]) for cell in results.plan)
        at = "" if block is None else (
            f"{block.name} is at step {step:,} of {block.cell.n_steps:,}; "
        )  # fmt: skip
        return (
            f"stopped: {len(results.table)} of {n_asked} SAEs are finished, {at}all of it is kept "
            f"in {self.path}"
        )


def saved_weights(saes: SAE) -> dict[str, np.ndarray]:
    """An ensemble's weights by name, with one leading row axis."""
    fields = dict(vars(saes.weights))
    del fields["arithmetic"]
    weights = {**fields.pop("enc"), **fields.pop("act")}
    weights.update({name: value for name, value in fields.items() if value is not None})
    weights.update({name: value for name, value in saes.run.items() if name != "progress"})
    flat = jax.device_get(weights)
    return {k: np.ascontiguousarray(v.reshape(-1, *v.shape[2:])) for k, v in flat.items()}
