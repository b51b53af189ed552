"""Figures of how SAEs train from different initialisations, and of how alike they end."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from toysae.plotting import style as st
from toysae.recovery import over_seeds


def inits_figure(
    curves: pd.DataFrame, shared: pd.DataFrame, note: str
) -> tuple[Figure, pd.DataFrame]:
    """Draws how the error and L0 fall from each init, and how alike dictionaries of two inits are.

    Args:
        curves: one row a step and SAE: `init`, `sae_seed`, `step`, `fvu`, `l0`.
        shared: one row a pair of SAEs of different seeds: `init`, `other_init`, `mmcs` of the first
            in the second.
        note: below the figure.

    Returns:
        The figure, and a frame: for each init and step `fvu` and `l0` with `_half_width` (95 %
        Student-t over seeds); for each pair of inits `mmcs`, its mean over pairs of seeds.
    """
    inits = list(dict.fromkeys(curves["init"]))
    by_seed = curves.rename(columns={"sae_seed": "world_seed"})  # there is one layer
    by_value = {v: over_seeds(by_seed, ["init", "step"], v) for v in ("fvu", "l0")}
    means = shared.groupby(["init", "other_init"])["mmcs"].mean()
    with st.style():
        fig, axes = st.canvas(1, 3, (2.9, 2.4), 1.1)
        labels = {"fvu": "FVU, held out", "l0": "L0"}
        for ax, (value, label) in zip(axes[0], labels.items(), strict=False):
            for i, init in enumerate(inits):
                line = by_value[value].query("init == @init").sort_values("step")
                x, y, half = (line[c].to_numpy(float) for c in ("step", "mean", "half_width"))
                look = st.nth(i)
                ax.plot(x, y, label=init, **look)
                ax.fill_between(x, y - half, y + half, color=look["color"], alpha=0.15, lw=0)
            ax.set_xscale("symlog", linthresh=max(1.0, float(curves["step"].max()) / 50))
            ax.set_yscale("log")
            ax.set_xlabel("step")
            ax.set_title(label)
        grid = means.unstack().reindex(index=inits, columns=inits).to_numpy()
        ax = axes[0, 2]
        ax.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for (i, j), value in np.ndenumerate(grid):
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5,
                    color="w" if value < 0.6 else "k")  # fmt: skip
        ax.set_xticks(range(len(inits)), inits, rotation=35, ha="right", fontsize=6.5)
        ax.set_yticks(range(len(inits)), inits, fontsize=6.5)
        ax.set_title("MMCS of a row in a column")
        n_seeds = curves["sae_seed"].nunique()
        st.footnote(fig, f"{note}; {n_seeds} seeds, bands 95 %; MMCS over pairs of unlike seeds")
        st.legend(fig, "from different initialisations")
    frames = [frame.rename(columns={"mean": value, "half_width": f"{value}_half_width"})
              for value, frame in by_value.items()]  # fmt: skip
    lines = frames[0].merge(frames[1].drop(columns="n"), on=["init", "step"])
    return fig, pd.concat([lines, means.reset_index()], ignore_index=True)
