"""Learning curves, from step 0: an init can start above the random floor or end below another."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import style as st
from toysae.plotting.rows import (
    ARM,
    COLUMN_LABELS,
    SweepResults,
    arms,
    best,
    interval_frame,
    members,
    of_arm,
    remarks,
    with_arrays,
)

_PANELS = {"mmcs": "mmcs", "l0_ratio": "L0 / true L0", "ev": "EV"}
N_POINTS = 40  # steps drawn per curve, spread evenly over its logarithm


def learning_curves(results: SweepResults) -> tuple[Figure, pd.DataFrame]:
    """mmcs, L0 / true L0 and EV against the step, at the best L1, one panel per ratio and case.

    Returns:
        The figure, and a frame with one row per case, arm, ratio and step: each value with
        its `_half_width` (95 % Student-t over world seeds) and `_n`, and the random `floor`.
    """
    table, column = members(results)
    chosen = best(table)
    by = ["case", *ARM, column, "step"]
    keep = [*by[:-1], "floor", "world_seed", "sae_seed", "diverged"]
    frame = interval_frame(points(results, chosen, keep), by, _PANELS)
    cases, columns = sorted(table["case"].unique()), sorted(table[column].unique())
    rows = [(case, value) for case in cases for value in _PANELS]
    with st.style():
        fig, axes = st.canvas(max(1, len(rows)), max(1, len(columns)), (2.3, 1.5))
        for i, (case, value) in enumerate(rows):
            for j, at in enumerate(columns):
                ax = axes[i, j]
                part = frame[(frame["case"] == case) & (frame[column] == at)]
                _panel(ax, part, value, frame)
                if i == 0:
                    ax.set_title(f"{COLUMN_LABELS[column].split(' (')[0]} {at:g}")
                if j == 0:
                    ax.set_ylabel(
                        _PANELS[value]
                        if len(cases) == 1
                        else f"{case}\n{_PANELS[value]}".replace(", ", "\n")
                    )
                if i == len(rows) - 1:
                    ax.set_xlabel("step (0, then log)")
        title = "learning curves at the best L1"
        return st.finish(fig, results, title, remarks(table, chosen)), frame


def points(results: SweepResults, chosen: pd.DataFrame, keep: list[str]) -> pd.DataFrame:
    """One row per member and step drawn: the columns to `keep`, and each score."""
    out = []
    for rows, arrays in with_arrays(results, chosen):
        steps = np.asarray(arrays["curve_steps"])
        at = thin(steps, N_POINTS)
        for row in rows.to_dict("records"):
            curves = {
                name: arrays[f"curve_{name}"][row["row"]][at] for name in ("mmcs", "l0", "ev")
            }
            curves["l0_ratio"] = curves.pop("l0") / row["true_l0"]
            out.append(pd.DataFrame({**{c: row[c] for c in keep}, "step": steps[at], **curves}))
    return pd.concat(out) if out else pd.DataFrame(columns=[*keep, "step", *_PANELS])


def thin(steps: np.ndarray, n: int) -> np.ndarray:
    """Indices of at most n + 1 of the steps, the first and the last among them."""
    if len(steps) <= n:
        return np.arange(len(steps))
    wanted = np.geomspace(max(steps[1], 1), steps[-1], n)
    return np.unique([0, *np.abs(steps[:, None] - wanted).argmin(axis=0)])


def _panel(ax: Axes, part: pd.DataFrame, value: str, frame: pd.DataFrame) -> None:
    if value == "l0_ratio":
        ax.set_yscale("log", base=2)
        ax.axhspan(0.5, 2, color="0.92", linewidth=0, label="L0 within 2× of the truth")
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
        seen = frame["l0_ratio"].to_numpy(float)
        seen = np.append(seen[seen > 2**-8], [0.5, 2.0])
        ax.set_ylim(seen.min() / 1.3, seen.max() * 1.3)
    else:
        ax.set_ylim(-0.03, 1.03)
    if part.empty:
        return st.note(ax, "every run diverged")
    if value == "mmcs":
        ax.axhline(part["floor"].mean(), **st.FLOOR_LINE, label="random floor")
        ax.axhline(0.9, **st.THRESHOLD)
    for arm in arms(part):
        line = of_arm(part, arm).sort_values("step")
        x, y = line["step"].to_numpy(float), line[value].to_numpy(float)
        half = line[f"{value}_half_width"].to_numpy(float)
        look = st.arm_style(*arm)
        ax.plot(x, y, label=st.arm_label(*arm), markevery=max(1, len(x) // 6), **look)
        ax.fill_between(x, y - half, y + half, color=look["color"], alpha=0.15, linewidth=0)
    step_axis(ax, part, frame)


def step_axis(ax: Axes, part: pd.DataFrame, frame: pd.DataFrame) -> None:
    """Step 0, then a log axis that begins at the figure's first step."""
    steps = frame.loc[frame["step"] > 0, "step"]
    first = float(steps.min()) if len(steps) else 1.0
    ax.set_xscale("symlog", linthresh=first, linscale=0.4)
    ax.set_xlim(-0.15 * first, None)
    decades = 10.0 ** np.arange(np.ceil(np.log10(first)), np.log10(part["step"].max() + 1) + 1e-9)
    ax.set_xticks([0, *decades], ["0", *map(st.short_number, decades)])
    ax.set_xticks([], minor=True)
