"""What studies of real activations share: captures, comparisons of SAEs, notes and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ...lazy import pd
from ...runs.cell import Cell
from ...runs.results import Results
from ..capture.capture import capture, check_run
from ..capture.shards import MANIFEST, read_manifest, without_missing
from ..capture.sources import CORPUS
from ..capture.text import TextLayout, build_corpus
from ..effects.on_disk import splice_saes
from ..models.load import load_model, load_tokenizer
from ..models.sites import parse_site
from ..saes.bench import open_bench
from ..saes.seeds import shared_by_seeds
from .figures import CellScores, seeds_figure, splice_figure

CAPTURE = "capture"
"""The folder of the sites in the folder of a study's run."""


def capture_text(
    source: str | Path, text: str | Path, sites: Sequence[str], n_tokens: int, n_ctx: int, out: Path
) -> list[Path]:
    """Captures sites of a model on packed text, and returns their folders; what is finished in
    `out` is not run again.

    Args:
        source: of the model, see :func:`toysae.lm.models.load_model`.
        text: see :func:`toysae.lm.capture.text.documents`.
        sites: by TransformerLens' names.
        n_tokens: activations of each site.
        n_ctx: tokens of a sequence.
        out: where the sites' folders go.

    Raises:
        ToysaeError: before any text is read: a site or context that the model does not have, a
            tokenizer that does not fit; and see :func:`toysae.lm.capture.capture.capture`.
    """
    model, tokenizer = load_model(source), load_tokenizer(source)
    for site in sites:
        parse_site(site, model.config)
    check_run(model, n_ctx, "bfloat16")
    tokenizer.check(model.config.n_vocab, str(source))
    corpus = build_corpus(text, tokenizer, out / CORPUS, n_tokens, TextLayout(n_ctx))
    if left := uncaptured(sites, out):
        print(f"{source}: capturing {n_tokens:,} activations of {' and '.join(left)}")
    return capture(model, corpus, sites, out)


def uncaptured(sites: Sequence[str], out: Path) -> list[str]:
    """Lists the sites that are not yet captured whole in a folder; only reads.

    Raises:
        ToysaeError: a damaged manifest.
    """

    def is_whole(folder: Path) -> bool:
        if not ((folder / MANIFEST).exists() and (out / CORPUS).is_dir()):
            return False
        return without_missing(folder, read_manifest(folder)).is_complete

    return [site for site in sites if not is_whole(out / site)]


def captured_first(n_tokens: int, which: str = "") -> str:
    """What a study's plan says of sites that are not captured yet."""
    return f"{n_tokens:,} activations {which and f'of {which} '}are captured first"


def training_note(n_saes: str, n_steps: int, batch_size: int, n_tokens: int) -> str:
    """The part of the note below a figure that describes the training."""
    return f"{n_saes} of {n_steps:,} steps of {batch_size} from {n_tokens:,} activations"


@dataclass(frozen=True)
class SideBySide:
    """The SAEs of one site in a run, compared with each other and in the model.

    Attributes:
        table: their rows of the run's table, with the columns of
            :func:`toysae.lm.saes.seeds.shared_by_seeds`.
        losses: see :func:`toysae.lm.effects.splice.splice_table`.
        cells: table and arrays of each cell, with `mcs_seeds` among the arrays.
    """

    table: pd.DataFrame
    losses: pd.DataFrame
    cells: list[CellScores]


def side_by_side(
    cells: Sequence[Cell], results: Results, n_sequences: int, prefix: str = ""
) -> SideBySide:
    """Compares the SAEs of a site, and replaces activations by each that did not diverge.

    Args:
        cells: of the site.
        results: of a run that has finished them.
        n_sequences: held out, that the model predicts.
        prefix: of the cells' names, which the names of SAEs in the losses leave out.

    Raises:
        ToysaeError: see :func:`.open_bench`.
    """
    shared, mcs_seeds = shared_by_seeds(cells, results)
    table = results.table
    table = table[table["cell"].isin(mcs_seeds)]
    table = pd.concat([table, shared.set_index(table.index)], axis=1)
    scores: list[CellScores] = [
        (table[table["cell"] == name], {**results.arrays(name), "mcs_seeds": mcs})
        for name, mcs in mcs_seeds.items()
    ]
    losses = splice_saes(open_bench(results.path, rows=table.index.tolist()), n_sequences)
    losses["arm"] = losses["arm"].str.removeprefix(prefix)
    return SideBySide(table, losses, scores)


def prefix_of(site: str) -> str:
    """The prefix of the names of a site's cells in a run of several sites."""
    return site.replace(" ", "-") + "-"


def sites_side_by_side(
    cells_by_site: Mapping[str, Sequence[Cell]], results: Results, n_sequences: int
) -> dict[str, SideBySide]:
    """:func:`side_by_side` for each site of a run whose cells have the prefix :func:`prefix_of`."""
    return {
        site: side_by_side(cells, results, n_sequences, prefix_of(site))
        for site, cells in cells_by_site.items()
    }


def losses_of(sites: Mapping[str, SideBySide]) -> pd.DataFrame:
    """The losses at all sites, with `site`."""
    losses = [each.losses.assign(site=site) for site, each in sites.items()]
    return pd.concat(losses, ignore_index=True)


def draw_sites(
    sites: Mapping[str, SideBySide], note: str
) -> Iterator[tuple[str, Figure, pd.DataFrame]]:
    """Draws how alike the SAEs of seeds are, and what they cost their model."""
    cells = {site: each.cells for site, each in sites.items()}
    yield "mcs_across_seeds", *seeds_figure(cells, note)
    yield "cross_entropy", *splice_figure({s: each.losses for s, each in sites.items()}, note)
