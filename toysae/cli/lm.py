"""toysae lm: real activations, from a model and a text to SAEs and what they cost the model."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import rich.progress as bars
import tyro
from rich.console import Console

from ..errors import ToysaeError, require, unknown
from .options import check_flags, positional
from .show import OUT, print_frame

USAGE = """usage: toysae lm COMMAND

  sample                     a small real model and text, without a hub
  capture MODEL --site S [S2 ...] --text T --out DIR      activations to shards
  train DIR --recipes tied untied --l1 1 3 --seeds 3      SAEs on them
  eval OUT                   cross-entropy with SAEs in place, and baselines
  page OUT                   an HTML page of an SAE's latents: contexts, logits, neighbours
  export SAE DIR             a folder that SAELens reads

MODEL: a folder, a GGUF file, a name on the Hugging Face hub, or "sample".
T: a .txt or .jsonl file, a folder of .txt files, a hub data set, or "sample".
toysae lm COMMAND --help shows the fields."""

T = TypeVar("T")


def lm(args: list[str]) -> None:
    """The command group."""
    if not args or args[0] in ("-h", "--help"):
        OUT.print(USAGE, markup=False, highlight=False)
        return
    if args[0] not in COMMANDS:
        raise unknown("command", f"lm {args[0]}", [f"lm {name}" for name in COMMANDS])
    COMMANDS[args[0]](args[1:])


def _options(kind: type[T], args: list[str], prog: str, default: T | None = None) -> T:
    check_flags(args, "option", [f.name for f in fields(kind)])  # pyright: ignore[reportArgumentType]
    if default is None:
        return tyro.cli(kind, args=args, prog=prog)
    return tyro.cli(kind, args=args, prog=prog, default=default)


@dataclass(frozen=True)
class CaptureOptions:
    """What `toysae lm capture` can be told.

    Attributes:
        site: by TransformerLens' names, e.g. blocks.3.hook_resid_post; several share one pass.
        text: a .txt or .jsonl file, a folder of .txt files, a data set on the hub, or "sample".
        out: each site gets a folder in it; the same call goes on after a stop.
        tokens: activations to keep, e.g. 10M; all of the text if not given.
        n_ctx: tokens of a sequence.
        pack: documents one after the other, cut every n_ctx tokens; or each padded.
        bos: the end token at the start of each sequence.
        first: positions before this one are not kept: 0 is an attention sink.
        dtype: on disk: bfloat16, float16 or float32.
        centre_residual: take each activation's mean over dimensions out, as TransformerLens does.
        arithmetic: of the model: float32 or bfloat16.
        batch_size: sequences at once.
        live: store nothing, run the model again whenever activations are needed.
        dry_run: say what it would take, and stop.
        quiet: no progress bar.
    """

    site: tuple[str, ...]
    text: str
    out: Path
    tokens: str = ""
    n_ctx: int = 128
    pack: bool = True
    bos: bool = False
    first: int = 1
    dtype: str = "bfloat16"
    centre_residual: bool = False
    arithmetic: str = "float32"
    batch_size: int = 16
    live: bool = False
    dry_run: bool = False
    quiet: bool = False


def _capture(args: list[str]) -> None:
    from ..disk import disk_is_full, free_bytes, size
    from ..lm.capture import begin, bytes_needed, capture, describe, told
    from ..lm.models import load_model, load_tokenizer
    from ..lm.sites import parse_site
    from ..lm.sources import CORPUS
    from ..lm.text import Layout, build_corpus

    name, rest = positional(args, "a model, e.g. EleutherAI/pythia-70m")
    o = _options(CaptureOptions, rest, "toysae lm capture")
    n_tokens, layout = count(o.tokens), Layout(o.n_ctx, o.pack, o.bos, o.first)
    source, text = _sample(name, o.text)
    model = load_model(source, dtype=_dtype(o.arithmetic))
    for site in o.site:
        parse_site(site, model.config)
    tokenizer = load_tokenizer(source)
    tokenizer.check(model.config.n_vocab, name)
    corpus = build_corpus(text, tokenizer, o.out / CORPUS, n_tokens, layout)
    what = (o.dtype, o.centre_residual, o.live)
    manifests = [describe(model, corpus, site, *what) for site in dict.fromkeys(o.site)]
    rows, need = manifests[0].rows, 0 if o.live else bytes_needed(manifests)
    dropped = f", positions before {o.first} of each left out" if o.first else ""
    OUT.print(
        f"{rows:,} activations of {len(manifests)} site(s) in sequences of {o.n_ctx} tokens"
        f"{dropped}: {size(need)} on disk, {size(free_bytes(o.out))} free",
        highlight=False,
    )
    if need > free_bytes(o.out):
        raise disk_is_full(o.out, need)
    if o.dry_run:
        return
    if o.live:
        folders = [o.out / m.site for m in manifests]
        for folder, manifest in zip(folders, manifests, strict=True):
            begin(folder, model, manifest)
    else:
        with _bar(rows, o.quiet) as tell:
            folders = capture(
                model, corpus, o.site, o.out, dtype=o.dtype, centre=o.centre_residual,
                batch_size=o.batch_size, on_batch=lambda n, b: tell(n, told(n, b)),
            )  # fmt: skip
    for folder in folders:
        OUT.print(f"captured {folder}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class TrainOptions:
    """Where `toysae lm train` reads and writes, besides what it trains.

    Attributes:
        site: of the capture, if it holds several.
        out: DIR/saes/SITE if not given; the same call goes on after a stop.
        checkpoint_seconds: between writes of what is half trained.
        quiet: no progress bar.
    """

    site: str | None = None
    out: Path | None = None
    checkpoint_seconds: float = 60.0
    quiet: bool = False


def _train(args: list[str]) -> None:
    from ..lm.shards import find_site
    from ..lm.train import Training, train_site

    folder, rest = positional(args, "the directory of a capture")

    @dataclass(frozen=True)
    class Options(TrainOptions):
        training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)

    known = [f.name for f in (*fields(TrainOptions), *fields(Training))]
    check_flags(rest, "option", known)
    o = tyro.cli(Options, args=rest, prog="toysae lm train")
    site = find_site(folder, o.site)
    out = o.out or site.parent / "saes" / site.name
    table = train_site(
        site, o.training, out, quiet=o.quiet, checkpoint_seconds=o.checkpoint_seconds
    )
    print_frame(table[[c for c in _SHOWN if c in table]], f"SAEs on {site.name}")
    OUT.print(f"{len(table)} SAEs in {out / 'table.csv'}", highlight=False, soft_wrap=True)


_SHOWN = [
    "recipe", "init", "d_sae", "l1_coeff", "k", "l0_target", "sae_seed", "fvu", "l0",
    "dead_fraction", "dense_latents", "mmcs_seeds", "mmcs_seeds_init", "diverged",
]  # fmt: skip


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


def _eval(args: list[str]) -> None:
    from ..disk import write
    from ..lm.evaluate import splice_saes

    path, rest = positional(args, "what toysae lm train wrote, or the folder of one SAE")
    o = _options(EvalOptions, rest, "toysae lm eval")
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


def _page(args: list[str]) -> None:
    from ..lm.evaluate import Chosen, write_pages

    path, rest = positional(args, "what toysae lm train wrote, or the folder of one SAE")
    o = _options(PageOptions, rest, "toysae lm page")
    n_tokens = None if o.n_tokens == "all" else count(o.n_tokens)
    chosen = Chosen(o.n_latents, o.latents, n_tokens, o.seed)
    with _bar(1, o.quiet) as tell:
        files = write_pages(
            Path(path), chosen, o.out, o.capture, o.site, o.model, o.rows,
            lambda n, total: tell(n, f"{n:,} of {total:,} tokens", total),
        )  # fmt: skip
    for file in files:
        OUT.print(f"wrote {file}", highlight=False, soft_wrap=True)


def _export(args: list[str]) -> None:
    from ..lm.site_sae import export, load_site_sae

    path, rest = positional(args, "the folder of an SAE")
    folder, rest = positional(rest, "the folder to write")
    check_flags(rest, "option", [])
    export(load_site_sae(path), folder)
    OUT.print(f"wrote {folder}", highlight=False, soft_wrap=True)


def _fetch_sample(args: list[str]) -> None:
    from ..lm import sample

    check_flags(args, "option", [])
    model, text = sample.fetch()
    OUT.print(f"model: {model}\ntext: {text}, {sample.about()}", highlight=False, soft_wrap=True)


def _sample(model: str, text: str) -> tuple[str, str]:
    """Both, "sample" standing for what `toysae lm sample` fetched."""
    from ..lm import sample

    for word in (model, text):
        if word == "sample":
            require(sample.is_there(), "there is no sample yet: run `toysae lm sample`")
    return (
        str(sample.model_path()) if model == "sample" else model,
        str(sample.text_path()) if text == "sample" else text,
    )


def count(text: str) -> int | None:
    """ "10M" as 10,000,000; None for nothing.

    Raises:
        ToysaeError: no such number.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMbB]?)", text.replace(",", "").replace("_", ""))
    if match is None:
        raise ToysaeError(f"tokens {text!r} is no number such as 500k, 10M or 1000000")
    n = round(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[match[2].lower()])
    require(n >= 1, f"tokens {text!r} must be at least 1")
    return n


def _dtype(arithmetic: str) -> Any:
    import jax.numpy as jnp

    known = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if arithmetic not in known:
        raise unknown("arithmetic", arithmetic, known)
    return known[arithmetic]


class _bar:
    """A progress bar of tokens, with tokens/s and bytes."""

    def __init__(self, total: int, quiet: bool):
        self._bar = bars.Progress(
            bars.BarColumn(), bars.TaskProgressColumn(), bars.TextColumn("{task.description}"),
            bars.TextColumn("{task.fields[rate]}"), bars.TextColumn("left"),
            bars.TimeRemainingColumn(), console=Console(stderr=True), disable=quiet,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total, rate="")

    def __enter__(self) -> Callable[..., None]:
        self._bar.__enter__()
        return self._tell

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)  # type: ignore[arg-type]

    def _tell(self, done: int, text: str, total: int | None = None) -> None:
        speed = self._bar.tasks[0].speed
        rate = f"{speed:,.0f} tokens/s" if speed else ""
        self._bar.update(self._task, completed=done, total=total, description=text, rate=rate)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "sample": _fetch_sample,
    "capture": _capture,
    "train": _train,
    "eval": _eval,
    "page": _page,
    "export": _export,
}
