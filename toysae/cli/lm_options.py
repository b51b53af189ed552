"""What the commands of `toysae lm` share: numbers of tokens, arithmetic, a progress bar."""

import re
from collections.abc import Callable
from typing import Any

import rich.progress as bars
from rich.console import Console

from ..errors import ToysaeError, require, unknown


def count(text: str) -> int | None:
    """ "10M" as 10,000,000; None for nothing.

    Raises:
        ToysaeError: no such number.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMbB]?)", text.replace(",", "").replace("_", ""))
    if match is None:
        raise ToysaeError(f"tokens {text!r} is no number such as 500k, 10M or 1000000")
    n = round(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[match[2].lower()])
    require(n >= 1, f"tokens {text!r} must be at least 1")
    return n


def dtype_of(arithmetic: str) -> Any:
    import jax.numpy as jnp

    known = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if arithmetic not in known:
        raise unknown("arithmetic", arithmetic, known)
    return known[arithmetic]


class Bar:
    """A progress bar of tokens, with tokens/s and bytes."""

    def __init__(self, total: int, quiet: bool):
        self._bar = bars.Progress(
            bars.BarColumn(), bars.TaskProgressColumn(), bars.TextColumn("{task.description}"),
            bars.TextColumn("{task.fields[rate]}"), bars.TextColumn("left"),
            bars.TimeRemainingColumn(), console=Console(stderr=True), disable=quiet,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total, rate="")

    def __enter__(self) -> Callable[..., None]:
        self._bar.__enter__()
        return self._tell

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)  # type: ignore[arg-type]

    def _tell(self, done: int, text: str, total: int | None = None) -> None:
        speed = self._bar.tasks[0].speed
        rate = f"{speed:,.0f} tokens/s" if speed else ""
        self._bar.update(self._task, completed=done, total=total, description=text, rate=rate)
