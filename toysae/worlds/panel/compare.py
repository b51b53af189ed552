"""Puts panels of worlds or of real activations side by side, as lines for a table."""

from collections.abc import Callable

import numpy as np

from .activations import PanelStats
from .features import FeaturePanel

MISSING = "–"

_Row = tuple[str, Callable[[PanelStats], str]]
_FeatureRow = tuple[str, Callable[[FeaturePanel], str]]


def compare_panels(*panels: PanelStats | FeaturePanel) -> list[tuple[str, ...]]:
    """Returns the panels' main numbers as (what, A, B, ...) lines, one value for each panel.

    Activations alone have no features: lines about features show "–" for a plain
    :class:`PanelStats`, and are left out where all panels are plain.
    """
    stats = [panel.stats if isinstance(panel, FeaturePanel) else panel for panel in panels]
    rows = [(what, *map(show, stats)) for what, show in _ROWS]
    if any(isinstance(panel, FeaturePanel) for panel in panels):
        for what, show in _FEATURE_ROWS:
            values = (show(p) if isinstance(p, FeaturePanel) else MISSING for p in panels)
            rows.append((what, *values))
    return rows


def _spread(values: np.ndarray) -> str:
    """Median and the middle 90 % over dimensions or features, constant ones left out."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return "n/a"
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def _magnitude(w: FeaturePanel) -> str:
    weight = np.where(w.prob > 0, w.prob, 0.0)
    total = weight.sum()
    if not total:
        return "n/a"
    mean = np.nansum(weight * w.magnitude_mean) / total
    within = np.nansum(weight * w.magnitude_sd**2) / total
    between = np.nansum(weight * (w.magnitude_mean - mean) ** 2) / total
    return f"{mean:.3g}, {np.sqrt(within + between):.3g}"


def _dispersion(w: FeaturePanel) -> str:
    independent = float((w.prob * (1 - w.prob)).sum())
    return f"{w.l0_variance / independent:.3g}" if independent > 0 else "n/a"


def _correlation(w: FeaturePanel) -> str:
    if w.n_paired < 2:
        return "n/a"
    return f"{w.correlations[0]:.3g} (noise {w.noise_edge:.3g}), {w.modes} modes above"


_ROWS: list[_Row] = [
    ("samples", lambda s: f"{s.n_samples:,}"),
    ("dimensions", lambda s: f"{s.d_in:,}"),
    ("‖mean‖ / ‖sd‖", lambda s: f"{s.mean_over_sd:.3g}"),
    ("norm: median [5 %, 95 %]",
     lambda s: "{:.3g} [{:.3g}, {:.3g}]".format(*(s.norm_quantiles[q] for q in (0.5, 0.05, 0.95)))),
    ("norm: sd / mean", lambda s: f"{s.norm_sd / s.norm_mean:.3g}" if s.norm_mean else "n/a"),
    ("skew by dimension: median [5 %, 95 %]", lambda s: _spread(s.skew)),
    ("excess kurtosis by dimension", lambda s: _spread(s.kurtosis)),
    ("share of zeros by dimension", lambda s: _spread(s.zero)),
    ("share above zero by dimension", lambda s: _spread(s.positive)),
    ("participation ratio / dimensions", lambda s: f"{s.participation_ratio / s.d_in:.3g}"),
    ("dimensions for 90 % of variance", lambda s: f"{s.dims_90:,}"),
]  # fmt: skip

_FEATURE_ROWS: list[_FeatureRow] = [
    ("features", lambda w: f"{w.n_features:,} (ratio {w.n_features / w.stats.d_in:.3g})"),
    ("L0: mean, sd", lambda w: f"{w.l0_mean:.3g}, {np.sqrt(max(w.l0_variance, 0.0)):.3g}"),
    ("L0 variance / that of independent firing", _dispersion),
    ("firing probability: max, median, min",
     lambda w: f"{w.prob[0]:.3g}, {np.median(w.prob):.3g}, {w.prob[-1]:.3g}"),
    ("rank-frequency exponent",
     lambda w: "{:.3f} (ranks {} to {})".format(w.rank_exponent, *w.rank_range)),
    ("magnitude when on: mean, sd", _magnitude),
    ("largest firing-correlation eigenvalue", _correlation),
    ("pairwise phi: rms (noise)", lambda w: f"{w.phi_rms:.3g} ({w.stats.n_samples**-0.5:.3g})"),
    ("coherence: largest |cos|",
     lambda w: f"{w.coherence:.3g} (Welch bound {w.welch_bound:.3g})"),
]  # fmt: skip
