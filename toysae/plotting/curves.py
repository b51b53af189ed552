"""Learning curves from step 0: an init can start above the random floor or end below another."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toysae.plotting import rows as sw
from toysae.plotting import style as st

from ..lazy import pd

_PANELS = {"mmcs": "mmcs", "l0_ratio": "L0 / true L0", "ev": "EV"}
N_POINTS = 40  # steps drawn per curve, spread evenly over its logarithm


def learning_curves(results: sw.Results) -> tuple[Figure, pd.DataFrame]:
    """mmcs, L0 / true L0 and EV against the step at the best sparsity, a panel per ratio and case.

    Returns:
        The figure, and a frame with one row per case, arm, ratio and step: each value with
        its `_half_width` (95 % Student-t over world seeds) and `_n`, and the random `floor`.
    """
    table, column = sw.members(results)
    chosen = sw.best(table)
    by = ["case", *sw.ARM, column, "step"]
    keep = [*by[:-1], "floor", "world_seed", "sae_seed", "diverged"]
    frame = sw.interval_frame(points(results, chosen, keep), by, _PANELS)
    cases = sorted(table["case"].unique())
    names = {(case, value): [case] * (len(cases) > 1) + [label]
             for case in cases for value, label in _PANELS.items()}  # fmt: skip
    rows = {row: "\n".join(name).replace(", ", "\n") for row, name in names.items()}
    with st.style():
        columns = sw.column_titles(table, column)
        fig, panels = st.panel_grid(rows, columns, (2.3, 1.5), "step (0, then log)", fontsize=8)
        for ax, (case, value), at in panels:
            part = frame[(frame["case"] == case) & (frame[column] == at)]
            _panel(ax, part, value, frame)
        title = "learning curves at the best sparsity"
        return st.finish(fig, results, title, sw.remarks(table, chosen)), frame


def points(results: sw.Results, chosen: pd.DataFrame, keep: list[str]) -> pd.DataFrame:
    """One row per member and drawn step: the columns to `keep`, and each score."""
    out = []
    for rows, arrays in sw.with_arrays(results, chosen):
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
    """The indices of at most n + 1 of the steps, with the first and the last."""
    if len(steps) <= n:
        return np.arange(len(steps))
    wanted = np.geomspace(max(steps[1], 1), steps[-1], n)
    return np.unique([0, *np.abs(steps[:, None] - wanted).argmin(axis=0)])


def _panel(ax: Axes, part: pd.DataFrame, value: str, frame: pd.DataFrame) -> None:
    if value == "l0_ratio":
        st.l0_ratio_axis(ax)
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
    for arm in sw.arms(part):
        line = sw.of_arm(part, arm).sort_values("step")
        x, y = line["step"].to_numpy(float), line[value].to_numpy(float)
        half = line[f"{value}_half_width"].to_numpy(float)
        look = {"label": st.arm_label(*arm), "markevery": max(1, len(x) // 6)}
        st.mean_curve(ax, x, y, half, 0.15, **look, **st.arm_style(*arm))
    step_axis(ax, part, frame)


def step_axis(ax: Axes, part: pd.DataFrame, frame: pd.DataFrame) -> None:
    """Makes a step axis: step 0, then a log axis that begins at the figure's first step."""
    steps = frame.loc[frame["step"] > 0, "step"]
    first = float(steps.min()) if len(steps) else 1.0
    ax.set_xscale("symlog", linthresh=first, linscale=0.4)
    ax.set_xlim(-0.15 * first, None)
    decades = 10.0 ** np.arange(np.ceil(np.log10(first)), np.log10(part["step"].max() + 1) + 1e-9)
    ax.set_xticks([0, *decades], ["0", *map(st.short_number, decades)])
    ax.set_xticks([], minor=True)
