"""Figures of SAEs on real activations: how alike seeds are, what replacing activations costs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...lazy import pd
from ...plotting import style as st
from ...recovery.mcs import EDGES

CellScores = tuple[pd.DataFrame, Mapping[str, np.ndarray]]
"""The table and the arrays of the SAEs of a cell, see :class:`.SiteScores`."""


def seeds_figure(sites: Mapping[str, list[CellScores]], note: str) -> tuple[Figure, pd.DataFrame]:
    """Draws the MCS of living latents in the next seed's dictionary: a row of panels a site, a
    panel a recipe, a line an init, all seeds together.

    Thin solid lines mark the mean before any step, the dotted line the mean of random directions:
    seeds of an init that is not random are alike from the start.

    Args:
        sites: the cells of each site, by its name.
        note: below the figure.

    Returns:
        The figure, and a frame with one row a site, recipe, init and bin that is not empty: `share`
        of the living latents of all seeds whose MCS lies in [`low`, `high`), `n_latents`, `n_saes`.
    """
    cells = [cell for of_site in sites.values() for cell in of_site]
    recipes = sorted({str(table["recipe"].iloc[0]) for table, _ in cells})
    inits = list(dict.fromkeys(str(table["init"].iloc[0]) for table, _ in cells))
    frames = []
    with st.style():
        fig, axes = st.canvas(len(sites), len(recipes), (2.9, 1.9), 1.2)
        for i, (site, of_site) in enumerate(sites.items()):
            for j, recipe in enumerate(recipes):
                ax = axes[i, j]
                ax.set_title(f"{site}, {recipe}", fontsize=7.5)
                ax.set_xlim(0, 1.01)
                ax.set_xlabel("MCS of a latent in another seed" if i == len(sites) - 1 else "")
                ax.set_ylabel("share of living latents" if j == 0 else "")
                frames += [
                    _draw_mcs(ax, site, cell, inits)
                    for cell in of_site
                    if cell[0]["recipe"].iloc[0] == recipe
                ]
        st.footnote(fig, f"{note}; thin lines: the mean before any step")
        st.legend(fig, "what seeds have in common")
    return fig, pd.concat(frames, ignore_index=True)


def _draw_mcs(ax: Axes, site: str, cell: CellScores, inits: list[str]) -> pd.DataFrame:
    """One line of :func:`seeds_figure`, and its rows of the frame."""
    table, arrays = cell
    init = str(table["init"].iloc[0])
    color = st.nth(inits.index(init))["color"]
    mcs = np.asarray(arrays["mcs_seeds"])
    mcs = mcs[np.isfinite(mcs)]
    counts, _ = np.histogram(np.clip(mcs, 0, 1), EDGES)
    share = counts / max(1, len(mcs))
    ax.stairs(share, EDGES, color=color, label=f"{init} init")
    ax.axvline(table["mmcs_seeds_init"].mean(), color=color, linewidth=0.7)
    ax.axvline(table["floor"].mean(), **st.FLOOR_LINE, label="random floor")
    full = np.flatnonzero(counts)
    return pd.DataFrame({
        "site": site, "recipe": table["recipe"].iloc[0], "init": init, "low": EDGES[full],
        "high": EDGES[full + 1], "share": share[full], "n_latents": len(mcs),
        "n_saes": len(table), "mmcs_seeds": table["mmcs_seeds"].mean(),
        "mmcs_seeds_init": table["mmcs_seeds_init"].mean(),
    })  # fmt: skip


def splice_figure(tables: Mapping[str, pd.DataFrame], note: str) -> tuple[Figure, pd.DataFrame]:
    """Draws what each replacement adds to the cross-entropy, a panel a site: a bar for SAEs that
    differ only in their seed, with a dot for each, and baselines in grey.

    Args:
        tables: of :func:`toysae.lm.effects.splice.splice_table`, by site.
        note: below the figure.

    Returns:
        The figure, and the tables one below the other, with `site`.
    """
    kinds_by_site = {site: _by_kind(table) for site, table in tables.items()}
    most = max(len(kinds) for kinds in kinds_by_site.values())
    with st.style():
        fig, axes = st.canvas(1, len(tables), (3.6, 0.19 * most + 0.5), 0.9)
        for ax, (site, kinds) in zip(axes[0], kinds_by_site.items(), strict=True):
            for y, (_, arms) in enumerate(kinds):
                delta, half = arms["delta_ce"].clip(lower=_LEAST), arms["delta_ce_half_width"]
                sae = arms["arm"].str.contains(_SEED).any()
                color = st.OKABE_ITO[0] if sae else "0.6"
                ax.barh(y, delta.mean(), xerr=half.mean(), color=color, error_kw={"lw": 0.8})
                if len(arms) > 1:
                    ax.plot(delta, [y] * len(delta), "k.", markersize=3)
            ax.set_yticks(range(len(kinds)), [name for name, _ in kinds], fontsize=6)
            ax.set_xscale("log")
            ax.set_xlim(left=_LEAST)
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.tick_params(axis="x", labelsize=6)
            ax.set_xlabel("added cross-entropy, nats a token")
            ax.set_title(site, fontsize=8)
        st.footnote(fig, f"{note}; bars: 95 % over sequences; dots: seeds")
        st.legend(fig, "the model with its activations replaced")
    frames = [table.assign(site=site) for site, table in tables.items()]
    return fig, pd.concat(frames, ignore_index=True)


_SEED = r"[ -]seed\d+$"
_LEAST = 1e-3  # nats: smaller values, and negative ones, are drawn here


def _by_kind(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The arms that differ only in their seed, the most costly kind first."""
    arms = table[table["arm"] != "clean"]
    kinds = arms.groupby(arms["arm"].str.replace(_SEED, "", regex=True), sort=False)
    return sorted(
        ((str(name), kind) for name, kind in kinds), key=lambda pair: -pair[1]["delta_ce"].mean()
    )
