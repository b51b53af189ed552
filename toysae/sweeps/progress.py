"""The progress bar of a run: groups, steps, samples a second, time left."""

from collections.abc import Collection, Mapping

import rich.progress as bars
from rich.console import Console


class Progress:
    """A rich bar over all SAE-samples of a run; group sizes differ, so steps alone mislead.

    Args:
        cost: SAE-steps of each group by name, in order.
        batch_size: samples a step.
        done: groups that are finished already.
        quiet: show nothing.
    """

    def __init__(
        self, cost: Mapping[str, int], batch_size: int, done: Collection[str], quiet: bool
    ):
        self._cost = {name: steps * batch_size for name, steps in cost.items() if name not in done}
        self._batch_size = batch_size
        self._before = 0
        self._current: str | None = None
        self._started = 0
        self._bar = bars.Progress(
            bars.TextColumn("{task.fields[group]}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TextColumn("left"),
            bars.TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._task = self._bar.add_task(
            "", total=max(sum(self._cost.values()), 1), group="", rate=""
        )

    def __enter__(self) -> "Progress":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)  # type: ignore[arg-type]

    def update(self, group: str, sae_steps: int) -> None:
        """Notes that `group` has done this many SAE-steps."""
        if group != self._current:
            if self._current is not None:
                self._before += self._cost[self._current]
                self._started += 1
            self._current = group
        speed = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            completed=self._before + sae_steps * self._batch_size,
            group=f"group {self._started + 1}/{len(self._cost)} {group}",
            rate=f"{speed / 1e3:,.0f}k SAE-samples/s" if speed else "",
        )
