"""What a run trains: of each cell the SAEs that are missing, in blocks that fit the device."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from ..digests import digest
from ..training import Group
from ..training.devices import UNSPLIT, Split
from ..training.members import group_of
from ..training.memory import check_memory, fits
from .cells import Cell, cells, worlds_of
from .content import sae_keys
from .experiment import Experiment


@dataclass(frozen=True, eq=False)
class Job:
    """A cell of an experiment with all SAEs that are asked of it.

    Attributes:
        cell: one row of the experiment.
        group: all its SAEs, whether or not they fit the device together.
        keys: `[n_worlds, n_members]`, see :mod:`toysae.sweeps.content`.
        asked: `[n_members]` the sparsity that was asked for, in the experiment's convention.
    """

    cell: Cell
    group: Group
    keys: np.ndarray
    asked: np.ndarray

    def rows(self) -> dict[str, Any]:
        """The cell as the table shows it, JSON: what its rows are called, and their keys."""
        c = self.cell
        names = {"group": c.slug, "world": c.world, "recipe": c.recipe, "init": c.init}
        asked = np.tile(self.asked, len(self.keys)).tolist()
        own = self.keys.size // (len(self.keys) * len(c.settings))  # seeds, which vary fastest
        settings = np.tile(np.repeat(c.settings, own), len(self.keys)).tolist()
        return {**names, "knob": c.knob, "l1": asked, "settings": settings,
                "labels": dict(c.labels), "keys": self.keys.reshape(-1).tolist()}  # fmt: skip


def jobs_of(e: Experiment, split: Split = UNSPLIT) -> list[Job]:
    """The cells of an experiment, fully checked; each SAE split among devices so.

    Raises:
        ToysaeError: bad input; an SAE that does not fit the device even alone.
    """
    worlds, found = worlds_of(e), []
    for cell in cells(e, worlds):
        group = group_of(worlds(cell.world, cell.world_fields), range(e.world_seeds), cell.spec,
                         cell.members, range(e.sae_seeds), cell.batch_size, split)  # fmt: skip
        asked = np.repeat(np.asarray(cell.asked, float), e.sae_seeds)
        job = Job(cell, group, sae_keys(cell, group, e), asked)
        if not fits(group):
            check_memory(Part(job, (0,), (0,)).group())
        found.append(job)
    return found


@dataclass(frozen=True, eq=False)
class Part:
    """A block of a job: some of its worlds, and of each the same members. It trains as one group
    and is finished, or not, as one.

    Attributes:
        job: the cell.
        worlds: places on the world axis of the job.
        members: places on its member axis.
    """

    job: Job
    worlds: tuple[int, ...]
    members: tuple[int, ...]

    @property
    def keys(self) -> np.ndarray:
        """`[n_worlds, n_members]` of this block."""
        return self.job.keys[np.ix_(self.worlds, self.members)]

    @property
    def name(self) -> str:
        """Of its files: says the cell, and which SAEs."""
        return f"{self.job.cell.slug}-{digest(*self.keys.reshape(-1).tolist())[:8]}"

    @property
    def cost(self) -> int:
        """SAE-samples from the start to the end."""
        cell = self.job.cell
        return len(self.worlds) * len(self.members) * cell.n_steps * cell.batch_size

    def group(self) -> Group:
        """What trains."""
        whole = self.job.group
        if self.keys.size == self.job.keys.size:
            return whole
        worlds, members = np.array(self.worlds), np.array(self.members)
        return replace(
            whole,
            worlds=jax.tree.map(lambda leaf: leaf[worlds], whole.worlds),
            world_seeds=whole.world_seeds[worlds],
            hypers={name: value[members] for name, value in whole.hypers.items()},
            sae_seeds=whole.sae_seeds[members],
        )

    def halves(self) -> "tuple[Part, Part] | None":
        """Half of the members each, or of the worlds where there is one member; None of one SAE."""
        if len(self.members) > 1:
            at = len(self.members) // 2
            cut = [(self.worlds, self.members[:at]), (self.worlds, self.members[at:])]
        elif len(self.worlds) > 1:
            at = len(self.worlds) // 2
            cut = [(self.worlds[:at], self.members), (self.worlds[at:], self.members)]
        else:
            return None
        first, second = (Part(self.job, *places) for places in cut)
        return first, second


def parts_of(
    jobs: list[Job], done: Collection[str], begun: Collection[np.ndarray] = ()
) -> list[Part]:
    """Blocks that hold each missing SAE once.

    Args:
        jobs: all cells; an SAE that two of them ask for is trained for the first.
        done: keys that are finished.
        begun: keys `[n_worlds, n_members]` of blocks that are half trained, and go on as they are.
    """
    claimed, found = set(done), []
    for job in jobs:
        missing = np.zeros(job.keys.shape, bool)
        for place, key in np.ndenumerate(job.keys):
            missing[place] = key not in claimed
            claimed.add(key)
        for keys in begun:
            part = _placed(job, keys)
            if part is not None and missing[np.ix_(part.worlds, part.members)].all():
                missing[np.ix_(part.worlds, part.members)] = False
                found.append(part)
        for block in _blocks(job, missing):
            found += split(block, lambda part: fits(part.group()))
    return found


def split(part: Part, fits: Callable[[Part], bool]) -> list[Part]:
    """The part, halved until each piece fits or is one SAE."""
    halves = part.halves()
    if halves is None or fits(part):
        return [part]
    return [piece for half in halves for piece in split(half, fits)]


def _blocks(job: Job, missing: np.ndarray) -> list[Part]:
    """Worlds that miss the same members stand together."""
    together: dict[bytes, list[int]] = {}
    for world, row in enumerate(missing):
        if row.any():
            together.setdefault(row.tobytes(), []).append(world)
    return [
        Part(job, tuple(worlds), tuple(np.flatnonzero(missing[worlds[0]]).tolist()))
        for worlds in together.values()
    ]


def _placed(job: Job, keys: np.ndarray) -> Part | None:
    """The block of a job that has these keys."""
    at: dict[str, tuple[int, ...]] = {}
    for place, key in np.ndenumerate(job.keys):
        at.setdefault(key, place)
    if not all(key in at for key in keys.reshape(-1).tolist()):
        return None
    part = Part(
        job,
        tuple(at[key][0] for key in keys[:, 0].tolist()),
        tuple(at[key][1] for key in keys[0].tolist()),
    )
    return part if np.array_equal(part.keys, keys) else None
