"""The style of every figure: readable in print, in greyscale and to colour-blind readers.

Colours are Okabe and Ito's (2008). An arm, one recipe with one init, has the same colour, marker
and line style in every figure. Dashed lines stand for ceilings only (initialised at the truth, or
held there), dotted ones for the random floor.
"""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from toysae.disk import telling_of_no_access, write
from toysae.plotting.rows import CEILINGS, Results, arms
from toysae.recovery.minima import TRUTH

from ..lazy import pd

Put = Callable[[Path, Callable[[Path], Any]], Any]
"""Writes a file: called with its path, and with a function that writes to the path it gets."""

Row = TypeVar("Row")
T = TypeVar("T")

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "v", "s", "X", "^", "D", "P", "*", "<", "p")
LINES: tuple[Any, ...] = ("-", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (2, 1, 1, 1)), (0, (9, 1, 2, 1)))
FLOOR_LINE = {"color": "0.3", "linestyle": ":", "linewidth": 1.2}
THRESHOLD = {"color": "0.75", "linestyle": "-", "linewidth": 0.7}

# Only the order of the colours; any other name takes a place by its checksum.
_RECIPE_ORDER = ("tied", "untied", "anthropic-2023", "topk", "batchtopk", "jumprelu", "gated")
_INIT_ORDER = ("random", "orthogonal", "svd", "transpose", "pca")

_RC: Any = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.facecolor": "white",
}


def style() -> AbstractContextManager[None]:
    """The settings of every figure, for a `with` block, after which matplotlib is as before."""
    return matplotlib.rc_context(_RC)


def arm_style(recipe: str, init: str) -> dict[str, Any]:
    """The line arguments (colour, marker, line style) of the arm `recipe` with `init`."""
    r = _place(recipe, _RECIPE_ORDER)
    if init in CEILINGS:
        color, marker = OKABE_ITO[r % len(OKABE_ITO)], "d" if init == TRUTH else "o"
        return {"color": color, "linestyle": "--", "marker": marker, "markerfacecolor": "white"}
    i = _place(init, _INIT_ORDER)
    return {
        "color": OKABE_ITO[(r + 2 * i) % len(OKABE_ITO)],
        "marker": MARKERS[(3 * r + 2 * i) % len(MARKERS)],
        "linestyle": LINES[(r + 2 * i) % len(LINES)],
    }


def nth(i: int) -> dict[str, str]:
    """The colour and marker of the `i`-th of several things without a style of their own."""
    return {"color": OKABE_ITO[i % len(OKABE_ITO)], "marker": MARKERS[i % len(MARKERS)]}


def arm_label(recipe: str, init: str) -> str:
    """The arm's name in a legend."""
    return f"{recipe}, {CEILINGS.get(init, f'{init} init')}"


def row_label(case: str, arm: tuple[str, str], quantity: str) -> str:
    """The label on the left of a row of panels of one arm."""
    init = CEILINGS.get(arm[1], arm[1]).replace(" (", "\n(")
    return case.replace(", ", "\n") + f"\n{arm[0]}, {init}\n{quantity}"


def arm_rows(table: pd.DataFrame, quantity: str) -> dict[tuple[str, tuple[str, str]], str]:
    """Every (case, arm) of a table with the label of its row of panels."""
    pairs = [(case, arm) for case in sorted(table["case"].unique()) for arm in arms(table)]
    return {pair: row_label(*pair, quantity) for pair in pairs}


def _place(name: str, order: tuple[str, ...]) -> int:
    return order.index(name) if name in order else zlib.crc32(name.encode()) % 97


def canvas(n_rows: int, n_columns: int, panel: tuple[float, float], extra: float = 0.9) -> Any:
    """A figure of `n_rows` × `n_columns` panels (one at least) of `panel` inches, with `extra`
    inches for title and footnote, and its axes (2-D array)."""
    n_rows, n_columns = max(1, n_rows), max(1, n_columns)
    size = (max(3.6, panel[0] * n_columns + 0.7), panel[1] * n_rows + extra)
    fig = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(fig)
    return fig, fig.subplots(n_rows, n_columns, squeeze=False)


