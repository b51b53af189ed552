"""Figures of a finished sweep, each with the small table behind it.

>>> draw(results, ["mcs_histograms", "mmcs_by_ratio"], "figures")
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from toysae.errors import unknown
from toysae.plotting.curves import learning_curves
from toysae.plotting.frequency import mcs_by_frequency
from toysae.plotting.frontier import frontier
from toysae.plotting.heatmap import l1_by_size
from toysae.plotting.histograms import mcs_histograms
from toysae.plotting.init_curves import curves_by_init
from toysae.plotting.phase_diagram import phase_diagram
from toysae.plotting.ratio import mmcs_by_ratio
from toysae.plotting.rows import Results
from toysae.plotting.steps import steps_to_threshold
from toysae.plotting.style import save
from toysae.plotting.surface import recovery_surface
from toysae.plotting.survival import survival_by_size
from toysae.plotting.training import mcs_over_training
from toysae.plotting.undertraining import undertraining
from toysae.plotting.zoo import mcs_by_recipe, recovery_by_l0, scores_by_recipe

FIGURES: dict[str, Callable[[Results], tuple[Figure, pd.DataFrame]]] = {
    "mcs_histograms": mcs_histograms,
    "mmcs_by_ratio": mmcs_by_ratio,
    "l1_by_size": l1_by_size,
    "learning_curves": learning_curves,
    "mcs_over_training": mcs_over_training,
    "curves_by_init": curves_by_init,
    "mcs_by_frequency": mcs_by_frequency,
    "steps_to_threshold": steps_to_threshold,
    "scores_by_recipe": scores_by_recipe,
    "mcs_by_recipe": mcs_by_recipe,
    "recovery_by_l0": recovery_by_l0,
    "frontier": frontier,
    "recovery_surface": recovery_surface,
    "phase_diagram": phase_diagram,
    "undertraining": undertraining,
    "survival_by_size": survival_by_size,
}


def draw(results: Results, names: Iterable[str], out_dir: str | Path) -> list[Path]:
    """Draws the named figures into `out_dir`, each as PNG and CSV.

    Returns:
        The paths written, in order.

    Raises:
        ToysaeError: a name is not in `FIGURES`; nothing is drawn then.
    """
    names = list(names)
    for name in names:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    written: list[Path] = []
    for name in names:
        fig, frame = FIGURES[name](results)
        written += save(fig, frame, out_dir, name)
    return written


__all__ = ["FIGURES", "Results", "draw", "save"]
