"""What an experiment does: capture sites, and on each train, replace, compare seeds and sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from ..recovery.label_free import found_in
from ..runs.results import Results
from .capture import capture, check_run
from .evaluate import splice_saes
from .figures import Found
from .models import LM, load_model, load_tokenizer
from .sites import parse_site
from .sources import CORPUS, open_site
from .text import Layout, build_corpus
from .train import Training, train_site


def capture_text(
    source: str | Path, text: str | Path, sites: Sequence[str], n_tokens: int, n_ctx: int, out: Path
) -> tuple[LM, list[Path]]:
    """The model, and the folders of its sites on packed text; what is finished in `out` is kept.

    Args:
        source: of the model, see :func:`toysae.lm.models.load_model`.
        text: see :func:`toysae.lm.text.documents`.
        sites: by TransformerLens' names.
        n_tokens: activations of each.
        n_ctx: tokens of a sequence.
        out: where the sites' folders go.

    Raises:
        ToysaeError: before any text is read: a site or context that the model does not have, a
            tokenizer that does not fit; and see :func:`toysae.lm.capture.capture`.
    """
    model, tokenizer = load_model(source), load_tokenizer(source)
    for site in sites:
        parse_site(site, model.config)
    check_run(model, n_ctx, "bfloat16")
    tokenizer.check(model.config.n_vocab, str(source))
    corpus = build_corpus(text, tokenizer, out / CORPUS, n_tokens, Layout(n_ctx))
    print(f"{source}: capturing {n_tokens:,} activations of {' and '.join(sites)}")
    return model, capture(model, corpus, sites, out)


@dataclass(frozen=True)
class SiteStudy:
    """SAEs on one site.

    Attributes:
        results: of the run.
        table: one row an SAE, see :class:`toysae.lm.train.TrainedSite`.
        losses: see :func:`toysae.lm.splice.splice_table`.
        groups: table and arrays of each cell; `mcs_seeds` among the arrays.
    """

    results: Results
    table: pd.DataFrame
    losses: pd.DataFrame
    groups: list[Found]


def study_site(
    site: Path, t: Training, out: Path, n_sequences: int = 64, model: LM | None = None
) -> SiteStudy:
    """Trains on a captured site, or goes on, and evaluates every SAE that did not diverge.

    Args:
        site: the folder of the site.
        t: what to train.
        out: where the SAEs go.
        n_sequences: held out, that the model predicts.
        model: of the capture; loaded by its name if not given.

    Raises:
        ToysaeError: see :func:`toysae.lm.train.train_site`.
    """
    source = None if model is None else open_site(site, model)
    trained = train_site(site, t, out, source=source)
    results, table = trained.results, trained.table
    groups: list[Found] = [
        (rows, {**results.arrays(str(name)), "mcs_seeds": trained.mcs_seeds[str(name)]})
        for name, rows in table.groupby("group", sort=False)
    ]
    losses = splice_saes(out, model=model, n_sequences=n_sequences)
    return SiteStudy(results, table, losses, groups)


def found_in_larger(study: SiteStudy) -> pd.Series:
    """MMCS with the next larger dictionary (Sharkey et al. 2022): the mean over an SAE's living
    latents of the largest cosine with a living latent of the next size, of the next seed: one seed
    starts dictionaries of all sizes from the same rows. NaN of the largest, of a lone seed, and of
    SAEs that diverged.

    Returns:
        One number for each row of the study's table.
    """
    table = study.table
    alive = {
        place: np.asarray(arrays["firing_freq"])[i] > 0
        for rows, arrays in study.groups
        for i, place in enumerate(rows.index)
    }
    knobs = [c for c in ("l1_coeff", "k", "l0_target") if c in table]
    found = pd.Series(np.nan, table.index)
    for _, rows in table[~table["diverged"]].groupby(["recipe", "init", *knobs], dropna=False):
        for size, next_size in pairwise(sorted(rows["d_sae"].unique())):
            large = rows[rows["d_sae"] == next_size]
            large = large.assign(place=large.index).set_index("sae_seed")
            for i, row in rows[rows["d_sae"] == size].iterrows():
                others = [s for s in large.index if s != row["sae_seed"]]
                if not others:
                    continue
                later = [s for s in others if s > row["sae_seed"]]
                there = int(large.loc[min(later or others), "place"])
                mine, larger = (study.results.sae(int(str(at))).W_dec for at in (i, there))
                found[i] = float(found_in(mine, larger, alive[i], alive[there]))
    return found
