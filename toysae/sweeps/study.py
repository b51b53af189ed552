"""Studies: experiments that are not one sweep, with their own cells, answer and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..aliases import OLD_SETTINGS, accepts_old_names, renamed
from ..errors import require, unknown
from ..lazy import pd
from ..runs.cell import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tables = Mapping[str, "pd.DataFrame"]
"""The tables of an answer, by the name of their file."""

Drawing = tuple[str, "Figure | str", "pd.DataFrame"]
"""A figure's name, the figure or the text of an HTML page, and the table behind it."""


@accepts_old_names
@dataclass(frozen=True)
class Study:
    """An experiment of several functions; `toysae run FILE` runs the `study` of a file.

    Attributes:
        question: what it asks, in a sentence.
        options: a frozen dataclass instance with its defaults; each field can be overridden
            from the command line.
        cells: `cells(options)` gives the SAEs to train, if any, and what is measured of them.
        answer: `answer(options, results)` gives the tables that are printed and kept.
        draw: `draw(options, results)` gives the figures, one by one.
        prepare: `prepare(options, out_dir)` makes what the others need, such as the activations of
            a language model, and keeps it in `out_dir`. Its result is passed to the three as their
            last argument.
        unprepared: `unprepared(options, out_dir)` says what `prepare` has still to make there, ""
            if nothing; it writes nothing.
        expected: what is known or expected, to compare the figures with.
        run_time: how long it takes, and on what.
        smoke: overrides of the options that make it finish in seconds.
        keep_weights: keep the SAEs' weights.
        whole: `answer` and `draw` need every SAE; otherwise they are also called if some did not
            fit the device.
    """

    question: str
    options: Any
    cells: Callable[..., Sequence[Cell]]
    answer: Callable[..., Tables] = lambda options, results, *prepared: {}
    draw: Callable[..., Iterable[Drawing]] = lambda options, results, *prepared: ()
    prepare: Callable[[Any, Path], Any] | None = None
    unprepared: Callable[[Any, Path], str] = lambda options, out_dir: ""
    expected: str = ""
    run_time: str = ""
    smoke: Mapping[str, Any] = field(default_factory=dict)
    keep_weights: bool = False
    whole: bool = False

    def smoked(self) -> Any:
        """The options of the version that takes seconds.

        Raises:
            ToysaeError: `smoke` names no field of the options.
        """
        return replace(self.options, **check_overrides(self.options, "smoke", self.smoke))


def check_overrides(options: Any, size: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What another size of an experiment sets, by today's names; unknown fields are refused.

    Raises:
        ToysaeError: a name that is not a field of the options, with the nearest field.
    """
    known = [f.name for f in fields(options)]
    overrides = renamed(overrides, OLD_SETTINGS, known)
    for name in overrides:
        if name not in known:
            raise unknown(f"field in {size}", name, known)
    return overrides


def check_sizes(options: Any) -> None:
    """Refuses options that leave nothing to run.

    Raises:
        ToysaeError: a whole number below 1, or a field of several values without one.
    """
    for option in fields(options):
        value = getattr(options, option.name)
        if isinstance(value, int):
            require(value >= 1, f"{option.name} {value} must be at least 1")
        if isinstance(value, tuple):
            require(len(value) > 0, f"{option.name} is empty: give at least one value")
