"""The files that a run writes about itself: its plan and settings, the table, what failed."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ToysaeError
from .blocks import Block
from .directory import Directory
from .provenance import provenance
from .results import CONFIG, FAILED, PLAN, RESULTS, Results


def open_run(
    directory: Directory, settings: Mapping[str, Any], about: Mapping[str, Any], plan: list[dict]
) -> list[str]:
    """Writes the plan and the settings of a run, whatever run the directory had before.

    Args:
        directory: claimed.
        settings: what determines the numbers, as JSON holds it.
        about: what else is written down with them.
        plan: :meth:`toysae.runs.cell.Cell.rows` of each cell.

    Returns:
        The changed settings, e.g. "lr was 0.1, now 0.2".
    """
    new = json.loads(json.dumps(settings))
    try:
        old = (Results(directory.path).config or {}).get("settings", new)
    except ToysaeError:  # damaged: it is written anew
        old = new
    changed = [
        f"{field} was {old.get(field)}, now {new.get(field)}"
        for field in sorted({*new, *old})
        if old.get(field) != new.get(field)
    ]
    directory.remove([FAILED])
    files = {PLAN: {"cells": plan}, CONFIG: {"settings": new, **about, **provenance()}}
    directory.write({name: json.dumps(value, indent=1).encode() for name, value in files.items()})
    return changed


def save_table(results: Results) -> None:
    """Writes the whole table to one file; removes that file if nothing is finished."""
    table, directory = results.table, results.directory
    if table.empty:
        directory.remove([RESULTS])
    else:
        directory.write({RESULTS: table.to_csv(index=False).encode()})


def save_failed(results: Results, blocks: Iterable[Block]) -> None:
    """Writes which blocks of one SAE did not fit the device, by the key of the SAE."""
    failed = {block.keys.item(): block.name for block in blocks}
    results.directory.write({FAILED: json.dumps(failed, indent=1).encode()})
