"""Where the time of a run went: a bar for each phase, in what it was spent on."""

from __future__ import annotations

from matplotlib.figure import Figure

from toysae.plotting import style as st
from toysae.profiling import KINDS

from ..lazy import pd

_COLOURS = dict(zip(KINDS, (st.OKABE_ITO[4], st.OKABE_ITO[1], st.OKABE_ITO[0]), strict=True))
_HATCHES = dict(zip(KINDS, ("///", "...", ""), strict=True))


def profile_bars(table: pd.DataFrame, title: str) -> Figure:
    """Draws the table of :meth:`toysae.profiling.Profile.table`, less its last row, the sum."""
    phases, total = table.iloc[:-1], table.iloc[-1]
    with st.style():
        fig, axes = st.canvas(1, 1, (5.2, 0.26 * len(phases) + 0.9))
        ax, left = axes[0, 0], pd.Series(0.0, phases.index)
        for kind in KINDS:
            share = total[kind] / total["seconds"]
            ax.barh(phases["phase"], phases[kind], left=left, color=_COLOURS[kind],
                    hatch=_HATCHES[kind], edgecolor="white", linewidth=0,
                    label=f"{kind} {total[kind]:.1f} s ({share:.0%})")  # fmt: skip
            left = left + phases[kind]
        for phase, seconds in zip(phases["phase"], left, strict=True):
            ax.annotate(f"{seconds:.1f}", (seconds, phase), (3, 0), textcoords="offset points",
                        va="center")  # fmt: skip
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.set_xlabel("seconds")
        fig.legend(loc="outside lower center", ncol=len(KINDS))
        fig.suptitle(f"{title}: {total['seconds']:.1f} s")
    return fig
