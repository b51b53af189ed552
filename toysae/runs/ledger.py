"""What a run writes of itself into its directory: what it asks for, the table, what failed."""

import json
from collections.abc import Mapping
from typing import Any

from ..errors import ToysaeError
from .directory import Directory
from .provenance import provenance
from .results import CONFIG, FAILED, PLAN, RESULTS, Results


def open_run(
    directory: Directory, settings: Mapping[str, Any], about: Mapping[str, Any], plan: list[dict]
) -> list[str]:
    """Makes a directory that of a run, whatever settings it had before.

    Args:
        directory: claimed.
        settings: what determines the numbers, as JSON holds it.
        about: what else is written down beside them.
        plan: of each cell, :meth:`toysae.runs.cell.Cell.rows`.

    Returns:
        What has changed, e.g. "l1_coeff was [0.1], now [0.2]".
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
    held = {PLAN: {"cells": plan}, CONFIG: {"settings": new, **about, **provenance()}}
    directory.write({name: json.dumps(what, indent=1).encode() for name, what in held.items()})
    return changed


def save_table(results: Results) -> None:
    """Writes the whole table beside the blocks; none if nothing is finished."""
    table, directory = results.table, results.directory
    if table.empty:
        directory.remove([RESULTS])
    else:
        directory.write({RESULTS: table.to_csv(index=False).encode()})


def save_failed(results: Results, failed: dict[str, str]) -> None:
    """Keeps what :attr:`toysae.runs.results.Results.failed` says."""
    results.directory.write({FAILED: json.dumps(failed, indent=1).encode()})
