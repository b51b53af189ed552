"""Figures of toy models of superposition: phase diagrams, D_i and D*, after Elhage et al. 2022."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from toysae.plotting import style as st
from toysae.worlds.tms import POLYTOPES

_EXCESS = 10.0  # per cent where the colours of a loss's excess end
REPRESENTED = 0.5  # of the largest ‖W_i‖: above it a feature counts as represented
STATES = {
    "not represented": "#EFEFEF",
    "alone on a dimension": st.OKABE_ITO[0],
    "in superposition": st.OKABE_ITO[4],
}


def phase_diagrams(frame: pd.DataFrame, remarks: str) -> Figure:
    """What becomes of the extra feature, over its importance and the density of all.

    Args:
        frame: one row per `n_features`, `d_hidden`, `importance` and `density`, with the trained
            model's `norm` and `overlap` of the extra feature and its `loss`, and the
            `closed_form` loss of the best `arrangement` with the extra feature's `state` there.
        remarks: the footnote: steps, seeds, samples.
    """
    cases = list(frame.groupby(["n_features", "d_hidden"]))
    titles = ("trained, best of the seeds", "lowest closed form", "trained loss over closed form")
    with st.style():
        fig, axes = st.canvas(len(cases), 3, (2.5, 2.2), extra=1.0)
        for row, ((n, m), part) in zip(axes, cases, strict=True):
            names = list(dict.fromkeys(part["arrangement"]))
            best = _grid(part, part["arrangement"].map(names.index))
            shade = {
                a: to_rgb(STATES[s])
                for a, s in zip(part["arrangement"], part["state"], strict=True)
            }
            _image(row[0], part, _mixture(_grid(part, "norm"), _grid(part, "overlap")))
            _image(row[1], part, np.array([shade[a] for a in names])[best.astype(int)])
            excess = 100 * (_grid(part, "loss") / _grid(part, "closed_form") - 1)
            norm = TwoSlopeNorm(0, -_EXCESS, _EXCESS)
            drawn = _image(row[2], part, excess, cmap="PuOr_r", norm=norm)
            bar = fig.colorbar(drawn, ax=row[2], shrink=0.9, pad=0.02, extend="both")
            bar.set_label("excess, %", fontsize=7)
            for ax in row:
                _borders(ax, best)
            _name_regions(row[1], best, names, shade)
            row[0].set_ylabel(f"{n} features in {m}\nimportance of the extra one")
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title)
        for ax in axes[-1]:
            ax.set_xlabel("density 1 − S")
        handles = [Patch(facecolor=c, edgecolor="0.6", label=s) for s, c in STATES.items()]
        place = {"loc": "outside upper center", "ncols": 3, "title_fontsize": 9}
        fig.legend(handles=handles, title="superposition phases: the extra feature is", **place)
        return st.footnote(fig, remarks)


def dimensionality_curves(
    steps: np.ndarray, share: np.ndarray, loss: np.ndarray, norms: np.ndarray, remarks: str
) -> tuple[Figure, pd.DataFrame]:
    """D_i of every feature along training, over the loss.

    Args:
        steps: `[snapshots]`.
        share: `[snapshots, n_features]` D_i.
        loss: `[snapshots]`.
        norms: `[n_features]` final ‖W_i‖; features below half the largest are grey.
        remarks: the footnote.

    Returns:
        The figure, and a frame with a row per step: loss and every feature's D_i.
    """
    kept = norms >= REPRESENTED * norms.max()
    with st.style():
        fig, axes = st.canvas(2, 1, (4.6, 1.9), extra=0.6)
        top, bottom = axes[:, 0]
        fig.get_layout_engine().set(h_pad=0.03)  # pyright: ignore
        for drawn, look in (
            (~kept, {"color": "0.7", "linewidth": 0.4}),
            (kept, {"color": st.OKABE_ITO[0], "linewidth": 0.6, "alpha": 0.6}),
        ):
            if drawn.any():
                top.plot(steps, share[:, drawn], **look)
        _polytopes(top)
        top.set_ylabel("D_i")
        top.set_xticklabels([])
        bottom.plot(steps, loss, color=st.OKABE_ITO[1])
        learned = loss[1:] if len(loss) > 1 else loss  # the random start would set the scale
        bottom.set_ylim(None, 1.01 * learned.max())
        bottom.set_ylabel("loss")
        bottom.set_xlabel("step")
        for ax in (top, bottom):
            ax.set_xlim(0, steps[-1])
        fig.suptitle(
            f"share of a dimension of each feature: {kept.sum()} represented in the end, "
            f"{(~kept).sum()} not (grey)"
        )
        st.footnote(fig, remarks)
    columns = {f"D_{i}": share[:, i].round(3) for i in range(share.shape[1])}
    return fig, pd.DataFrame({"step": steps, "loss": loss, **columns})


def dimensions_by_sparsity(frame: pd.DataFrame, remarks: str) -> Figure:
    """D* against 1 / density: it sticks at 1 and at 1/2.

    Args:
        frame: one row per `density` and `seed`, with `dimensions`, D* = m / ‖W‖_F^2.
        remarks: the footnote.
    """
    with st.style():
        fig, axes = st.canvas(1, 1, (4.2, 2.6), extra=0.7)
        ax = axes[0, 0]
        mean = frame.groupby("density")["dimensions"].mean()
        ax.plot(1 / mean.index.to_numpy(float), mean.to_numpy(float), color=st.OKABE_ITO[0])
        ax.plot(1 / frame["density"], frame["dimensions"], "o", color=st.OKABE_ITO[0])
        for at, name in ((1.0, "a dimension each"), (0.5, "antipodal pairs")):
            ax.axhline(at, **st.THRESHOLD)
            ax.annotate(
                name, (1, at), (-2, 2), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", va="bottom", fontsize=7, color="0.4",
            )  # fmt: skip
        _sparsity_axis(ax, frame["density"])
        ax.set_ylim(0, 1.12)
        ax.set_ylabel("D* = m / ‖W‖²")
        fig.suptitle("hidden dimensions for each represented feature")
        return st.footnote(fig, remarks)


def dimensionality_by_sparsity(frame: pd.DataFrame, remarks: str) -> Figure:
    """Where the D_i of the represented features lie, against 1 / density.

    Args:
        frame: one row per `density` and occupied bin of D_i: its centre `D_i` and the `share` of
            the represented features in it.
        remarks: the footnote.
    """
    with st.style():
        fig, axes = st.canvas(1, 1, (4.6, 3.0), extra=0.7)
        ax = axes[0, 0]
        sizes = 2 + 60 * frame["share"]
        ax.scatter(1 / frame["density"], frame["D_i"], s=sizes, color=st.OKABE_ITO[0], alpha=0.75,
                   linewidths=0)  # fmt: skip
        _polytopes(ax)
        _sparsity_axis(ax, frame["density"])
        ax.set_ylabel("D_i (area: share of the represented features)")
        fig.suptitle("share of a dimension of each represented feature")
        return st.footnote(fig, remarks)


def _sparsity_axis(ax: Axes, density: pd.Series) -> None:
    ax.set_xscale("log")
    ticks = [t for t in (1, 2, 3, 5, 10, 20, 30, 50, 100) if t <= 1.05 / density.min()]
    ax.set_xticks(ticks, [f"{t}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("1 / (1 − S)")


def _polytopes(ax: Axes) -> None:
    """Draws a line with a name at each arrangement's D_i."""
    for name, at in POLYTOPES.items():
        ax.axhline(at, **st.THRESHOLD, zorder=0)
        label = f"{name}  {at:.3g}".replace("0.", ".")
        apart = {"pentagon": 0.014, "square antiprism": -0.014}.get(name, 0.0)
        ax.annotate(
            label, (1.01, at + apart), xycoords=("axes fraction", "data"), va="center",
            fontsize=6.5, color="0.35", annotation_clip=False,
        )  # fmt: skip
    ax.set_ylim(-0.04, 1.05)


