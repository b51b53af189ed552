"""Opens SAEs on disk with all that they are evaluated with: their capture, its model and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ...errors import ToysaeError, require
from ...lazy import pd
from ...runs.mark import is_marked
from ...runs.results import Results
from ..capture.shards import Manifest, find_site, read_manifest
from ..capture.sources import CORPUS, load_captured, open_site
from ..capture.stream import HELD_OUT, Source, split_off
from ..capture.text import Corpus, load_corpus
from ..models.forward import LM
from .site_sae import SiteSAE, load_site_sae, sae_of_run

_ROWS = 32_768  # activations that baselines are computed from


@dataclass(frozen=True)
class Bench:
    """All that SAEs of one site are evaluated with.

    Attributes:
        path: where they were opened.
        model: whose activations they read.
        corpus: the text that it reads.
        source: of the activations.
        train: sequences that SAEs were trained on.
        held_out: sequences that they were not trained on.
        saes: by name.
    """

    path: Path
    model: LM
    corpus: Corpus
    source: Source
    train: np.ndarray
    held_out: np.ndarray
    saes: dict[str, SiteSAE]


def open_bench(
    path: Path,
    capture: Path | None = None,
    site: str | None = None,
    model: str | LM | None = None,
    rows: Sequence[int] = (),
) -> Bench:
    """Opens a run of :func:`toysae.lm.saes.train.train_site`, or the folder of one SAE of ours or
    of SAELens, with the capture it belongs to and its model.

    Args:
        path: of the SAEs.
        capture: directory of the capture; the one that `path` was trained on, if not given.
        site: of the capture.
        model: itself or where it is; where it was at the capture, if not given.
        rows: of `table.csv`; all if none are given.

    Raises:
        ToysaeError: a missing folder, SAEs that do not fit the site, another model.
    """
    n_held_out = HELD_OUT
    if is_marked(path):
        results = Results.load(path)
        chosen = _chosen(results, rows, site)
        names = names_of(results.table)
        saes = {names[row]: sae_of_run(results, row) for row in chosen}
        data = results.manifest(chosen[0]).object("data")
        own_folder = Path(data.text("capture"))
        folder = find_site(capture, data.text("site")) if capture else own_folder
        n_held_out = data.integer("n_held_out", low=1)
    else:
        sae = load_site_sae(path, site)
        if capture is None:
            raise ToysaeError(f"{path} does not say what it was trained on: give --capture")
        folder, saes = find_site(capture, site or sae.site), {path.name: sae}
    manifest = read_manifest(folder)
    for name, sae in saes.items():
        check_belongs(name, sae, manifest)
    loaded = load_captured(model or manifest.model, manifest, folder)
    source = open_site(folder, loaded, verify=False)
    train, held_out = split_off(source.counts, n_held_out)
    corpus = load_corpus(folder.parent / CORPUS)
    return Bench(path, loaded, corpus, source, train, held_out, saes)


def _chosen(results: Results, rows: Sequence[int], site: str | None) -> list[int]:
    """The rows of the SAEs of one site that did not diverge."""
    table, path = results.table, results.path
    n_planned = sum(len(cell["keys"]) for cell in results.plan)
    require(
        len(table) == n_planned, f"{path} is not finished: run the same `toysae lm train` again"
    )
    for row in rows:
        require(0 <= row < len(table), f"row {row} is outside 0..{len(table) - 1} of {path}")
    chosen = table.iloc[list(rows)] if rows else table
    require("site" in table, f"{path} was trained on worlds: give a run of `toysae lm train`")
    chosen = chosen if site is None else chosen[chosen["site"] == site]
    sites = list(dict.fromkeys(chosen["site"]))
    require(len(sites) <= 1, f"{path} has SAEs of {', '.join(sites)}: name one with --site")
    chosen = chosen[~chosen["diverged"].astype(bool)]
    which = f"rows {list(rows)}" if rows else "any row"
    require(len(chosen) > 0, f"there is no SAE in {which} of {path} that has not diverged")
    return [int(row) for row in chosen.index]


def names_of(table: pd.DataFrame) -> list[str]:
    """Names the SAEs of a run on a site: by their cell, and the numbers that vary in it."""
    varied = [c for c in ("l1_coeff", "k", "l0_target") if c in table]

    def name(row: pd.Series) -> str:
        # As the shortest text that reads as this float32.
        texts = {c: str(np.float32(row[c])).removesuffix(".0") for c in varied}
        numbers = [f"{c.split('_')[0]}_{texts[c]}" for c in varied if np.isfinite(row[c])]
        numbers.append(f"seed{row['sae_seed']:g}")
        return f"{row['cell']} {'-'.join(numbers)}"

    return [name(row) for _, row in table.iterrows()]


def check_belongs(name: str, sae: SiteSAE, manifest: Manifest) -> None:
    """Refuses an SAE that reads other activations than a capture's.

    Raises:
        ToysaeError: another site, width, model, or way of centring.
    """
    fits = sae.site == manifest.site and sae.sae.spec.d_in == manifest.d
    require(fits, f"SAE {name} is of {sae.site} with d_in {sae.sae.spec.d_in}, the capture of "
            f"{manifest.site} with {manifest.d}")  # fmt: skip
    require(sae.centred == manifest.centred, f"SAE {name} and the capture differ in whether "
            "each activation's own mean over dimensions is taken out")  # fmt: skip
    same = sae.info.get("weights") in (None, manifest.weights)
    require(same, f"SAE {name} was trained on another model than {manifest.model}")


def sample_rows(bench: Bench) -> Float[np.ndarray, "n d"]:
    """Reads activations that SAEs were trained on, evenly over the text."""
    some = bench.train[np.linspace(0, len(bench.train) - 1, min(len(bench.train), 256)).astype(int)]
    return np.asarray(bench.source.read(np.unique(some))[:_ROWS], np.float32)
