"""Prepares the directory of a run before anything trains, or joins one that is in use."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checked import Fields
from ..errors import require
from .blocks import blocks_of
from .checkpoints import clear_away
from .claims import claimed
from .directory import BROKEN, Directory
from .ledger import open_run, save_table
from .options import Options
from .progress import say
from .provenance import provenance
from .queue import QUEUE, Queue
from .results import CONFIG, NAMES, Results
from .space import check_space
from .store import BLOCKS, checked_blocks, files_of, find, finished_keys


def prepare(
    queue: Queue, o: Options, settings: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Makes a directory that of a run's cells: sets damaged files aside and queues what is left.
    If other processes train the same SAEs there, this one joins them.

    Raises:
        ToysaeError: others train other SAEs there, or with other versions.
    """
    path = queue.path
    directory = Directory.claim(path)
    with queue.planning():
        directory.check_reachable()
        plan = [cell.rows() for cell in queue.cells]
        if others := claimed(path):
            owners = ", ".join(sorted(set(others.values())))
            _check_joins(path, plan, owners, o)
            if not o.quiet:
                say(f"{owners} at work in {path}: this process helps")
            return
        directory.tidy()
        if o.fresh:
            _discard(directory)
        _make_queue(queue, directory, o, settings, about, plan)


def _make_queue(
    queue: Queue,
    directory: Directory,
    o: Options,
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
    plan: list[dict[str, Any]],
) -> None:
    path, cells = queue.path, queue.cells
    asked = {key for cell in cells for key in cell.keys.reshape(-1).tolist()}
    undamaged, broken = checked_blocks(directory)
    for block, (problem, names) in broken.items():
        if directory.set_aside(names):
            where = path / BROKEN
            say(f"{path / BLOCKS / block} is broken ({problem}): moved to {where}")
    for name in directory.names():
        if problem := directory.wrong(name):
            for place in directory.set_aside([name]):
                say(f"{path / name} {problem}: moved to {place}")
    places = find(undamaged)
    done = finished_keys(places, o.keep_weights)
    begun = clear_away(directory, done)
    blocks = blocks_of(cells, done, begun, o.split)
    directory.check_free(
        [*NAMES, QUEUE, *(name for block in blocks for name in files_of(block.name))]
    )
    check_space(path, blocks, o.keep_weights)
    changed = open_run(directory, settings, about, plan)
    queue.write(blocks)
    others = set(places) - asked
    if others:
        why = "; ".join(changed) or "of earlier settings"
        say(f"{len(others)} SAEs in {path} are not asked for ({why}): kept, left out of the table")
    without_weights = (set(places) & asked) - done
    if without_weights:
        say(f"{len(without_weights)} SAEs in {path} have no weights there: trained again for them")
    if not o.quiet and (asked & done or begun):
        say(f"{len(asked & done)} of {len(asked)} SAEs are finished in {path}")
    save_table(Results(path))


def _check_joins(path: Path, plan: list[dict[str, Any]], owners: str, o: Options) -> None:
    """Refuses to work in a directory with processes that this one cannot help.

    Raises:
        ToysaeError: saying why, and what to do.
    """
    results, remedy = Results(path), "let it finish, stop it, or choose another --out"
    s = "" if ", " in owners else "s"
    require(not o.fresh, f"--fresh would discard what {owners} work{s} on in {path}: {remedy}")
    same = json.loads(json.dumps(plan)) == results.plan
    require(same, f"{owners} train{s} other SAEs in {path} than are asked for here: {remedy}")
    theirs = Fields(results.config, path / CONFIG).object("versions").value
    mine = provenance()["versions"]
    differences = [
        f"{name} {theirs.get(name)} there, {mine[name]} here"
        for name in ("toysae", "jax", "jaxlib")
        if theirs.get(name) != mine[name]
    ]
    require(
        not differences or o.other_versions,
        f"{owners} at work in {path} has other versions ({'; '.join(differences)}), which may give "
        "other bits: use the same, or allow it with --other-versions",
    )


def _discard(directory: Directory) -> None:
    """Removes all files that runs have written, and names what is left."""
    moved = directory.remove(list(directory.files))
    if moved:
        say(f"{len(moved)} files had other bytes than were written: moved to {moved[0].parent}")
    left = [name for name in directory.strangers() if name != BROKEN]
    if left:
        few = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        say(f"{directory.path} also holds files that no run wrote, which are left: {few}")
