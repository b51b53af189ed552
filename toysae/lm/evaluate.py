"""From folders on disk to evaluations: which SAEs, which capture, which model, which text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import require
from .models import LM
from .shards import find_site, read_manifest
from .site_sae import SiteSAE, load_site_sae
from .sources import CORPUS, load_captured, open_site
from .splice import splice_table
from .stream import HELD_OUT, Source, split_off
from .text import Corpus, load_corpus

_ROWS = 32_768  # activations that the baselines are made of


@dataclass(frozen=True)
class Bench:
    """All that SAEs of one site are evaluated with.

    Attributes:
        model: whose activations they read.
        corpus: its text.
        source: of the activations.
        train: sequences that SAEs were trained on.
        held_out: sequences that they were not.
        saes: by name.
    """

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
    model: str | None = None,
    rows: Sequence[int] = (),
) -> Bench:
    """Opens what :func:`toysae.lm.train.train_site` wrote, or the folder of one SAE of ours or
    SAELens', with the capture it belongs to and its model.

    Args:
        path: of the SAEs.
        capture: directory of the capture; where `path` was trained on, if not given.
        site: of the capture.
        model: where the model is; where it was at the capture, if not given.
        rows: of `table.csv`; all if none are given.

    Raises:
        ToysaeError: a missing folder, SAEs that do not fit the site, another model.
    """
    config = path / "config.json"
    n_held_out = HELD_OUT
    if config.is_file():
        told = json.loads(config.read_text(encoding="utf-8"))
        folder = find_site(capture, told["manifest"]["site"]) if capture else Path(told["capture"])
        n_held_out = told["training"]["n_held_out"]
        done = (path / "table.csv").is_file()
        require(done, f"{path} is not finished: run the same `toysae lm train` again")
        table = pd.read_csv(path / "table.csv")
        for row in rows:
            require(0 <= row < len(table), f"row {row} is outside 0..{len(table) - 1} of {path}")
        chosen = table.iloc[list(rows)] if rows else table
        chosen = chosen[~chosen["diverged"].astype(bool)]
        saes = {_short(name): load_site_sae(path / name) for name in chosen["folder"]}
    else:
        require(capture is not None, f"{path} does not say what it was trained on: give --capture")
        assert capture is not None
        sae = load_site_sae(path, site)
        folder, saes = find_site(capture, site or sae.site), {path.name: sae}
    manifest = read_manifest(folder)
    for name, sae in saes.items():
        fits = sae.site == manifest.site and sae.sae.spec.d_in == manifest.d
        require(fits, f"SAE {name} is of {sae.site} with d_in {sae.sae.spec.d_in}, the capture of "
                f"{manifest.site} with {manifest.d}")  # fmt: skip
    loaded = load_captured(model or manifest.model, manifest, folder)
    source = open_site(folder, loaded, verify=False)
    train, held_out = split_off(source.counts, n_held_out)
    return Bench(loaded, load_corpus(folder.parent / CORPUS), source, train, held_out, saes)


def splice_saes(
    path: Path, capture: Path | None = None, site: str | None = None, model: str | None = None,
    n_sequences: int = 64, batch_size: int = 8, ranks: Sequence[int] = (16, 64, 256),
    rows: Sequence[int] = (),
) -> pd.DataFrame:  # fmt: skip
    """:func:`toysae.lm.splice.splice_table` of SAEs on disk, on text held out from their training.

    Raises:
        ToysaeError: see :func:`open_bench`.
    """
    require(n_sequences >= 1, f"n_sequences {n_sequences} must be at least 1")
    b = open_bench(path, capture, site, model, rows)
    some = b.train[np.linspace(0, len(b.train) - 1, min(len(b.train), 256)).astype(int)]
    x = np.asarray(b.source.read(np.unique(some))[:_ROWS], np.float32)
    return splice_table(
        b.model, b.corpus, b.held_out[:n_sequences], b.saes, x, batch_size=batch_size, ranks=ranks
    )


def _short(folder: str) -> str:
    """groups/<group>/saes/<name> as "<group> <name>", the group without its hash."""
    _, group, _, name = Path(folder).parts
    return f"{group.rsplit('-', 1)[0]} {name}"
