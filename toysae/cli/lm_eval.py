"""toysae lm eval, page, steer, patch: what SAEs cost a model, and what their latents do."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import require
from .options import count, positional, read_options
from .show import OUT, TokenBar, print_frame


@dataclass(frozen=True)
class EvalOptions:
    """What `toysae lm eval` can be told.

    Attributes:
        capture: the directory of the capture, if OUT does not say it.
        site: of the capture, if neither says it.
        model: where the model is, if it has moved.
        n_sequences: of the text held out, that the model predicts.
        batch_size: sequences at once.
        ranks: of the PCA baselines.
        rows: of OUT's table.csv; all if not given.
        out: a CSV file.
    """

    capture: Path | None = None
    site: str | None = None
    model: str | None = None
    n_sequences: int = 64
    batch_size: int = 8
    ranks: tuple[int, ...] = (16, 64, 256)
    rows: tuple[int, ...] = ()
    out: Path | None = None


def eval_saes(args: list[str]) -> None:
    from ..disk import write
    from ..lm.evaluate import splice_saes

    path, rest = positional(args, "what toysae lm train wrote, or the folder of one SAE")
    o = read_options(EvalOptions, rest, "toysae lm eval")
    table = splice_saes(
        Path(path), o.capture, o.site, o.model, o.n_sequences, o.batch_size, o.ranks, o.rows
    )
    print_frame(table, "cross-entropy with the activations replaced")
    if o.out is not None:
        write(o.out, lambda file: table.to_csv(file, index=False))


@dataclass(frozen=True)
class PageOptions:
    """What `toysae lm page` can be told.

    Attributes:
        capture: the directory of the capture, if OUT does not say it.
        site: of the capture, if neither says it.
        model: where the model is, if it has moved.
        rows: of OUT's table.csv, a page each.
        n_latents: drawn evenly over log firing frequency.
        latents: these instead, by number.
        n_tokens: of the text, evenly over it, e.g. 100k; "all" for all.
        seed: of what is drawn.
        out: an .html file; OUT/pages/SAE.html if not given.
        quiet: no progress bar.
    """

    capture: Path | None = None
    site: str | None = None
    model: str | None = None
    rows: tuple[int, ...] = (0,)
    n_latents: int = 24
    latents: tuple[int, ...] = ()
    n_tokens: str = "100k"
    seed: int = 0
    out: Path | None = None
    quiet: bool = False


def page(args: list[str]) -> None:
    from ..lm.evaluate import Chosen, write_pages

    path, rest = positional(args, "what toysae lm train wrote, or the folder of one SAE")
    o = read_options(PageOptions, rest, "toysae lm page")
    n_tokens = None if o.n_tokens == "all" else count(o.n_tokens)
    chosen = Chosen(o.n_latents, o.latents, n_tokens, o.seed)
    with TokenBar(1, o.quiet) as tell:
        files = write_pages(
            Path(path), chosen, o.out, o.capture, o.site, o.model, o.rows,
            lambda n, total: tell(n, f"{n:,} of {total:,} tokens", total),
        )  # fmt: skip
    for file in files:
        OUT.print(f"wrote {file}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class SteerOptions:
    """What `toysae lm steer` can be told. The latent is ablated unless --times or --pin is given.

    Attributes:
        latent: by its number.
        times: what its activation is multiplied by: 0 ablates it, -4 writes A - 5 a X.
        pin: what its activation is set to at every position.
        capture: the directory of the capture, if OUT does not say it.
        site: of the capture, if neither says it.
        model: where the model is, if it has moved.
        rows: of OUT's table.csv.
        n_sequences: of the text held out, that the model predicts.
        batch_size: sequences at once.
        n: tokens moved up, and as many moved down.
        out: a CSV file.
    """

    latent: int
    times: float | None = None
    pin: float | None = None
    capture: Path | None = None
    site: str | None = None
    model: str | None = None
    rows: tuple[int, ...] = (0,)
    n_sequences: int = 32
    batch_size: int = 8
    n: int = 10
    out: Path | None = None


def steer(args: list[str]) -> None:
    from ..lm.changes import Change
    from ..lm.effects import steer_saes

    path, rest = positional(args, _SAES)
    o = read_options(SteerOptions, rest, "toysae lm steer")
    require(o.times is None or o.pin is None, "--times and --pin exclude each other: give one")
    change = Change(0.0 if o.times is None else o.times, o.pin)
    found = steer_saes(
        Path(path), o.latent, change, o.capture, o.site, o.model, o.n_sequences, o.batch_size, o.n,
        o.rows,
    )  # fmt: skip
    for name, (table, moved) in found.items():
        where = "all positions" if change.everywhere else "where it fires"
        print_frame(table, f"{name}: latent {o.latent} {change}, mean change of log p, {where}")
        OUT.print(
            f"fires at {moved.n_firing:,} of {moved.n_scored:,} tokens, at most {moved.largest:.3g}"
            f"; KL {moved.kl:.3g}, change of cross-entropy {moved.delta_ce:+.3g} nats {where}",
            highlight=False,
        )
    _write({name: table for name, (table, _) in found.items()}, o.out)


@dataclass(frozen=True)
class PatchOptions:
    """What `toysae lm patch` can be told.

    Attributes:
        pairs: of prompts, about whom something is given to.
        capture: the directory of the capture, if OUT does not say it.
        site: of the capture, if neither says it.
        model: where the model is, if it has moved.
        rows: of OUT's table.csv.
        batch_size: pairs at once.
        names: of people instead of its own; each must be one token.
        signed: what raises the logit difference most is patched first, what lowers it last; or
            else the largest effects of either sign first.
        seed: of what is drawn.
        out: a CSV file.
    """

    pairs: int = 32
    capture: Path | None = None
    site: str | None = None
    model: str | None = None
    rows: tuple[int, ...] = (0,)
    batch_size: int = 8
    names: tuple[str, ...] = ()
    signed: bool = True
    seed: int = 0
    out: Path | None = None


def patch(args: list[str]) -> None:
    from ..lm.effects import patch_saes

    path, rest = positional(args, _SAES)
    o = read_options(PatchOptions, rest, "toysae lm patch")
    found = patch_saes(
        Path(path),
        o.capture,
        o.site,
        o.model,
        o.pairs,
        o.batch_size,
        o.seed,
        o.rows,
        o.names,
        o.signed,
    )
    for name, table in found.items():
        print_frame(table, f"{name}: corrupted prompts with k coefficients of the clean run")
    _write(found, o.out)


_SAES = "what toysae lm train wrote, or the folder of one SAE"


def _write(tables: dict, out: Path | None) -> None:
    """All of them as one CSV file, the SAE's name in front."""
    from pandas import concat

    from ..disk import write

    if out is not None:
        whole = concat([t.assign(sae=name)[["sae", *t]] for name, t in tables.items()])
        write(out, lambda file: whole.to_csv(file, index=False))
