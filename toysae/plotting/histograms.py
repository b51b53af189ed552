"""Histograms of MCS over features: are all features found partly, or some fully?

The MCS of a feature is its largest cosine with any latent, max_j cos(f_g, d_j). Two sweeps with
the same mean can differ here: this is the figure to read before any mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st
from toysae.recovery.mcs import EDGES

from ..lazy import pd

_KEY = ["case", *sw.ARM]


def mcs_histograms(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """One panel per arm and ratio: MCS of every feature at the best sparsity, and at the others.

    Returns:
        The figure, and a frame with one row per panel, line and bin that is not empty: `line`
        is "best" (all seeds; `half` says which features), "seed" (one run) or "other sparsity";
        `share` is the fraction of that line's features whose MCS lies in [`low`, `high`).
    """
    table, column = sw.members(results)
    with st.style():
        chosen = sw.best(table)
        frame, notes = _counts(results, table, chosen, column)
        rows, columns = st.arm_rows(table, "share"), sw.column_titles(table, column)
        fig, panels = st.panel_grid(
            rows, columns, (1.95, 1.35), "MCS of a feature", pad=12, shared_ticks=True
        )
        for ax, (case, arm), value in panels:
            here = frame[(frame["case"] == case) & (frame[column] == value)]
            _panel(ax, sw.of_arm(here, arm), arm, notes.get((case, *arm, value), ""))
        title = "MCS of the true features at the best sparsity (chosen on other seeds)"
        return st.finish(fig, results, title, sw.remarks(table, chosen)), frame


def _counts(
    results: sw.Results, table: pd.DataFrame, chosen: pd.DataFrame, column: str
) -> tuple[pd.DataFrame, dict[tuple, str]]:
    """The frame of all lines, and each panel's annotation by its key."""
    mcs: dict[int, np.ndarray] = {}
    freq: dict[int, np.ndarray] = {}
    alive = table[~table["diverged"]]
    for rows, arrays in sw.with_arrays(results, alive):
        for index, row in zip(rows.index, rows["row"].to_numpy(), strict=True):
            mcs[index], freq[index] = arrays["mcs"][row], arrays["feature_freq"][row]
    best_l1 = {_identity(row) for row in chosen.to_dict("records")}
    out, notes = [], {}
    for key, rows in alive.groupby([*_KEY, column]):
        head = dict(zip([*_KEY, column], key, strict=True))
        picked = rows[[_identity(r) in best_l1 for r in rows.to_dict("records")]]
        if len(picked):
            halves = [_halves(freq[i]) for i in picked.index]
            names = ("frequent half", "rarest half") if halves[0].any() else ("all",)
            values = np.concatenate([mcs[i] for i in picked.index])
            rare = np.concatenate(halves)
            head["floor"] = float(picked["floor"].mean())
            for name in names:
                part = values[rare == (name == "rarest half")]
                out.append(_bins(head | {"line": "best", "half": name}, part, len(values)))
            for i, run in zip(picked.index, picked.to_dict("records"), strict=True):
                seeds = {c: run[c] for c in ("sparsity", "world_seed", "sae_seed")}
                out.append(_bins(head | {"line": "seed", **seeds}, mcs[i]))
            mean, half = sw.mean_over_seeds(picked, _KEY, "mmcs")
            above = float(np.mean(values[np.isfinite(values)] > 0.9))
            notes[key] = f"mmcs {st.pm(mean, half)}, >.9: {100 * above:.0f} %"
        for sparsity, others in rows.drop(picked.index).groupby("sparsity"):
            if sparsity in set(picked["sparsity"]):
                continue
            pooled = np.concatenate([mcs[i] for i in others.index])
            out.append(_bins(head | {"line": "other sparsity", "sparsity": sparsity}, pooled))
    names = [*_KEY, column, "floor", "line", "half", "sparsity", "world_seed", "sae_seed"]
    empty = pd.DataFrame(columns=[*names, "low", "high", "share"])
    frame = pd.concat(out, ignore_index=True) if out else empty
    return frame.reindex(columns=empty.columns), notes


