"""Runs an experiment part by part, keeping every finished part on disk."""

import gc
import time
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from .. import checked, hosts
from ..bits import in_32_bits
from ..errors import ToysaeError
from ..evaluation.scoring import score_group
from ..programs import forget_if_short
from ..recovery.probe import recovery_probe
from ..runs.checkpoints import Checkpoints, clear_away
from ..runs.directory import BROKEN, Directory
from ..runs.lock import locked
from ..runs.mark import check_ours
from ..runs.progress import Progress, say
from ..runs.provenance import provenance
from ..sae import SAE
from ..training import Snapshot, train_group
from ..training.devices import UNSPLIT, Split
from ..training.memory import bytes_needed
from ..watch import Request, Stopped, about, doing, stop_requests
from .experiment import Experiment
from .parts import Job, Part, jobs_of, parts_of
from .results import NAMES, Results
from .space import check_space
from .store import files_of, find, finished, save_part, set_broken_aside, stored_parts


class Unfinished(ToysaeError):
    """Some SAEs could not be trained; the others are on disk."""


@in_32_bits
def run(
    experiment: Experiment,
    out: str | Path,
    fresh: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = 60.0,
    split: Split = UNSPLIT,
) -> Results:
    """Trains and scores what is not yet in `out`. Of many processes, see :mod:`toysae.hosts`, the
    first reads and writes there, so that the others need not see that disk.

    Args:
        experiment: what to run.
        out: the results directory; of the SAEs in it those that the experiment asks for are used,
            the others are kept.
        fresh: discard what runs have written there and begin again; anything else is left.
        quiet: no progress bar, and only lines about what went wrong.
        checkpoint_seconds: how often a part's training is saved while it lasts; 0 for every chunk.
        split: of each SAE among several devices; changes no result but by the order of sums.

    Returns:
        The complete results.

    Raises:
        ToysaeError: bad input, another process at the same directory, or too little disk space,
            before anything trains; a full disk.
        Unfinished: SAEs that did not fit the device even alone; all others are finished.
        Stopped: by Ctrl-C or SIGTERM, at the end of a chunk; the same call goes on.
    """
    checked.number("checkpoint_seconds", checkpoint_seconds, low=0)
    jobs, path = jobs_of(experiment, split), Path(out)
    hosts.on_first(check_ours, path)
    results = Results(path)
    with ExitStack() as held:
        hosts.on_first(lambda: held.enter_context(locked(path)))
        request = held.enter_context(stop_requests(speaks=hosts.is_first()))
        doing(f"reading {path}")
        places = hosts.on_first(_prepare, results, fresh, jobs, experiment, quiet)
        parts = [Part(jobs[job], worlds, members) for job, worlds, members in places]
        try:
            failed = _Run(experiment, path, checkpoint_seconds, request).train(parts, quiet)
        except BaseException:
            if hosts.is_first():
                with suppress(ToysaeError):  # what went wrong is said, not what followed
                    results.save_table()
            raise
        hosts.on_first(results.save_table)
        if number := hosts.largest(request.number):
            raise Stopped(f"stopped: every SAE that fits is finished in {path}", number)
        if failed:
            hosts.on_first(results.save_failed, failed)
            raise Unfinished(
                f"{len(failed)} SAEs did not fit the device even alone: "
                f"{'; '.join(dict.fromkeys(failed.values()))}. The others are in {path}: use a "
                "smaller d_sae or batch_size"
            )
    return results


