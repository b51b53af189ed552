"""Figures of a finished sweep, each with the small table behind it.

>>> draw(results, ["mcs_histograms", "mmcs_by_ratio"], "figures")
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from toysae.aliases import OLD_FIGURES, today
from toysae.checked import shown
from toysae.door import guard
from toysae.errors import require, unknown
from toysae.plotting.rows import Results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from toysae.plotting.style import Put


class _Figures(Mapping[str, "Callable[[Results], tuple[Figure, pd.DataFrame]]"]):
    """Functions by their names, imported when they are first needed: importing matplotlib takes
    .4 s, and a figure's name is checked before there is anything to draw."""

    def __init__(self, modules: dict[str, str]):
        self._modules = modules

    def __getitem__(self, name: str) -> "Callable[[Results], tuple[Figure, pd.DataFrame]]":
        return getattr(import_module(f"{__name__}.{self._modules[name]}"), name)

    def __contains__(self, name: object) -> bool:  # a mapping's own asks for what is there
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


FIGURES = _Figures(
    {
        "mcs_histograms": "histograms",
        "mmcs_by_ratio": "ratio",
        "sparsity_by_size": "heatmap",
        "learning_curves": "curves",
        "mcs_over_training": "training",
        "curves_by_init": "init_curves",
        "mcs_by_frequency": "frequency",
        "steps_to_threshold": "steps",
        "scores_by_recipe": "zoo",
        "mcs_by_recipe": "zoo",
        "recovery_by_l0": "zoo",
        "frontier": "frontier",
        "recovery_surface": "surface",
        "phase_diagram": "phase_diagram",
        "undertraining": "undertraining",
        "survival_by_size": "survival",
    }
)


def draw(
    results: Results, names: str | Iterable[str], out_dir: str | Path, put: "Put | None" = None
) -> list[Path]:
    """Draws the named figures into `out_dir`, each as PNG and CSV.

    Args:
        results: of a finished sweep.
        names: of figures in `FIGURES`, one or several.
        out_dir: a folder, made if it is not there.
        put: writes each file, see :func:`toysae.plotting.style.save`.

    Returns:
        The paths written, in order.

    Raises:
        ToysaeError: a name is not in `FIGURES`, there are no results, or they are a study's, which
            draws its own; nothing is drawn then.
    """
    names = [names] if isinstance(names, str) else list(names)
    names = [today(name, OLD_FIGURES, FIGURES) for name in names]
    for name in names:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    require(
        isinstance(results, Results),
        f"draw takes the results of a run, and this is a {type(results).__name__}: make it with an "
        "Experiment and run",
    )
    require(len(results.table) > 0, f"nothing is finished in {results.name}: nothing to draw")
    if not names:  # matplotlib need not be loaded
        return []
    for column in ("world", "recipe", "init", "sparsity"):
        require(
            column in results.table,
            f"{results.name} has no column {column!r}, which figures by name read: they are of an "
            "Experiment or of train; a study draws its own, when its file is run",
        )
    from toysae.disk import write
    from toysae.plotting.style import save

    written: list[Path] = []
    for name in names:
        fig, frame = FIGURES[name](results)
        written += save(fig, frame, out_dir, name, put or write)
    return written


def save(fig: "Figure", frame: "pd.DataFrame", out_dir: str | Path, name: str) -> list[Path]:
    """Writes a figure and the table behind it, see :func:`toysae.plotting.style.save`.

    Raises:
        ToysaeError: `fig` or `frame` of another type, or a folder that cannot be written.
    """
    import pandas as pd
    from matplotlib.figure import Figure

    from toysae.plotting.style import save

    require(isinstance(fig, Figure), f"fig {shown(fig)} is not a figure of matplotlib")
    require(isinstance(frame, pd.DataFrame), f"frame {shown(frame)} is not a DataFrame of pandas")
    require(name, "name is empty: give the figure a name")
    return save(fig, frame, out_dir, name)


__all__ = ["FIGURES", "Results", "draw", "save"]

guard(globals())
