"""What of a run is finished, read from its directory at any moment."""

from collections import Counter
from pathlib import Path

import pandas as pd

from ..runs.checkpoints import all_checkpoints
from ..runs.directory import Directory
from .claims import claimed
from .results import Results
from .store import broken_blocks, find, stored_blocks


def status(path: str | Path) -> tuple[pd.DataFrame, str]:
    """How far the run in a directory is. Reads only.

    Args:
        path: a results directory.

    Returns:
        A table, one row a cell: SAEs `asked` for; `done`, of which `diverged`; `begun`, at which
        of how many steps the last checkpoint is; `failed`, not fitting the device; and
        `missing`, all others. And a line on the whole, which names what is damaged: SAEs whose
        files are not as they were written are missing, and a run trains them again.

    Raises:
        ToysaeError: no results there, or what they should be is damaged.
    """
    results = Results.load(path)
    directory, failed = results.directory, results.failed
    broken = broken_blocks(directory)
    whole = find(stored_blocks(directory, broken))
    table, at = results.table_of(whole), _half_trained(directory)
    done = table["cell"].value_counts() if len(table) else {}
    diverged = table.groupby("cell")["diverged"].sum() if len(table) else {}
    rows = []
    for cell in results.plan:
        name, keys = cell["cell"], cell["keys"]
        n_done = int(done.get(name, 0))
        running = Counter(at[key] for key in keys if key in at)
        n_failed = sum(key in failed for key in keys)
        rows.append(
            {
                "cell": name,
                "asked": len(keys),
                "done": n_done,
                "diverged": int(diverged.get(name, 0)),
                "begun": ", ".join(f"{n} at {step}" for step, n in running.items()),
                "failed": n_failed,
                "missing": len(keys) - n_done - n_failed - running.total(),
            }
        )
    who = sorted(set(claimed(results.path).values()))
    doing = f"run by {', '.join(who)}" if who else "not running"
    n_asked = sum(row["asked"] for row in rows)
    finished = f"{len(table)} of {n_asked} SAEs finished" if n_asked else "no SAEs to train"
    line = f"{path}: {doing}, {finished}"
    damaged = "".join(f"; {name} is broken ({wrong})" for name, (wrong, _) in broken.items())
    return pd.DataFrame(rows), line + damaged


def _half_trained(directory: Directory) -> dict[str, str]:
    """By key, how far an SAE is, e.g. "1,200/5,000"."""
    found = {}
    for each in all_checkpoints(directory):
        about = each.about()
        if about is not None:
            step = max(each.steps(), default=0)
            where = f"{step:,}/{about['n_steps']:,}"
            found.update(dict.fromkeys(about["keys"].reshape(-1).tolist(), where))
    return found
