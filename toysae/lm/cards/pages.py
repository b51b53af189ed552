"""Pages of the latents of SAEs on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...disk import write_bytes
from ...errors import require
from ...lazy import pd
from ...runs.mark import is_marked
from ...runs.results import Results
from ..capture.stream import spread_sequences
from ..effects.latents import Facts, latent_facts
from ..models.load import load_tokenizer
from ..saes.bench import Bench, names_of
from ..saes.firing import LatentFiring, checked_latents, latent_firing, sample_latents
from ..saes.site_sae import SiteSAE
from .contexts import latent_contexts
from .page import render


@dataclass(frozen=True)
class Chosen:
    """What a page shows.

    Attributes:
        n_latents: drawn over the whole range of firing frequencies.
        latents: shown instead of drawn ones.
        n_tokens: about how many tokens are read, evenly over the text; all if None.
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
        sae: the name of the SAE.
        html: the text of the page.
        table: one row a latent of the page: the facts about it that are numbers.
    """

    sae: str
    html: str
    table: pd.DataFrame


def write_pages(
    bench: Bench,
    chosen: Chosen,
    out: Path | None = None,
    on_batch: Callable[[int, int], object] = lambda tokens, total: None,
) -> list[Path]:
    """Writes the pages of SAEs to files. The other arguments are those of :func:`pages`.

    Args:
        out: the file of a single SAE; pages/<SAE>.html where the SAEs are if not given.

    Returns:
        The files.

    Raises:
        ToysaeError: see :func:`pages`; several SAEs for one file.
    """
    require(out is None or not out.is_dir(), f"{out} is a folder: name a file, e.g. page.html")
    n_saes = len(bench.saes)
    require(out is None or n_saes == 1, f"{n_saes} SAEs do not go into one file: leave --out")
    files = []
    for page in pages(bench, chosen, on_batch):
        files.append(out or bench.path / "pages" / f"{page.sae.replace(' ', '-')}.html")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        write_bytes(files[-1], page.html.encode())
    return files


def pages(
    bench: Bench,
    chosen: Chosen,
    on_batch: Callable[[int, int], object] = lambda tokens, total: None,
) -> Iterator[Page]:
    """Yields a page of latents of each SAE, see :mod:`toysae.lm.cards.page`.

    Args:
        bench: the SAEs, with their model and text.
        chosen: what to show.
        on_batch: called with the tokens done and in all; each is read twice.

    Raises:
        ToysaeError: before anything is computed: a latent that an SAE does not have, another
            tokenizer.
    """
    require(chosen.n_latents >= 1, f"n_latents {chosen.n_latents} must be at least 1")
    for sae in bench.saes.values():
        if chosen.latents:
            checked_latents(chosen.latents, sae.sae.spec.d_sae)
    tokenizer = load_tokenizer(bench.model.name)
    same = tokenizer.sha256 == bench.corpus.about["tokenizer"]
    require(same, f"the tokenizer of {bench.model.name} is not the one of the captured text")
    sequences = spread_sequences(bench.source.counts, chosen.n_tokens)
    total = 2 * len(bench.saes) * int(bench.source.counts[sequences].sum())
    for i, (name, sae) in enumerate(bench.saes.items()):
        done = i * total // len(bench.saes)
        seen = latent_firing(
            sae, bench.source, sequences, on_batch=lambda n, d=done: on_batch(d + n, total)
        )
        latents = chosen.latents or sample_latents(seen.freq, chosen.n_latents, chosen.seed)
        require(len(latents) > 0, f"no latent of {name} fires: there is nothing to show")
        contexts = latent_contexts(
            sae, bench.source, bench.corpus, latents, sequences, seen, seed=chosen.seed,
            on_batch=lambda n, d=done: on_batch(d + total // (2 * len(bench.saes)) + n, total),
        )  # fmt: skip
        facts = latent_facts(sae, bench.model, latents, seen.counts > 0, n_vocab=tokenizer.n_vocab)
        header = _header(bench, sae, seen, _scores(bench.path, name))
        html = render(f"{name}: latents at {sae.site}", header, facts, contexts, tokenizer)
        yield Page(name, html, _table(facts, seen))


def _table(facts: Sequence[Facts], seen: LatentFiring) -> pd.DataFrame:
    freq = seen.freq[[fact.latent for fact in facts]]
    table = pd.DataFrame([asdict(fact) for fact in facts]).assign(firing_freq=freq)
    return table.drop(columns=["promoted", "suppressed"])


def _header(
    bench: Bench, sae: SiteSAE, seen: LatentFiring, scores: dict[str, float]
) -> dict[str, str]:
    info, n_dead = sae.info, int((seen.counts == 0).sum())
    entries = {
        "model": _file_name(bench.model.name),
        "site": sae.site,
        "recipe": str(info.get("recipe", "")),
        "init": str(info.get("init", "")).replace("recipe", "its own"),
        "trained on": f"{info['n_tokens']:,} tokens" if "n_tokens" in info else "",
        "text": _file_name(str(bench.corpus.about["text"])),
        "seen here": f"{seen.n_tokens:,} tokens, including those of the training",
        "latents": f"{len(seen.counts):,}, {n_dead:,} never fire here",
        "L0 here": f"{seen.freq.sum():.4g}",
        **{f"{k} held out": f"{v:.4g}" for k, v in scores.items()},
    }
    return {name: value for name, value in entries.items() if value}


def _file_name(source: str) -> str:
    """The name of a file without its folder, which means nothing elsewhere; a name on the hub."""
    return Path(source).name if Path(source).exists() else source


def _scores(path: Path, name: str) -> dict[str, float]:
    """An SAE's scores in the table of its run; empty for an SAE in a folder of its own."""
    if not is_marked(path):
        return {}
    table = Results.load(path).table
    row = table.iloc[names_of(table).index(name)]
    return {"FVU": row["fvu"], "L0": row["l0"], "dead": row["dead_fraction"]}