def _identity(row: dict) -> tuple:
    return row["cell"], row["row"]


def _halves(freq: np.ndarray) -> np.ndarray:
    """True for the rarest half of the features; for none when all fire about equally often."""
    if not np.isfinite(freq).all() or np.ptp(freq) <= 0.25 * freq.mean():
        return np.zeros(len(freq), bool)
    return np.argsort(np.argsort(-freq, kind="stable"), kind="stable") >= len(freq) / 2


def _bins(head: dict, values: np.ndarray, of: int | None = None) -> pd.DataFrame:
    finite = values[np.isfinite(values)]
    counts, _ = np.histogram(np.clip(finite, 0.0, 1.0), EDGES)
    return filled_bins(head, counts / max(1, len(values) if of is None else of))


def filled_bins(head: Mapping[str, Any], shares: np.ndarray) -> pd.DataFrame:
    """One row for each bin of MCS that is not empty: `head`, `low`, `high` and `share`."""
    full = np.flatnonzero(shares)
    bins = {"low": EDGES[full], "high": EDGES[full + 1], "share": shares[full]}
    return pd.DataFrame({**head, **bins})


def levels(part: pd.DataFrame) -> np.ndarray:
    """The share in every bin from a frame of :func:`filled_bins`, 0 in the empty ones."""
    shares = np.zeros(len(EDGES) - 1)
    shares[np.searchsorted(EDGES, part["low"].to_numpy(float))] = part["share"]
    return shares


def mcs_axis(ax: Axes, high: float) -> None:
    """Makes an x axis of MCS from 0 to `high`."""
    ax.set_xlim(0, high)
    ax.set_xticks([0, 0.5, 0.9], ["0", ".5", ".9"])


def _panel(ax: Axes, frame: pd.DataFrame, arm: tuple[str, str], text: str) -> None:
    look = st.arm_style(*arm)
    mcs_axis(ax, 1.02)
    ax.axvline(0.9, **st.THRESHOLD)
    chosen = frame[frame["line"] == "best"]
    if chosen.empty:
        st.note(ax, "every run diverged" if frame.empty else "no sparsity could be chosen")
    ceiling = "--" if arm[1] in sw.CEILINGS else "-"
    base, top = np.zeros(len(EDGES) - 1), 0.0
    shades = {"frequent half": (0.85, "frequent half"), "rarest half": (0.3, "rarest half")}
    for half, part in chosen.groupby("half"):
        alpha, label = shades.get(str(half), (0.55, None))
        level = base + levels(part)
        kind = {"color": look["color"], "alpha": alpha, "linewidth": 0}
        ax.stairs(level, EDGES, baseline=base, fill=True, label=label, **kind)
        base = level
        top = max(top, level.max())
    if len(chosen):
        ax.stairs(base, EDGES, color=look["color"], linewidth=1.1, linestyle=ceiling)
        ax.axvline(chosen["floor"].iloc[0], **st.FLOOR_LINE, label="random floor")
    for _, part in frame[frame["line"] == "other sparsity"].groupby("sparsity"):
        ax.stairs(
            levels(part), EDGES, color="0.6", linewidth=0.6, label="other sparsity", zorder=0.5
        )
        top = max(top, min(part["share"].max(), 1.3 * top or np.inf))
    for _, part in frame[frame["line"] == "seed"].groupby(["world_seed", "sae_seed"]):
        ax.stairs(levels(part), EDGES, color="black", linewidth=0.35, label="one seed")
        top = max(top, part["share"].max())
    ax.set_ylim(0, 1.08 * top or 1)
    ax.locator_params(axis="y", nbins=3)
    ax.text(0.5, 1.02, text, transform=ax.transAxes, ha="center", va="bottom", fontsize=7)
