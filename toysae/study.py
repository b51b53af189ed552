"""An experiment that is not one sweep of SAEs: a question and the function that answers it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .errors import require, unknown


@dataclass(frozen=True)
class Study:
    """A file in `experiments/` defines `study = Study(...)`; `toysae run` finds it.

    Attributes:
        question: what it asks, in a sentence.
        run: `run(options, out_dir, figures_dir)` computes, prints a table, writes its numbers
            under `out_dir` and its figures under `figures_dir`; both exist when it is called.
        options: a frozen dataclass instance with its defaults; each field can be overridden
            from the command line.
        expected: what is known or expected, to hold the figures against.
        run_time: how long it takes, and on what.
        smoke: overrides of the options that make it finish in seconds.
    """

    question: str
    run: Callable[[Any, Path, Path], None]
    options: Any
    expected: str = ""
    run_time: str = ""
    smoke: Mapping[str, Any] = field(default_factory=dict)

    def smoked(self) -> Any:
        """The options of the version that takes seconds.

        Raises:
            ToysaeError: `smoke` names no field of the options.
        """
        check_overrides(self.options, "smoke", self.smoke)
        return replace(self.options, **self.smoke)


def check_overrides(options: Any, size: str, overrides: Mapping[str, Any]) -> None:
    """Refuses another size of an experiment that sets what there is not.

    Raises:
        ToysaeError: a name that is no field of the options, with the nearest.
    """
    known = [f.name for f in fields(options)]
    for name in overrides:
        if name not in known:
            raise unknown(f"field in {size}", name, known)


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