def _grid(part: pd.DataFrame, value: str | pd.Series) -> np.ndarray:
    """`[n_importances, n_densities]`, both rising."""
    part = part.assign(value=part[value] if isinstance(value, str) else value)
    grid = part.pivot(index="importance", columns="density", values="value")
    return grid.sort_index().sort_index(axis=1).to_numpy(float)


def _mixture(norm: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Colours `[..., 3]`: how far from absent by the norm, from alone to shared by the overlap."""
    absent, alone, shared = (np.array(to_rgb(c)) for c in STATES.values())
    far, mixed = (np.clip(v, 0, 1)[..., None] for v in (norm, overlap))
    return absent + far * ((1 - mixed) * alone + mixed * shared - absent)


def _image(ax: Axes, part: pd.DataFrame, image: np.ndarray, **kinds):
    drawn = ax.imshow(image, origin="lower", aspect="auto", **kinds)
    for axis, name in ((ax.xaxis, "density"), (ax.yaxis, "importance")):
        values = np.sort(part[name].unique())
        wanted = [v for v in (0.01, 0.1, 1, 10) if values[0] * 0.99 <= v <= values[-1] * 1.01]
        at = np.interp(np.log(wanted), np.log(values), np.arange(len(values)))
        axis.set_ticks(at, [f"{v:g}" for v in wanted])
    ax.spines[:].set_visible(False)
    return drawn


def _borders(ax: Axes, best: np.ndarray) -> None:
    """Draws lines between cells whose best closed forms differ."""
    look = {"color": "k", "linewidth": 0.9}
    for y, x in np.argwhere(best[:, 1:] != best[:, :-1]):
        ax.plot([x + 0.5] * 2, [y - 0.5, y + 0.5], **look)
    for y, x in np.argwhere(best[1:] != best[:-1]):
        ax.plot([x - 0.5, x + 0.5], [y + 0.5] * 2, **look)


def _name_regions(ax: Axes, best: np.ndarray, names: list[str], shade: dict) -> None:
    for place, name in enumerate(names):
        cells = np.argwhere(best == place)
        if len(cells) < 0.04 * best.size:
            continue
        y = np.median(cells[:, 0])
        across = cells[cells[:, 0] == round(y), 1]
        x, width = across.mean(), len(across) / best.shape[1]
        dark = sum(shade[name]) < 1.3
        narrow = width < 0.2
        text = "\n".join(textwrap.wrap(name, 16 if narrow else max(8, int(28 * width))))
        look = {"fontsize": 6, "color": "w" if dark else "k", "rotation": 90 if narrow else 0}
        ax.text(x, y, text, ha="center", va="center", **look)
