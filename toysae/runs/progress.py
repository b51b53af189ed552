"""What a run says while it runs: a bar of cells, samples a second and time left, and lines."""

import sys
from collections.abc import Mapping

import rich.progress as bars
from rich.console import Console

from .. import hosts


def say(line: str) -> None:
    """A line on stderr, above the bar if there is one; of many processes the first says it."""
    if hosts.is_first():
        print(f"toysae: {line}", file=sys.stderr, flush=True)


class Progress:
    """A rich bar over all SAE-samples of a run; cell sizes differ, so steps alone mislead.

    Args:
        cost: SAE-samples of each group by name, in order.
        quiet: show nothing.
    """

    def __init__(self, cost: Mapping[str, int], quiet: bool):
        self._cost = dict(cost)
        self._done: dict[str, int] = {}
        self._bar = bars.Progress(
            bars.TextColumn("{task.fields[cell]}", markup=False),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TextColumn("left"),
            bars.TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet or not hosts.is_first(),
        )
        self._task = self._bar.add_task(
            "", total=max(sum(self._cost.values()), 1), cell="", rate=""
        )

    def __enter__(self) -> "Progress":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)  # type: ignore[arg-type]

    def replace(self, cell: str, by: Mapping[str, int]) -> None:
        """`cell`, which could not be trained as one, is trained as these, or not at all."""
        self._done.pop(cell, None)
        self._cost = {
            name: cost
            for old, whole in self._cost.items()
            for name, cost in (by if old == cell else {old: whole}).items()
        }
        self._bar.update(self._task, total=max(sum(self._cost.values()), 1))

    def follow(self, done: Mapping[str, int]) -> None:
        """Notes what other processes have done, by name."""
        self._done.update({name: n for name, n in done.items() if name in self._cost})
        self._bar.update(self._task, completed=sum(self._done.values()))

    def update(self, cell: str, sae_samples: int) -> None:
        """Notes that `cell` has done this many SAE-samples."""
        self._done[cell] = sae_samples
        speed = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            completed=sum(self._done.values()),
            cell=f"cell {list(self._cost).index(cell) + 1}/{len(self._cost)} {cell}",
            rate=f"{speed / 1e3:,.0f}k SAE-samples/s" if speed else "",
        )
