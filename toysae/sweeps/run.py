"""Runs an experiment part by part, keeping every finished part on disk."""

import gc
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from ..disk import TEMPORARY
from ..errors import ToysaeError
from ..recovery.probe import recovery_probe
from ..sae import SAE
from ..training import Snapshot, train_group
from ..training.devices import UNSPLIT, Split
from .checkpoints import Checkpoints, clear_away
from .experiment import Experiment
from .lock import locked
from .parts import Job, Part, jobs_of, parts_of
from .progress import Progress, say
from .provenance import provenance
from .results import Results, check_directory, discard
from .scoring import score_group
from .space import check_space
from .stopping import Request, Stopped, stop_requests
from .store import find, save_part, set_broken_aside, stored_parts


class Unfinished(ToysaeError):
    """Some SAEs could not be trained; the others are on disk."""


def run(
    experiment: Experiment,
    out: str | Path,
    fresh: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = 60.0,
    split: Split = UNSPLIT,
) -> Results:
    """Trains and scores what is not yet in `out`.

    Args:
        experiment: what to run.
        out: the results directory; of the SAEs in it those that the experiment asks for are used,
            the others are kept.
        fresh: discard what is there and begin again.
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
    jobs, path = jobs_of(experiment, split), Path(out)
    check_directory(path, fresh)
    with locked(path), stop_requests() as request:
        check_directory(path, fresh)
        if fresh:
            discard(path)
        results = Results(path)
        parts = _prepare(results, jobs, experiment, quiet)
        results.save_table()
        try:
            failed = _Run(experiment, path, checkpoint_seconds, request).train(parts, quiet)
        except BaseException:
            with suppress(ToysaeError):  # what went wrong is said, not what followed
                results.save_table()
            raise
        results.save_table()
        if failed:
            results.save_failed(failed)
            raise Unfinished(
                f"{len(failed)} SAEs did not fit the device even alone: "
                f"{'; '.join(dict.fromkeys(failed.values()))}. The others are in {path}: use a "
                "smaller d_sae or batch_size"
            )
    return results


def _prepare(results: Results, jobs: list[Job], e: Experiment, quiet: bool) -> list[Part]:
    """Makes the directory that of this experiment. What is left to train."""
    path, asked = results.path, {key for job in jobs for key in job.keys.reshape(-1).tolist()}
    for file in path.glob(f".*{TEMPORARY}"):
        file.unlink()
    for line in set_broken_aside(path / "groups"):
        say(line)
    places = find(stored_parts(path / "groups"))
    done = {key for key, (part, _) in places.items() if part.has_weights or not e.save_params}
    begun = clear_away(path / "checkpoints", done)
    parts = parts_of(jobs, done, begun)
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
    return parts


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
                self._stop_if_asked(part, 0)
                if self._fits(part, progress):
                    continue
                gc.collect()  # arrays of what did not fit
                halves = part.halves() or ()
                progress.replace(part.name, {half.name: half.cost for half in halves})
                left.extendleft(reversed(halves))
                Checkpoints(self.path / "checkpoints" / part.name).remove()
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
            self._train(part, progress)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return False
        return True

    def _train(self, part: Part, progress: Progress) -> None:
        e, cell, group = self.experiment, part.job.cell, part.group()
        checkpoints = Checkpoints(self.path / "checkpoints" / part.name)
        checkpoints.begin(part.keys, cell.n_steps)
        resume, saved = checkpoints.latest(group), time.monotonic()
        if resume is not None:
            say(f"{part.name} goes on at step {resume.step:,} of {cell.n_steps:,}")

        def on_chunk(snapshot: Snapshot) -> None:
            nonlocal saved
            progress.update(part.name, snapshot.step * group.n_rows * group.batch_size)
            if self.request.number or time.monotonic() - saved >= self.checkpoint_seconds:
                checkpoints.save(snapshot)
                saved = time.monotonic()
            self._stop_if_asked(part, snapshot.step)

        trained = train_group(
            group, cell.n_steps, recovery_probe, e.curve_points, on_chunk=on_chunk, resume=resume
        )
        scores, arrays = score_group(group, trained, cell.n_steps, e.n_eval)
        names = {"group": cell.slug, "world": cell.world, "recipe": cell.recipe, "init": cell.init}
        asked = np.tile(part.job.asked[list(part.members)], len(part.worlds))
        names = {**names, "knob": cell.knob, "l1": asked}
        table = pd.concat([pd.DataFrame(names, index=scores.index), scores], axis=1)
        weights = saved_weights(trained.saes) if e.save_params else None
        keys = part.keys.reshape(-1).tolist()
        save_part(self.path / "groups", part.name, keys, table, arrays, weights, provenance())
        checkpoints.remove()

    def _stop_if_asked(self, part: Part, step: int) -> None:
        if not self.request.number:
            return
        results = Results(self.path)
        n_asked = sum(len(cell["keys"]) for cell in results.plan)
        raise Stopped(
            f"stopped: {len(results.table)} of {n_asked} SAEs are finished, {part.name} is at step "
            f"{step:,} of {part.job.cell.n_steps:,}; all of it is kept in {self.path}",
            self.request.number,
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
