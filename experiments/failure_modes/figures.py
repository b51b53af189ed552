"""Figures of what goes wrong in SAEs, and of whether it shows without the truth."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from toysae.plotting import style as st
from toysae.recovery import over_seeds
from toysae.recovery.roc import roc


def modes_by_recipe(
    table: pd.DataFrame,
    scores: Mapping[str, str],
    title: str,
    remarks: str,
) -> tuple[Figure, pd.DataFrame]:
    """A panel for each score: a row for each recipe, a colour for each world.

    Args:
        table: one row an SAE: `world`, `recipe`, `world_seed` and the scores.
        scores: their names in the figure.
        title: of the figure.
        remarks: the footnote.

    Returns:
        The figure, and its frame: `score`, `world`, `recipe`, `mean`, `half_width` (95 %
        Student-t over worlds), `n`.
    """
    by = ["world", "recipe"]
    frame = pd.concat([over_seeds(table, by, s).assign(score=s) for s in scores])
    worlds, recipes = (list(dict.fromkeys(table[c])) for c in by)
    place = {name: len(recipes) - 1 - i for i, name in enumerate(recipes)}
    columns = min(4, len(scores))
    rows = -(-len(scores) // columns)
    with st.style():
        fig, axes = st.canvas(rows, columns, (1.9, 0.3 * len(recipes) + 0.5), extra=1.0)
        for ax, (score, label) in zip(axes.flat, scores.items(), strict=False):
            for k, world in enumerate(worlds):
                part = frame[(frame["score"] == score) & (frame["world"] == world)]
                aside = 0.14 * ((len(worlds) - 1) / 2 - k)
                look: dict[str, Any] = {"color": st.OKABE_ITO[k % 7], "marker": st.MARKERS[k]}
                ax.errorbar(
                    part["mean"], part["recipe"].map(place).to_numpy(float) + aside,
                    xerr=part["half_width"], label=world, linestyle="none", capsize=1.5,
                    elinewidth=0.8, markersize=3.5, **look,
                )  # fmt: skip
            first = ax in axes[:, 0]
            ax.set_yticks(list(place.values()), recipes if first else [])
            ax.set_ylim(-0.6, len(recipes) - 0.4)
            ax.set_xlabel(label)
        for ax in axes.flat[len(scores) :]:
            ax.remove()
        st.footnote(fig, remarks)
        return st.legend(fig, title), frame.reset_index(drop=True)


def detector_areas(
    pairs: pd.DataFrame, detectors: Iterable[str], sets: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """How well detectors without the truth tell absorbed pairs from others.

    Args:
        pairs: one row a pair of latents of one SAE: `world`, `world_seed`, `absorbed`, and each
            detector's score.
        detectors: their columns.
        sets: the worlds whose pairs are judged together, by name.

    Returns:
        `set`, `detector`, `auroc` of all pairs, `mean` and `half_width` (95 % Student-t) over world
        seeds, `n`, `absorbed` and `pairs`.
    """
    rows = []
    for name, worlds in sets.items():
        here = pairs[pairs["world"].isin(worlds)]
        for detector in detectors:
            each = pd.DataFrame([
                {"world_seed": seed, "auroc": roc(part[detector], part["absorbed"])[1]}
                for seed, part in here.groupby("world_seed")
            ])  # fmt: skip
            rows.append({
                "set": name, "detector": detector,
                "auroc": roc(here[detector], here["absorbed"])[1],
                **over_seeds(each, [], "auroc").iloc[0],
                "absorbed": int(here["absorbed"].sum()), "pairs": len(here),
            })  # fmt: skip
    return pd.DataFrame(rows)


def detector_curves(
    pairs: pd.DataFrame,
    detectors: Mapping[str, str],
    sets: Mapping[str, Sequence[str]],
    title: str,
    remarks: str,
) -> tuple[Figure, pd.DataFrame]:
    """ROC of detectors without the truth: a panel for each set of worlds, a line for each detector.

    Args:
        pairs: see :func:`detector_areas`.
        detectors: their names in the figure.
        sets: see :func:`detector_areas`.
        title: of the figure.
        remarks: the footnote.

    Returns:
        The figure, and the frame of :func:`detector_areas`.
    """
    frame = detector_areas(pairs, detectors, sets)
    with st.style():
        fig, axes = st.canvas(1, len(sets), (2.3, 2.3), extra=1.1)
        for ax, (name, worlds) in zip(axes[0], sets.items(), strict=True):
            here = pairs[pairs["world"].isin(worlds)]
            for k, (detector, label) in enumerate(detectors.items()):
                curve, _ = roc(here[detector], here["absorbed"])
                of_set = (frame["set"] == name) & (frame["detector"] == detector)
                interval = frame[of_set].iloc[0]
                ax.plot(
                    curve["false_positives"], curve["true_positives"], color=st.OKABE_ITO[k % 7],
                    linestyle=st.LINES[k % 5], label=label, linewidth=1.2,
                )  # fmt: skip
                shown = st.pm(interval["mean"], interval["half_width"])
                ax.text(0.98, 0.03 + 0.075 * (len(detectors) - 1 - k), shown, fontsize=6.5,
                        color=st.OKABE_ITO[k % 7], ha="right", transform=ax.transAxes)  # fmt: skip
            ax.plot([0, 1], [0, 1], **st.FLOOR_LINE)
            ax.set(xlabel="false positives", title=name, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes[0, 0].set_ylabel("true positives")
        st.footnote(fig, remarks)
        return st.legend(fig, title), frame


def ablation_scatter(
    latents: pd.DataFrame, title: str, remarks: str
) -> tuple[Figure, pd.DataFrame]:
    """A - aX: what a latent still reads after it is taken out of the input, and how much the others
    change, against e·d.

    Args:
        latents: one row a living latent: `recipe`, `gain`, `ablation_residual`,
            `ablation_interference`.
        title: of the figure.
        remarks: the footnote.

    Returns:
        The figure, and the columns that it shows.
    """
    recipes = list(dict.fromkeys(latents["recipe"]))
    columns = ["recipe", "gain", "ablation_residual", "ablation_interference"]
    shown = latents[columns].dropna()
    line = np.linspace(0, max(1.3, float(shown["gain"].quantile(0.99))), 50)
    with st.style():
        fig, axes = st.canvas(1, 3, (2.5, 2.2), extra=1.0)
        hist, residual, interference = axes[0]
        for k, recipe in enumerate(recipes):
            part = shown[shown["recipe"] == recipe]
            look: dict[str, Any] = {"color": st.OKABE_ITO[k % 7], "label": recipe}
            hist.hist(part["gain"], bins=40, range=(0, line[-1]), histtype="step", **look)
            for ax, column in ((residual, columns[2]), (interference, columns[3])):
                ax.plot(part["gain"], part[column], st.MARKERS[k], markersize=2.5, alpha=0.5,
                        markeredgewidth=0, **look)  # fmt: skip
        residual.plot(line, np.maximum(0, 1 - line), color="black", linewidth=0.9,
                      label="max(0, 1 − e·d), a ReLU's")  # fmt: skip
        hist.set(xlabel="e·d", ylabel="latents")
        residual.set(xlabel="e·d", ylabel="residual activation, share", xlim=(0, line[-1]))
        interference.set(xlabel="e·d", ylabel="interference", xlim=(0, line[-1]))
        st.footnote(fig, remarks)
        return st.legend(fig, title), shown


def cosine_matrices(
    matrices: Mapping[str, Mapping[str, np.ndarray]], title: str, remarks: str
) -> tuple[Figure, pd.DataFrame]:
    """Matrices of cosines of small SAEs: a row for each kind, a column for each SAE.

    Args:
        matrices: by the name of the SAE, then by that of the matrix, the same for all SAEs.
        title: of the figure.
        remarks: the footnote.

    Returns:
        The figure, and a frame with `sae`, `matrix`, `row`, `column`, `cos`.
    """
    kinds = list(next(iter(matrices.values())))
    frames = []
    with st.style():
        fig, axes = st.canvas(len(kinds), len(matrices), (1.7, 1.6), extra=0.9)
        for column, (sae, of_sae) in enumerate(matrices.items()):
            for row, kind in enumerate(kinds):
                ax, values = axes[row, column], of_sae[kind]
                image = ax.imshow(values, cmap="PuOr_r", vmin=-1, vmax=1, interpolation="nearest")
                ax.set(xticks=[], yticks=[])
                if row == 0:
                    ax.set_title(sae)
                if column == 0:
                    ax.set_ylabel(kind)
                y, x = np.indices(values.shape)
                frames.append(pd.DataFrame({
                    "sae": sae.replace("\n", ", "), "matrix": kind.replace("\n", " "),
                    "row": y.ravel(), "column": x.ravel(), "cos": values.ravel(),
                }))  # fmt: skip
        fig.colorbar(image, ax=axes, shrink=0.6, pad=0.01).set_label("cosine", fontsize=7)
        fig.suptitle(title)
        return st.footnote(fig, remarks), pd.concat(frames, ignore_index=True)
