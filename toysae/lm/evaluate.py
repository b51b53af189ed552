"""From folders on disk to evaluations: which SAEs, which capture, which model, which text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..disk import write_bytes
from ..errors import ToysaeError, require
from ..runs.mark import is_marked
from ..runs.results import Results
from .contexts import latent_contexts
from .firing import Firing, checked_latents, firing, sample_latents
from .latents import Facts, latent_facts
from .models import LM, load_tokenizer
from .page import render
from .shards import Manifest, find_site, read_manifest
from .site_sae import SiteSAE, load_site_sae, sae_of_run
from .sources import CORPUS, load_captured, open_site
from .splice import splice_table
from .stream import HELD_OUT, Source, split_off, spread
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
    model: str | LM | None = None,
    rows: Sequence[int] = (),
) -> Bench:
    """Opens the run of :func:`toysae.lm.train.train_site`, or the folder of one SAE of ours or
    SAELens', with the capture it belongs to and its model.

    Args:
        path: of the SAEs.
        capture: directory of the capture; where `path` was trained on, if not given.
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
        told = results.manifest(chosen[0]).object("data")
        at_capture = Path(told.text("capture"))
        folder = find_site(capture, told.text("site")) if capture else at_capture
        n_held_out = told.integer("n_held_out", low=1)
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
    return Bench(loaded, load_corpus(folder.parent / CORPUS), source, train, held_out, saes)


def _chosen(results: Results, rows: Sequence[int], site: str | None) -> list[int]:
    """The rows of the SAEs of one site that did not diverge."""
    table, path = results.table, results.path
    n_asked = sum(len(cell["keys"]) for cell in results.plan)
    done = len(table) == n_asked
    require(done, f"{path} is not finished: run the same `toysae lm train` again")
    for row in rows:
        require(0 <= row < len(table), f"row {row} is outside 0..{len(table) - 1} of {path}")
    chosen = table.iloc[list(rows)] if rows else table
    require("site" in table, f"{path} was trained on worlds: give a run of `toysae lm train`")
    chosen = chosen if site is None else chosen[chosen["site"] == site]
    sites = list(dict.fromkeys(chosen["site"]))
    require(len(sites) <= 1, f"{path} has SAEs of {', '.join(sites)}: name one with --site")
    chosen = chosen[~chosen["diverged"].astype(bool)]
    asked = f"rows {list(rows)}" if rows else "any row"
    require(len(chosen) > 0, f"there is no SAE in {asked} of {path} that has not diverged")
    return [int(row) for row in chosen.index]


def names_of(table: pd.DataFrame) -> list[str]:
    """What the SAEs of a run on a site are called: their cell, and the numbers that vary in it."""
    varied = [c for c in ("l1_coeff", "k", "l0_target") if c in table]

    def name(row: pd.Series) -> str:
        numbers = [f"{c.split('_')[0]}_{_short(row[c])}" for c in varied if np.isfinite(row[c])]
        numbers.append(f"seed{row['sae_seed']:g}")
        return f"{row['group']} {'-'.join(numbers)}"

    return [name(row) for _, row in table.iterrows()]


def check_belongs(name: str, sae: SiteSAE, manifest: Manifest) -> None:
    """Refuses an SAE that reads other activations than a capture's.

    Raises:
        ToysaeError: of another site, width, model, or way of centring.
    """
    fits = sae.site == manifest.site and sae.sae.spec.d_in == manifest.d
    require(fits, f"SAE {name} is of {sae.site} with d_in {sae.sae.spec.d_in}, the capture of "
            f"{manifest.site} with {manifest.d}")  # fmt: skip
    require(sae.centred == manifest.centred, f"SAE {name} and the capture differ in whether "
            "each activation's own mean over dimensions is taken out")  # fmt: skip
    same = sae.info.get("weights") in (None, manifest.weights)
    require(same, f"SAE {name} was trained on another model than {manifest.model}")


def splice_saes(
    path: Path, capture: Path | None = None, site: str | None = None, model: str | LM | None = None,
    n_sequences: int = 64, batch_size: int = 8, ranks: Sequence[int] = (16, 64, 256),
    rows: Sequence[int] = (), on_batch: Callable[[int, int], object] = lambda done, total: None,
) -> pd.DataFrame:  # fmt: skip
    """:func:`toysae.lm.splice.splice_table` of SAEs on disk, on text held out from their training.

    Raises:
        ToysaeError: see :func:`open_bench`.
    """
    require(n_sequences >= 1, f"n_sequences {n_sequences} must be at least 1")
    b = open_bench(path, capture, site, model, rows)
    x = sample_rows(b)
    return splice_table(
        b.model, b.corpus, b.held_out[:n_sequences], b.saes, x, batch_size=batch_size, ranks=ranks,
        on_batch=on_batch,
    )  # fmt: skip


def sample_rows(b: Bench) -> Float[np.ndarray, "n d"]:
    """Activations that SAEs were trained on, evenly over the text."""
    some = b.train[np.linspace(0, len(b.train) - 1, min(len(b.train), 256)).astype(int)]
    return np.asarray(b.source.read(np.unique(some))[:_ROWS], np.float32)


@dataclass(frozen=True)
class Chosen:
    """What a page shows.

    Attributes:
        n_latents: drawn over the whole range of firing frequencies.
        latents: these instead.
        n_tokens: about how many tokens are looked into, evenly over the text; all if None.
        seed: of what is drawn.
    """

    n_latents: int = 24
    latents: tuple[int, ...] = ()
    n_tokens: int | None = 100_000
    seed: int = 0


@dataclass(frozen=True)
class Page:
    """A page of latents.

    Attributes:
        sae: which, by name.
        html: its text.
        table: one row a latent of it: what is known of it in numbers.
    """

    sae: str
    html: str
    table: pd.DataFrame


