"""What studies of real activations share: sites that are captured, and SAEs side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ...runs.cell import Cell
from ...runs.results import Results
from ..capture.capture import capture, check_run
from ..capture.shards import MANIFEST, read_manifest, without_missing
from ..capture.sources import CORPUS
from ..capture.text import TextLayout, build_corpus
from ..effects.on_disk import splice_saes
from ..models import load_model, load_tokenizer
from ..models.sites import parse_site
from ..saes.seeds import shared_by_seeds
from .figures import Found

CAPTURE = "capture"
"""The folder of the sites inside that of a study's run."""


def capture_text(
    source: str | Path, text: str | Path, sites: Sequence[str], n_tokens: int, n_ctx: int, out: Path
) -> list[Path]:
    """The folders of a model's sites on packed text; what is finished in `out` is kept.

    Args:
        source: of the model, see :func:`toysae.lm.models.load_model`.
        text: see :func:`toysae.lm.capture.text.documents`.
        sites: by TransformerLens' names.
        n_tokens: activations of each.
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
    """Those of some sites that are not yet captured whole in a folder. Reads only.

    Raises:
        ToysaeError: a damaged manifest.
    """

    def is_whole(folder: Path) -> bool:
        if not ((folder / MANIFEST).exists() and (out / CORPUS).is_dir()):
            return False
        return without_missing(folder, read_manifest(folder)).is_complete

    return [site for site in sites if not is_whole(out / site)]


@dataclass(frozen=True)
class SideBySide:
    """The SAEs of one site in a run, with what is only said of several, or by the model.

    Attributes:
        table: their rows of the run's, with the columns of
            :func:`toysae.lm.saes.seeds.shared_by_seeds`.
        losses: see :func:`toysae.lm.effects.splice.splice_table`.
        found: table and arrays of each cell; `mcs_seeds` among the arrays.
    """

    table: pd.DataFrame
    losses: pd.DataFrame
    found: list[Found]


def side_by_side(
    cells: Sequence[Cell], results: Results, n_sequences: int, prefix: str = ""
) -> SideBySide:
    """Compares the SAEs of a site, and puts each that did not diverge in the place of activations.

    Args:
        cells: of the site.
        results: of a run that has finished them.
        n_sequences: held out, that the model predicts.
        prefix: of the cells' names, without which the losses name their SAEs.

    Raises:
        ToysaeError: see :func:`toysae.lm.effects.on_disk.splice_saes`.
    """
    shared, mcs_seeds = shared_by_seeds(cells, results)
    table = results.table
    table = table[table["cell"].isin(mcs_seeds)]
    table = pd.concat([table, shared.set_index(table.index)], axis=1)
    found: list[Found] = [
        (table[table["cell"] == name], {**results.arrays(name), "mcs_seeds": mcs})
        for name, mcs in mcs_seeds.items()
    ]
    losses = splice_saes(results.path, n_sequences=n_sequences, rows=table.index.tolist())
    losses["arm"] = losses["arm"].str.removeprefix(prefix)
    return SideBySide(table, losses, found)
