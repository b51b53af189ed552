"""Tables and progress bars on the terminal, or piped from it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

import rich.progress as bars
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..lazy import pd


class _Out(Console):
    def on_broken_pipe(self) -> None:
        """Goes on without output if nobody reads it, as after ``| head``."""
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


OUT = _Out(markup=False)
"""Prints texts as they are: brackets in a path or a question are not markup."""
PIPED = 160  # columns where there is no terminal


def print_heading(text: str) -> None:
    """Prints a line in bold."""
    OUT.print(text, style="bold", highlight=False, soft_wrap=True)


def print_names(what: str, names: Iterable[str]) -> None:
    """Prints the names of all things of a kind on one line."""
    OUT.print(Text.assemble((what, "bold"), ": ", ", ".join(names)), highlight=False)


def print_frame(frame: pd.DataFrame, title: str, constants: bool = True) -> None:
    """Prints a DataFrame as a table; columns that never vary go below it if `constants`.

    If it is too wide, columns move together, then each cell is broken once. Of a frame without
    columns only the title is printed.
    """
    if frame.columns.empty:
        OUT.print(title, highlight=False, soft_wrap=True)
        return
    below = constants and len(frame) > 1
    constant = [c for c in frame.columns if below and _is_constant(frame[c])]
    shown = frame.drop(columns=constant)
    values = {c: str(frame[c].iloc[0]) for c in constant}
    caption = ", ".join(f"{c} {value}" for c, value in values.items() if value not in ("", "-"))
    cells = [
        [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row]
        for row in shown.itertuples(index=False)
    ]
    columns = list(zip(map(str, shown.columns), *cells, strict=True))
    console = _Out(markup=False)
    if not console.is_terminal:
        console = _Out(width=PIPED, markup=False)
    whole, broken = ([max(map(cut, column)) for column in columns] for cut in (len, _broken))
    for widths, gap in ((whole, 2), (whole, 1), (broken, 1)):
        if sum(widths) + gap * (len(columns) + 1) <= console.width:
            break
    rows = ["", "dim"] if widths is broken else []
    table = Table(title=title, caption=caption or None, box=SIMPLE_HEAD, row_styles=rows)
    table.padding = (0, gap - 1, 0, 0)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column[0], max_width=width, overflow="fold")
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _is_constant(column: pd.Series) -> bool:
    """Whether all rows have the same value; numbers and NaN together do not."""
    return column.nunique() == column.nunique(dropna=False) == 1


def _broken(text: str) -> int:
    """The width of a text that is broken once at the best space."""
    spaces = [i for i, letter in enumerate(text) if letter == " "]
    return min([max(i, len(text) - i - 1) for i in spaces], default=len(text))


class TokenBar:
    """A progress bar of tokens, with tokens/s and bytes."""

    def __init__(self, total: int, quiet: bool):
        self._bar = bars.Progress(
            bars.BarColumn(), bars.TaskProgressColumn(),
            bars.TextColumn("{task.description}", markup=False),
            bars.TextColumn("{task.fields[rate]}"), bars.TextColumn("left"),
            bars.TimeRemainingColumn(), console=Console(stderr=True), disable=quiet,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total, rate="")

    def __enter__(self) -> Callable[..., None]:
        return self._tell

    def __exit__(self, *error: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def _tell(self, done: int, text: str, total: int | None = None) -> None:
        self._bar.start()  # only now, so that refused input shows no bar
        speed = self._bar.tasks[0].speed
        rate = f"{speed:,.0f} tokens/s" if speed else ""
        self._bar.update(self._task, completed=done, total=total, description=text, rate=rate)


class LookBar:
    """A spinner that shows what a search of unknown length does, and for how long."""

    def __init__(self, quiet: bool):
        self._bar = bars.Progress(
            bars.SpinnerColumn(), bars.TimeElapsedColumn(),
            bars.TextColumn("{task.description}", markup=False),
            console=Console(stderr=True), disable=quiet, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("looking at the activations", total=None)

    def __enter__(self) -> Callable[[str], None]:
        return self._tell

    def __exit__(self, *error: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def _tell(self, about: str) -> None:
        self._bar.start()
        self._bar.update(self._task, description=about)