def wrapped(n: int, width: int, panel: tuple[float, float], extra: float = 0.9) -> Any:
    """A figure of `n` panels, `width` in a row, and the list of their axes."""
    fig, axes = canvas(-(-n // width), width, panel, extra)
    for ax in axes.flat[n:]:
        ax.set_axis_off()
    return fig, list(axes.flat[:n])


def panel_grid(
    rows: Mapping[Row, str],
    columns: Mapping[T, str],
    panel: tuple[float, float],
    xlabel: str,
    *,
    extra: float = 0.9,
    pad: float | None = None,
    fontsize: float = 7,
    shared_ticks: bool = False,
) -> tuple[Figure, Iterator[tuple[Axes, Row, T]]]:
    """A figure, and an iterator over its panels, each with its row and column, to be drawn in a
    loop that labels the outer ones.

    Args:
        rows: what each row of panels shows, with the label on its left.
        columns: what each column of panels shows, with the title above it.
        panel: inches, see :func:`canvas`.
        xlabel: below the last row.
        extra: see :func:`canvas`.
        pad: points between title and panel.
        fontsize: of the labels of rows.
        shared_ticks: whether only the last row has tick labels on its x axis.
    """
    fig, axes = canvas(len(rows), len(columns), panel, extra)

    def panels() -> Iterator[tuple[Axes, Row, T]]:
        for i, (row, label) in enumerate(rows.items()):
            for j, (column, title) in enumerate(columns.items()):
                ax = axes[i, j]
                yield ax, row, column
                if i == 0:
                    ax.set_title(title, pad=pad)
                if j == 0:
                    ax.set_ylabel(label, fontsize=fontsize)
                if i == len(rows) - 1:
                    ax.set_xlabel(xlabel)
                elif shared_ticks:
                    ax.set_xticklabels([])

    return fig, panels()


def mean_curve(ax: Axes, x: Any, y: Any, half: Any, alpha: float, **look: Any) -> None:
    """A line with a band of `half` its values on both sides."""
    ax.plot(x, y, **look)
    ax.fill_between(x, y - half, y + half, color=look["color"], alpha=alpha, linewidth=0)


def arm_bars(ax: Axes, x: Any, y: Any, error: Any, arm: tuple[str, str]) -> None:
    """An arm's points with error bars, none where `error` is NaN."""
    look = arm_style(*arm) | {"capsize": 2, "elinewidth": 0.8}
    ax.errorbar(x, y, yerr=np.nan_to_num(error), label=arm_label(*arm), **look)


def l0_ratio_axis(ax: Axes) -> None:
    """A y axis of L0 / true L0, logarithmic, with the range that counts as matched."""
    ax.set_yscale("log", base=2)
    ax.axhspan(0.5, 2, color="0.92", linewidth=0, label="L0 within 2× of the truth")
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")


def finish(fig: Figure, results: Results, title: str, remarks: str = "") -> Figure:
    """Adds the title, one legend for all panels, and the footnote with any `remarks`."""
    inches = fig.get_size_inches()[0]
    title = _wrap(title[:1].upper() + title[1:], inches * 14)
    footnote(fig, caption(results) + (f"; {remarks}" if remarks else ""))
    return legend(fig, title)


def footnote(fig: Figure, text: str) -> Figure:
    """Writes what a figure rests on below it, small and grey."""
    fig.supxlabel(_wrap(text, fig.get_size_inches()[0] * 19), fontsize=6.5, color="0.35")
    return fig


def legend(fig: Figure, title: str) -> Figure:
    """Adds the title and one legend for all panels above them."""
    inches = fig.get_size_inches()[0]
    known: dict[str, Any] = {}
    for ax in fig.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    if not known:
        fig.suptitle(title)
        return fig
    longest = max(map(len, known)) * 0.062 + 0.5
    columns = max(1, min(len(known), int(inches / longest)))
    place = {"loc": "outside upper center", "ncols": columns, "title": title}
    fig.legend(list(known.values()), list(known), title_fontsize=9, **place)
    return fig


def caption(results: Results) -> str:
    """The footnote: the runs, seeds, steps and samples that a figure rests on."""
    table = results.table
    if table.empty:
        return "no runs"
    steps, samples = table["n_steps"], table["n_steps"] * table["batch_size"]
    parts = [
        _count(len(table), "run"),
        _count(table["world_seed"].nunique(), "world seed"),
        _count(table["sae_seed"].nunique(), "SAE seed"),
        f"{_range(steps)} steps",
        f"{_range(samples)} samples per run",
    ]
    diverged = int(table["diverged"].astype(bool).sum())
    if diverged:
        parts.insert(1, f"{diverged} diverged, left out")
    return "; ".join(parts)


def _count(n: int, word: str) -> str:
    return f"{n} {word}" + "s" * (n != 1)


def _range(values: pd.Series) -> str:
    low, high = float(values.min()), float(values.max())
    return short_number(low) if low == high else f"{short_number(low)}–{short_number(high)}"


def _wrap(text: str, width: float) -> str:
    return "\n".join(textwrap.wrap(text, max(30, int(width))))


def short_number(value: float) -> str:
    """A number in short: 12 000 as 12k, 0.00316 as 0.0032."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}"


def share(value: float) -> str:
    """A score below one without its leading zero: .93, -.05."""
    return "n/a" if not np.isfinite(value) else f"{value:.2f}".replace("0.", ".", 1)


def pm(mean: float, half_width: float) -> str:
    """`.93 ± .01`, or the mean alone where there are too few seeds for an interval."""
    return share(mean) + (f" ± {share(half_width)}" if np.isfinite(half_width) else "")


def note(ax: Axes, text: str) -> None:
    """Writes into the middle of a panel why it is empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="0.4")


def save(
    fig: Figure | str, frame: pd.DataFrame, out_dir: str | Path, name: str, put: Put = write
) -> list[Path]:
    """Writes `name`.png (160 dpi), or `name`.html, and `name`.csv; each whole or not at all.

    Args:
        fig: the figure, or the text of an HTML page.
        frame: the table behind it.
        out_dir: the folder of both, made if it is not there.
        name: of both files.
        put: writes each of them.

    Returns:
        The two paths.
    """
    out = Path(out_dir)
    with telling_of_no_access(out):
        out.mkdir(parents=True, exist_ok=True)
    if isinstance(fig, str):
        put(shown := out / f"{name}.html", lambda p: p.write_bytes(fig.encode()))
    else:
        with style():
            put(shown := out / f"{name}.png", lambda p: fig.savefig(p, format="png", dpi=160))
    put(csv := out / f"{name}.csv", lambda p: frame.to_csv(p, index=False, float_format="%.6g"))
    return [shown, csv]