def write_pages(
    path: Path,
    chosen: Chosen,
    out: Path | None = None,
    capture: Path | None = None,
    site: str | None = None,
    model: str | LM | None = None,
    rows: Sequence[int] = (0,),
    on_batch: Callable[[int, int], object] = lambda tokens, total: None,
) -> list[Path]:
    """Writes :func:`pages`.

    Args:
        path: of the SAEs, as for :func:`open_bench`.
        chosen: what to show.
        out: the file of a single SAE; `path`/pages/<SAE>.html if not given.
        capture: see :func:`open_bench`.
        site: see :func:`open_bench`.
        model: see :func:`open_bench`.
        rows: of `table.csv`.
        on_batch: see :func:`pages`.

    Returns:
        The files.

    Raises:
        ToysaeError: see :func:`pages`; several SAEs for one file.
    """
    require(out is None or not out.is_dir(), f"{out} is a folder: name a file, e.g. page.html")
    require(out is None or len(rows) == 1, f"{len(rows)} SAEs do not go into one file: leave --out")
    files = []
    for page in pages(path, chosen, capture, site, model, rows, on_batch):
        files.append(out or path / "pages" / f"{page.sae.replace(' ', '-')}.html")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        write_bytes(files[-1], page.html.encode())
    return files


def pages(
    path: Path,
    chosen: Chosen,
    capture: Path | None = None,
    site: str | None = None,
    model: str | LM | None = None,
    rows: Sequence[int] = (0,),
    on_batch: Callable[[int, int], object] = lambda tokens, total: None,
) -> Iterator[Page]:
    """A page of latents of each SAE, see :mod:`toysae.lm.page`.

    Args:
        path: of the SAEs, as for :func:`open_bench`.
        chosen: what to show.
        capture: see :func:`open_bench`.
        site: see :func:`open_bench`.
        model: see :func:`open_bench`.
        rows: of `table.csv`.
        on_batch: called with the tokens done and in all; each is read twice.

    Raises:
        ToysaeError: see :func:`open_bench`; before anything is computed: a latent that an SAE does
            not have, an SAE that diverged, another tokenizer.
    """
    require(chosen.n_latents >= 1, f"n_latents {chosen.n_latents} must be at least 1")
    b = open_bench(path, capture, site, model, rows)
    for sae in b.saes.values():
        if chosen.latents:
            checked_latents(chosen.latents, sae.sae.spec.d_sae)
    tokenizer = load_tokenizer(b.model.name)
    same = tokenizer.sha256 == b.corpus.about["tokenizer"]
    require(same, f"the tokenizer of {b.model.name} is not the one of the captured text")
    sequences = spread(b.source.counts, chosen.n_tokens)
    total = 2 * len(b.saes) * int(b.source.counts[sequences].sum())
    for i, (name, sae) in enumerate(b.saes.items()):
        done = i * total // len(b.saes)
        seen = firing(sae, b.source, sequences, on_batch=lambda n, d=done: on_batch(d + n, total))
        latents = chosen.latents or sample_latents(seen.freq, chosen.n_latents, chosen.seed)
        require(len(latents) > 0, f"no latent of {name} fires: there is nothing to show")
        contexts = latent_contexts(
            sae, b.source, b.corpus, latents, sequences, seen, seed=chosen.seed,
            on_batch=lambda n, d=done: on_batch(d + total // (2 * len(b.saes)) + n, total),
        )  # fmt: skip
        facts = latent_facts(sae, b.model, latents, seen.counts > 0, n_vocab=tokenizer.n_vocab)
        header = _header(b, sae, seen, _scores(path, name))
        html = render(f"{name}: latents at {sae.site}", header, facts, contexts, tokenizer)
        yield Page(name, html, _in_numbers(facts, seen))


def _in_numbers(facts: Sequence[Facts], seen: Firing) -> pd.DataFrame:
    freq = seen.freq[[fact.latent for fact in facts]]
    table = pd.DataFrame([asdict(fact) for fact in facts]).assign(firing_freq=freq)
    return table.drop(columns=["promoted", "suppressed"])


def _header(b: Bench, sae: SiteSAE, seen: Firing, scores: dict[str, float]) -> dict[str, str]:
    info, dead = sae.info, int((seen.counts == 0).sum())
    said = {
        "model": _named(b.model.name),
        "site": sae.site,
        "recipe": str(info.get("recipe", "")),
        "init": str(info.get("init", "")).replace("recipe", "its own"),
        "trained on": f"{info['n_tokens']:,} tokens" if "n_tokens" in info else "",
        "text": _named(str(b.corpus.about["text"])),
        "seen here": f"{seen.n_tokens:,} tokens, those of the training among them",
        "latents": f"{len(seen.counts):,}, {dead:,} never fire here",
        "L0 here": f"{seen.freq.sum():.4g}",
        **{f"{k} held out": f"{v:.4g}" for k, v in scores.items()},
    }
    return {name: value for name, value in said.items() if value}


def _named(source: str) -> str:
    """A file without its folder, which is of no use elsewhere; a name on the hub as it is."""
    return Path(source).name if Path(source).exists() else source


def _scores(path: Path, name: str) -> dict[str, float]:
    """What the table of a run says of an SAE; nothing of one in a folder of its own."""
    if not is_marked(path):
        return {}
    table = Results.load(path).table
    row = table.iloc[names_of(table).index(name)]
    return {"FVU": row["fvu"], "L0": row["l0"], "dead": row["dead_fraction"]}


def _short(value: float) -> str:
    """The shortest text that is this float32 and no other."""
    return str(np.float32(value)).removesuffix(".0")
