"""The progress of a run on the terminal: a bar with samples a second and time left, and lines."""

import sys
from collections.abc import Mapping

import rich.progress as bars
from rich.console import Console

from .. import hosts


def say(line: str) -> None:
    """Prints a line on stderr, above the bar if there is one; of many processes the first does."""
    if hosts.is_first():
        print(f"toysae: {line}", file=sys.stderr, flush=True)


class Progress:
    """A rich bar over all SAE-samples of a run, as steps of blocks of other sizes cost differently.

    Args:
        cost: SAE-samples of each block by name, in order.
        quiet: show nothing.
    """

    def __init__(self, cost: Mapping[str, int], quiet: bool):
        self._cost = dict(cost)
        self._done: dict[str, int] = {}
        self._bar = bars.Progress(
            bars.TextColumn("{task.fields[block]}", markup=False),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TextColumn("left"),
            bars.TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet or not hosts.is_first(),
        )
        self._task = self._bar.add_task(
            "", total=max(sum(self._cost.values()), 1), block="", rate=""
        )

    def __enter__(self) -> "Progress":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)  # type: ignore[arg-type]

    def replace(self, block: str, by: Mapping[str, int]) -> None:
        """Replaces a block that could not be trained as one by its pieces, or by nothing."""
        self._done.pop(block, None)
        self._cost = {
            name: cost
            for old, whole in self._cost.items()
            for name, cost in (by if old == block else {old: whole}).items()
        }
        self._bar.update(self._task, total=max(sum(self._cost.values()), 1))

    def follow(self, done: Mapping[str, int]) -> None:
        """Sets how many SAE-samples other processes have trained on, by block."""
        self._done.update({name: n for name, n in done.items() if name in self._cost})
        self._bar.update(self._task, completed=sum(self._done.values()))

    def update(self, block: str, sae_samples: int) -> None:
        """Sets how many SAE-samples this process has trained a block on."""
        self._done[block] = sae_samples
        speed = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            completed=sum(self._done.values()),
            block=f"block {list(self._cost).index(block) + 1}/{len(self._cost)} {block}",
            rate=f"{speed / 1e3:,.0f}k SAE-samples/s" if speed else "",
        )
