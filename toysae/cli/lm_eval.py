"""toysae lm eval and page: what SAEs cost a model, and in which contexts their latents fire."""

from dataclasses import dataclass
from pathlib import Path

from .lm_saes import SAES, Where
from .options import count, positional, read_options
from .show import OUT, TokenBar, print_frame


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Where):
    """Options of `toysae lm eval`.

    Attributes:
        n_sequences: of the held-out text, that the model predicts.
        batch_size: sequences at once.
        ranks: of the PCA baselines.
        rows: of OUT's table.csv; all if not given.
        out: a CSV file.
        quiet: no progress bar.
    """

    n_sequences: int = 64
    batch_size: int = 8
    ranks: tuple[int, ...] = (16, 64, 256)
    rows: tuple[int, ...] = ()
    out: Path | None = None
    quiet: bool = False


def eval_saes(args: list[str]) -> None:
    """Prints the cross-entropy with SAEs and baselines in place of activations."""
    from ..disk import write
    from ..lm.effects.on_disk import splice_saes

    path, rest = positional(args, SAES)
    o = read_options(EvalOptions, rest, "toysae lm eval")
    with TokenBar(1, o.quiet) as tell:
        table = splice_saes(
            o.opened(path), o.n_sequences, o.batch_size, o.ranks,
            lambda n, total: tell(n, f"{n:,} of {total:,} tokens", total),
        )  # fmt: skip
    print_frame(table, "cross-entropy with the activations replaced")
    if o.out is not None:
        write(o.out, lambda file: table.to_csv(file, index=False))


@dataclass(frozen=True, kw_only=True)
class PageOptions(Where):
    """Options of `toysae lm page`.

    Attributes:
        n_latents: drawn evenly over log firing frequency.
        latents: shown instead of drawn ones, by number.
        n_tokens: of the text, evenly over it, e.g. 100k; "all" for all.
        seed: of what is drawn.
        out: an .html file; OUT/pages/SAE.html if not given.
        quiet: no progress bar.
    """

    n_latents: int = 24
    latents: tuple[int, ...] = ()
    n_tokens: str = "100k"
    seed: int = 0
    out: Path | None = None
    quiet: bool = False


def page(args: list[str]) -> None:
    """Writes HTML pages of latents."""
    from ..lm.cards.pages import Chosen, write_pages

    path, rest = positional(args, SAES)
    o = read_options(PageOptions, rest, "toysae lm page")
    n_tokens = None if o.n_tokens == "all" else count(o.n_tokens)
    chosen = Chosen(o.n_latents, o.latents, n_tokens, o.seed)
    with TokenBar(1, o.quiet) as tell:
        files = write_pages(
            o.opened(path), chosen, o.out,
            lambda n, total: tell(n, f"{n:,} of {total:,} tokens", total),
        )  # fmt: skip
    for file in files:
        OUT.print(f"wrote {file}", highlight=False, soft_wrap=True)