def _prepare(
    results: Results, fresh: bool, jobs: list[Job], e: Experiment, quiet: bool
) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Makes the directory that of this experiment. What is left to train: of each part the job's
    place, its worlds and its members."""
    path, asked = results.path, {key for job in jobs for key in job.keys.reshape(-1).tolist()}
    directory = Directory.claim(path)
    directory.check_reachable()
    directory.tidy()
    if fresh:
        _discard(directory)
    for line in set_broken_aside(directory):
        say(line)
    for name in directory.names():
        if wrong := directory.wrong(name):
            for place in directory.set_aside([name]):
                say(f"{path / name} {wrong}: moved to {place}")
    places = find(stored_parts(directory))
    done = finished(places, e.save_params)
    begun = clear_away(directory, done)
    parts = parts_of(jobs, done, begun)
    directory.check_free([*NAMES, *(name for part in parts for name in files_of(part.name))])
    check_space(path, parts, e.curve_points, e.save_params)
    prose = {"question": e.question, "expected": e.expected}
    changed = results.open(e.settings(), prose, [job.rows() for job in jobs])
    others = set(places) - asked
    if others:
        why = "; ".join(changed) or "of earlier settings"
        say(f"{len(others)} SAEs in {path} are not asked for ({why}): kept, left out of the table")
    bare = (set(places) & asked) - done
    if bare:
        say(f"{len(bare)} SAEs in {path} are there without their weights: trained again for them")
    if not quiet and (asked & done or begun):
        say(f"{len(asked & done)} of {len(asked)} SAEs are finished in {path}")
    results.save_table()
    return [(jobs.index(part.job), part.worlds, part.members) for part in parts]


def _discard(directory: Directory) -> None:
    """Removes all that runs have written, and names the rest."""
    moved = directory.remove(list(directory.files))
    if moved:
        say(f"{len(moved)} files had other bytes than were written: moved to {moved[0].parent}")
    left = [name for name in directory.strangers() if name != BROKEN]
    if left:
        few = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        say(f"{directory.path} also holds what no run of toysae wrote, which is left: {few}")


@dataclass(frozen=True)
class _Run:
    """What all parts of a run share."""

    experiment: Experiment
    path: Path
    checkpoint_seconds: float
    request: Request

    def train(self, parts: Iterable[Part], quiet: bool) -> dict[str, str]:
        """Trains all parts; one that does not fit the device in halves. What failed, and why."""
        left, failed = deque(parts), {}
        cost = {part.name: part.cost for part in left}
        with Progress(cost, quiet) as progress:
            while left:
                part = left.popleft()
                self._stop(part, 0, hosts.largest(self.request.number))
                if self._fits(part, progress):
                    continue
                gc.collect()  # arrays of what did not fit
                halves = part.halves() or ()
                progress.replace(part.name, {half.name: half.cost for half in halves})
                left.extendleft(reversed(halves))
                hosts.on_first(self._forget, part)
                if halves:
                    say(f"{part.name} does not fit the device: its {part.keys.size} SAEs go on in "
                        "halves")  # fmt: skip
                else:
                    say(f"{part.name} does not fit the device: left out")
                    failed[part.keys.item()] = part.name
        return failed

    def _fits(self, part: Part, progress: Progress) -> bool:
        """Trains a part; whether the device had the memory for it."""
        try:
            with about(part.name):
                self._train(part, progress)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if jax.process_count() > 1:  # the others wait for what will not come
                raise ToysaeError(
                    f"{part.name} does not fit the devices of process {jax.process_index()}: "
                    "use --split-latent, a smaller batch_size, or fewer SAEs in one experiment"
                ) from error
            return False
        return True

    def _train(self, part: Part, progress: Progress) -> None:
        e, cell, group = self.experiment, part.job.cell, part.group()
        forget_if_short(bytes_needed(group) if jax.default_backend() == "cpu" else 0)
        hosts.on_first(lambda: self._checkpoints(part).begin(part.keys, cell.n_steps))
        resume = hosts.on_first(lambda: self._checkpoints(part).latest(group))
        saved = time.monotonic()
        if resume is not None:
            say(f"{part.name} goes on at step {resume.step:,} of {cell.n_steps:,}")

        def on_chunk(snapshot: Snapshot) -> None:
            nonlocal saved
            progress.update(part.name, snapshot.step * group.n_rows * group.batch_size)
            stop = hosts.largest(self.request.number)
            due = hosts.from_first(time.monotonic() - saved >= self.checkpoint_seconds)
            if stop or due:
                doing(f"saving step {snapshot.step:,}")
                whole = hosts.whole(snapshot)
                hosts.on_first(lambda: self._checkpoints(part).save(whole))
                saved = time.monotonic()
            self._stop(part, snapshot.step, stop)

        trained = train_group(
            group, cell.n_steps, recovery_probe, e.curve_points, on_chunk=on_chunk, resume=resume
        )
        doing("scoring")
        scores, arrays = score_group(group, trained, cell.n_steps, e.n_eval)
        names = {"group": cell.slug, "world": cell.world, "recipe": cell.recipe, "init": cell.init}
        asked = np.tile(part.job.asked[list(part.members)], len(part.worlds))
        names = {**names, "knob": cell.knob, "l1": asked}
        table = pd.concat([pd.DataFrame(names, index=scores.index), scores], axis=1)
        weights = saved_weights(trained.saes) if e.save_params else None
        keys = part.keys.reshape(-1).tolist()
        doing("writing its results")
        hosts.on_first(
            lambda: save_part(
                Directory.open(self.path), part.name, keys, table, arrays, weights, provenance()
            )
        )
        hosts.on_first(self._forget, part)

    def _forget(self, part: Part) -> None:
        self._checkpoints(part).remove()

    def _checkpoints(self, part: Part) -> Checkpoints:
        """The part's, in the process that writes."""
        return Checkpoints(Directory.open(self.path), part.name)

    def _stop(self, part: Part, step: int, number: int) -> None:
        """Does, if a signal of that number has asked for it."""
        if number:
            raise Stopped(hosts.on_first(self._stopped_at, part, step), number)

    def _stopped_at(self, part: Part, step: int) -> str:
        results = Results(self.path)
        n_asked = sum(len(cell["keys"]) for cell in results.plan)
        return (
            f"stopped: {len(results.table)} of {n_asked} SAEs are finished, {part.name} is at step "
            f"{step:,} of {part.job.cell.n_steps:,}; all of it is kept in {self.path}"
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
