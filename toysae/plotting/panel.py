"""Panels of statistics: a world's activations compared with another's, or with a real model's.

Every small figure is a statistic of :class:`~toysae.worlds.panel.PanelStats`, or of features
(:class:`~toysae.worlds.panel.FeaturePanel`): a world's true ones or an SAE's latents, which plain
activations do not have. Small figures for which no source has the numbers are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from toysae.errors import require
from toysae.plotting import style as st
from toysae.worlds.panel import FeaturePanel, PanelStats
from toysae.worlds.panel.features import COSINE_EDGES

from ..lazy import pd

PanelSource = PanelStats | FeaturePanel
_COLUMNS = ["source", "panel", "x", "x_high", "y"]
_LINEAR = ("linear", "linear")
_MARK: dict[str, Any] = {"marker": "o", "markersize": 3}
_THIN = 300  # points of a line, evenly over the logarithm of x


@dataclass(frozen=True)
class _Small:
    """A small figure: what it shows of a source, and how."""

    name: str
    title: str
    labels: tuple[str, str]
    of_features: bool
    points: Callable[[Any], pd.DataFrame]
    kind: str = "line"
    scales: tuple[str, str] = ("log", "log")


def panel_figure(sources: Mapping[str, PanelSource]) -> tuple[Figure, pd.DataFrame]:
    """Small multiples of up to eight statistics, one colour for each source.

    Args:
        sources: panels by label; plain :class:`PanelStats` and :class:`FeaturePanel` may be mixed.

    Returns:
        The figure, and the points it shows: `source`, `panel`, `x`, `y`, and for the bins of a
        histogram `x_high`, their upper edge.

    Raises:
        ToysaeError: there are no sources.
    """
    require(len(sources) > 0, "there are no panels to draw: give at least one")
    featured = {k: v for k, v in sources.items() if isinstance(v, FeaturePanel)}
    shown = [small for small in _SMALL if featured or not small.of_features]
    alone = len(sources) == 1
    if alone:  # heights differ between sources, and only then need a log axis
        shown = [replace(s, scales=_LINEAR) if s.name == "magnitude" else s for s in shown]
    frames = []
    with st.style():
        n_columns = min(4, len(shown))
        n_rows = -(-len(shown) // n_columns)
        fig, axes = st.canvas(n_rows, n_columns, (2.35, 1.85), extra=1.1)
        for ax, small in zip(axes.flat, shown, strict=False):
            _frame_axes(ax, small)
            for i, (label, source) in enumerate(sources.items()):
                if small.of_features and label not in featured:
                    continue
                of = source if small.of_features else _stats(source)
                points = small.points(of).assign(source=label, panel=small.name)
                frames.append(points)
                _draw(ax, small, points, _look(i), alone)
                _reference(ax, small, of, _look(i)["color"])
            _finish_axes(ax, small)
        for ax in axes.flat[len(shown) :]:
            ax.set_axis_off()
        _explain(fig, axes.flat[0], sources)
    return fig, pd.concat(frames, ignore_index=True).reindex(columns=_COLUMNS)


def _stats(source: PanelSource) -> PanelStats:
    return source.stats if isinstance(source, FeaturePanel) else source


def _look(i: int) -> dict[str, Any]:
    return {"color": st.OKABE_ITO[i % 7], "linestyle": st.LINES[i % 5], "alpha": 0.9}


def _lines(x: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    """Points with positive y, thinned evenly over log x where there are many."""
    x, y = x[y > 0], y[y > 0]
    if len(x) > _THIN:
        keep = np.unique(np.geomspace(1, len(x), _THIN).round().astype(int) - 1)
        x, y = x[keep], y[keep]
    return pd.DataFrame({"x": x, "y": y})


def _spectrum(values: np.ndarray) -> pd.DataFrame:
    """Falling eigenvalues, without rounding errors: those below 1e-6 of the largest."""
    real = values > 1e-6 * values.max(initial=0.0)
    return _lines(np.arange(1, len(values) + 1), np.where(real, values, 0.0))


def _bars(edges: np.ndarray, height: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"x": edges[:-1], "x_high": edges[1:], "y": height})


def _probability(w: FeaturePanel) -> pd.DataFrame:
    return _lines(np.arange(1, w.n_features + 1), w.prob)


def _magnitude(w: FeaturePanel) -> pd.DataFrame:
    share = w.magnitude_counts / max(w.magnitude_counts.sum(), 1)
    return _bars(w.magnitude_edges, share / np.diff(w.magnitude_edges))


def _correlation(w: FeaturePanel) -> pd.DataFrame:
    return _spectrum(w.correlations)


def _l0(w: FeaturePanel) -> pd.DataFrame:
    return _bars(np.arange(len(w.l0_counts) + 1) - 0.5, w.l0_counts / w.stats.n_samples)


def _norm(s: PanelStats) -> pd.DataFrame:
    """The distribution of norms in bins four times as wide as those of the statistics: 9 %."""
    rms = np.hypot(s.norm_mean, s.norm_sd) or 1.0
    counts = np.pad(s.norm_counts, (0, -len(s.norm_counts) % 4)).reshape(-1, 4).sum(1)
    edges = s.norm_edges[0] * 2.0 ** (np.arange(len(counts) + 1) / 8)
    return _bars(edges / rms, counts / s.n_samples)


def _shape(s: PanelStats) -> pd.DataFrame:
    keep = np.isfinite(s.skew)
    return pd.DataFrame({"x": s.skew[keep], "y": s.kurtosis[keep]})


def _variance(s: PanelStats) -> pd.DataFrame:
    return _spectrum(s.eigenvalues / (s.eigenvalues.mean() or 1.0))


def _coherence(w: FeaturePanel) -> pd.DataFrame:
    """The distribution of |cos| in bins .01 wide, four of those kept, without empty ones at the
    end."""
    share = w.coherence_counts.reshape(-1, 4).sum(1) / max(w.coherence_counts.sum(), 1)
    last = int(np.flatnonzero(share)[-1]) + 1 if share.any() else 1
    return _bars(COSINE_EDGES[::4][: last + 1], share[:last])


_SMALL = [
    _Small("probability", "Firing by rank", ("feature rank", "probability"), True, _probability),
    _Small("magnitude", "Magnitude when on", ("coefficient", "density"), True, _magnitude,
           "steps", ("linear", "log")),
    _Small("l0", "Features on", ("L0", "share of samples"), True, _l0,
           "steps", _LINEAR),
    _Small("correlation", "Firing correlations", ("rank", "eigenvalue"), True, _correlation),
    _Small("coherence", "Between features", ("|cos|", "share of pairs"), True, _coherence,
           "steps", ("linear", "log")),
    _Small("norm", "Norms", ("‖x‖ / rms", "share per 9 % bin"), False, _norm,
           "steps", ("log", "linear")),
    _Small("shape", "Each dimension", ("skew", "excess kurtosis"), False, _shape,
           "points", ("symlog", "symlog")),
    _Small("variance", "Covariance", ("rank", "eigenvalue / mean"), False, _variance),
]  # fmt: skip


def _frame_axes(ax: Axes, small: _Small) -> None:
    ax.set_title(small.title)
    ax.set_xlabel(small.labels[0])
    ax.set_ylabel(small.labels[1])
    for set_scale, scale in zip((ax.set_xscale, ax.set_yscale), small.scales, strict=True):
        set_scale(scale, **({"linthresh": 1.0} if scale == "symlog" else {}))


def _draw(ax: Axes, small: _Small, points: pd.DataFrame, look: dict[str, Any], alone: bool) -> None:
    x, y = points["x"].to_numpy(float), points["y"].to_numpy(float)
    if points.empty:
        return
    if small.kind == "points":
        ax.scatter(x, y, s=7, color=look["color"], alpha=0.5, linewidths=0)
        return
    if small.scales[1] == "log":
        y = np.where(y > 0, y, np.nan)
    seen = np.isfinite(np.pad(y, 1, constant_values=np.nan))
    single = seen[1:-1] & ~seen[:-2] & ~seen[2:]  # no line reaches these
    marks = seen[1:-1] if seen.sum() <= 30 else single
    if small.kind == "steps":  # outlines on top of each other are a thicket: join the middles
        edges = np.append(x, points["x_high"].iloc[-1])
        x = (edges[:-1] + edges[1:]) / 2
        if alone:
            baseline = 0 if small.scales[1] == "linear" else None
            ax.stairs(y, edges, baseline=baseline, **look)
            ax.plot(x[single], y[single], color=look["color"], linestyle="", **_MARK)
            return
    ax.plot(x, y, markevery=marks.tolist(), **_MARK, **look)


def _reference(ax: Axes, small: _Small, of: Any, color: str) -> None:
    """Draws what a source is to be compared with, dotted and in its colour."""
    dotted: dict[str, Any] = {"color": color, "linestyle": ":", "linewidth": 1.2}
    if small.name == "correlation" and of.n_paired > 1:
        ax.axhline(of.noise_edge, **dotted)
    elif small.name == "coherence" and of.welch_bound > 0:
        ax.axvline(of.welch_bound, **dotted)


def _finish_axes(ax: Axes, small: _Small) -> None:
    if small.name == "shape":
        ax.axhline(0, zorder=0, **st.THRESHOLD)
        ax.axvline(0, zorder=0, **st.THRESHOLD)
        _at_least(ax, "x", -1, 1)
        _at_least(ax, "y", -1, 1)
    elif small.name == "magnitude":
        _at_least(ax, "x", 0, 0)
    elif small.name == "coherence":
        high = max(ax.get_xlim()[1], 0.2)
        ax.set_xlim(-0.03 * high, 1.03 * high)  # room for a whole marker at either end
    elif small.name == "norm":
        ax.set_xlim(left=max(ax.get_xlim()[0], 1e-2))
    if small.scales[0] == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=small.name == "l0"))
    if small.scales[1] == "linear":
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_locator(MaxNLocator(4))
    for axis, scale in zip("xy", small.scales, strict=True):
        if scale == "log":
            _widen(ax, axis)


def _at_least(ax: Axes, axis: str, low: float, high: float) -> None:
    now = getattr(ax, f"get_{axis}lim")()
    getattr(ax, f"set_{axis}lim")(min(now[0], low), max(now[1], high))


def _widen(ax: Axes, axis: str) -> None:
    """Widens a log axis to at least one decade, so that noise around a constant looks constant."""
    low, high = getattr(ax, f"get_{axis}lim")()
    middle = np.sqrt(low * high)
    _at_least(ax, axis, middle / np.sqrt(10), middle * np.sqrt(10))
    low, high = getattr(ax, f"get_{axis}lim")()
    it = getattr(ax, f"{axis}axis")
    it.set_minor_formatter(NullFormatter())
    if high < 50 * low:  # powers of ten alone would be one or two ticks
        it.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        it.set_minor_formatter(FuncFormatter(_two_or_five))


def _two_or_five(value: float, _: object) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _explain(fig: Figure, ax: Axes, sources: Mapping[str, PanelSource]) -> None:
    """Adds one legend for all sources, and a footnote that says what each is."""
    if len(sources) == 1:
        fig.suptitle(next(iter(sources)))
    else:
        for i, label in enumerate(sources):
            ax.plot([], [], label=label, **_look(i))
        st.legend(fig, "")
    parts = [f"{label}: {_what(source)}" for label, source in sources.items()]
    if any(isinstance(source, FeaturePanel) for source in sources.values()):
        parts.append("dotted: noise edge (Marchenko-Pastur) and Welch bound")
    st.footnote(fig, "; ".join(parts))


def _what(source: PanelSource) -> str:
    """What a source is, in words: samples, dimensions, features."""
    s = _stats(source)
    silent = 1 - s.norm_counts.sum() / s.n_samples
    text = f"{s.n_samples:,} samples of {s.d_in:,} dimensions"
    if isinstance(source, FeaturePanel):
        text += f", {source.n_features:,} features"
    return text + (f", ‖x‖ = 0 in {silent:.1%}" if silent > 0 else "")
