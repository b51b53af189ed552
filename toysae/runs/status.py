"""How much of a run is finished, read from its directory at any moment."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..lazy import pd
from .checkpoints import all_checkpoints
from .claims import claimed
from .directory import Directory
from .results import Results
from .snapshot import Scan
from .store import checked_blocks, find


def status(path: str | Path) -> tuple[pd.DataFrame, str]:
    """How far the run in a directory is. Only reads.

    Args:
        path: a results directory.

    Returns:
        A table with one row for each `cell`: SAEs `asked` for; `done`, of which `diverged`;
        `begun`, with the step of the last checkpoint; `failed`, which do not fit the device; and
        `missing`, all others. And a line on the whole run, which names damaged blocks: their SAEs
        are missing, and a run trains them again.

    Raises:
        ToysaeError: no results there, or damaged files that are not a block's.
    """
    results = Results.load(path)
    directory, failed = results.directory, results.failed
    undamaged, broken = checked_blocks(directory)
    finished = Scan(results.plan, find(undamaged))
    n_done = {cell.plan["cell"]: len(cell.rows) for cell in finished.cells}
    table, steps = finished.table, _last_steps(directory)
    diverged = table.groupby("cell")["diverged"].sum() if len(table) else {}
    rows = []
    for cell in finished.plan:
        name, keys = cell["cell"], cell["keys"]
        begun = Counter(steps[key] for key in keys if key in steps)
        row = {
            "cell": name,
            "asked": len(keys),
            "done": n_done.get(name, 0),
            "diverged": int(diverged.get(name, 0)),
            "begun": ", ".join(f"{n} at {step}" for step, n in begun.items()),
            "failed": sum(key in failed for key in keys),
        }
        row["missing"] = row["asked"] - row["done"] - row["failed"] - begun.total()
        rows.append(row)
    owners = ", ".join(sorted(set(claimed(results.path).values())))
    activity = f"run by {owners}" if owners else "not running"
    n_asked = sum(row["asked"] for row in rows)
    share = f"{len(table)} of {n_asked} SAEs finished" if n_asked else "no SAEs to train"
    damage = "".join(f"; {name} is broken ({problem})" for name, (problem, _) in broken.items())
    return pd.DataFrame(rows), f"{path}: {activity}, {share}{damage}"


def _last_steps(directory: Directory) -> dict[str, str]:
    """How far each half-trained SAE is by its key, e.g. "1,200/5,000"."""
    steps = {}
    for checkpoints in all_checkpoints(directory):
        about = checkpoints.about()
        if about is not None:
            step = f"{max(checkpoints.steps(), default=0):,}/{about['n_steps']:,}"
            steps.update(dict.fromkeys(about["keys"].reshape(-1).tolist(), step))
    return steps
