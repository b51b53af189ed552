"""Survival curves: how long it takes until a feature is recovered, by dictionary size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st
from toysae.recovery.mcs import EDGES
from toysae.recovery.survival import steps_by_feature, survival

from ..lazy import pd

RECOVERED = 0.9
_KEY = ["case", *sw.ARM, "ratio"]
_SHADES = 0.15, 0.85  # of the colour map, whose ends are hard to see on white


def survival_by_size(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """The share of features that no step so far had recovered (MCS >= .9) at the best sparsity: a
    line for each dictionary size, a panel for each arm, case and ratio with several sizes (all
    of them if none has several).

    The k-th event is the first logged step with k features recovered at once
    (:func:`toysae.recovery.steps_by_feature`); features that are never recovered are censored at
    the last step (Kaplan and Meier 1958). Features of one world are not independent: each world
    has an estimate of its own, and the interval is Student's t over worlds.

    Returns:
        The figure, and a frame with one row per panel, size and step: `share` not yet recovered
        with `half_width` (95 %) and `n` worlds.
    """
    table, _ = sw.members(results)
    table = table.assign(case=sw.case_without(table, "size"))
    sizes = table.groupby(_KEY)["size"].transform("nunique")
    table = table[(sizes > 1) | (sizes.max() <= 1)]
    chosen = sw.best(table)
    if not chosen["init"].isin(sw.CEILINGS).all():  # ceilings begin with all features
        table, chosen = (part[~part["init"].isin(sw.CEILINGS)] for part in (table, chosen))
    parts = [part for key, rows in chosen.groupby([*_KEY, "size"]) for part in _curves(
        results, rows, dict(zip([*_KEY, "size"], key, strict=True)))]  # fmt: skip
    columns = [*_KEY, "size", "step", "share", "half_width", "n"]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    panels = [*dict.fromkeys(table[_KEY].itertuples(index=False, name=None))]
    shown = sorted(table["size"].unique())
    width = min(3, len(panels))
    with st.style():
        fig, axes = st.wrapped(len(panels), width, (2.9, 2.2), 1.1)
        for k, (key, ax) in enumerate(zip(panels, axes, strict=True)):
            here = frame[(frame[_KEY] == list(key)).all(axis=1)] if len(frame) else frame
            _panel(ax, here, shown)
            case, recipe, init, ratio = key
            ax.set_title(f"{case}\n{st.arm_label(recipe, init)}, ratio {ratio:g}", loc="left",
                         fontsize=7)  # fmt: skip
            ax.set_ylabel("share not yet recovered" if k % width == 0 else "")
            ax.set_xlabel("step" if k + width >= len(panels) else "")
        title = "steps until a feature is recovered (MCS ≥ .9) at the best sparsity"
        remark = sw.interval_remark(table) + "; features: first step with so many recovered at once"
        return st.finish(fig, results, title, remark), frame


def _curves(results: sw.Results, chosen: pd.DataFrame, head: dict) -> Iterator[pd.DataFrame]:
    """The mean survival curve over the worlds of a cell, one frame a cell."""
    high = np.searchsorted(EDGES, RECOVERED - 1e-9)
    for rows, arrays in sw.with_arrays(results, chosen):
        at = np.asarray(arrays["curve_steps"])
        worlds = []
        for _, own in rows.groupby("world_seed"):
            counts = arrays["curve_mcs_hist"][own["row"].to_numpy(), high:].sum(axis=1)
            n_features = int(own["n_features"].iloc[0])
            worlds.append(survival(*steps_by_feature(at, counts, n_features), at))
        yield pd.DataFrame({**head, "step": at, **sw.over_worlds(np.array(worlds))})


def _panel(ax: Axes, part: pd.DataFrame, sizes: list[float]) -> None:
    ax.set_ylim(-0.03, 1.03)
    if part.empty:
        return st.note(ax, "every run diverged")
    colours = colormaps["viridis"](np.linspace(*_SHADES, len(sizes)))
    steps = part.loc[part["step"] > 0, "step"]
    ax.set_xscale("symlog", linthresh=float(steps.min()), linscale=0.6)
    ax.set_xlim(0, float(steps.max()))
    ax.xaxis.set_major_formatter(lambda value, _: st.short_number(value) if value else "0")
    for size, colour, dashes in zip(sizes, colours, [*st.LINES] * len(sizes), strict=False):
        line = part[part["size"] == size].sort_values("step")
        x, y, half = (line[c].to_numpy(float) for c in ("step", "share", "half_width"))
        look = {
            "color": colour,
            "linestyle": dashes,
            "label": f"{sw.COLUMN_LABELS['size']} {size:g}",
        }
        ax.step(x, y, where="post", **look)
        low, high = np.clip([y - half, y + half], 0, 1)
        ax.fill_between(x, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
