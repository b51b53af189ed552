"""toysae lm: real activations, from a model and a text to SAEs and what they cost the model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import tyro

from ..errors import unknown
from .lm_card import card, twin
from .lm_effects import downstream, neurons, patch, steer
from .lm_eval import eval_saes, page
from .options import check_flags, count, parsed, positional, read_options
from .running import EngineOptions, Shown, again, carry_out, profiled
from .show import OUT, TokenBar

if TYPE_CHECKING:
    from ..lm.capture.text import Corpus
    from ..lm.models import LM

_USAGE = """usage: toysae lm COMMAND

  sample                     a small real model and text, without a hub
  capture MODEL --site S [S2 ...] --text T --out DIR      activations to shards
  train DIR --recipes tied untied --l1-coeff 1 3 --seeds 3   SAEs on them
  card DIR [--world NAME]    what the activations look like, compared with worlds
  twin DIR                   a world fitted to them, and what SAEs recover there
  eval OUT                   cross-entropy with SAEs in place, and baselines
  page OUT                   an HTML page of an SAE's latents: contexts, logits, neighbours
  steer OUT --latent N       what ablating, multiplying or pinning a latent does to the predictions
  downstream OUT LATER_SAE --latents N [M ...]   and to the latents of a later SAE
  neurons OUT                are latents single coordinates of the activations?
  patch OUT                  how many latents make a corrupted prompt's answer the clean one's

toysae export OUT DIR --row N writes one of the SAEs as a folder that SAELens reads.
MODEL: a folder, a GGUF file, a name on the Hugging Face hub, or "sample".
T: a .txt or .jsonl file, a folder of .txt files, a hub data set, or "sample".
toysae lm COMMAND --help shows the fields."""


def lm(args: list[str]) -> None:
    """Runs one of the `toysae lm` commands."""
    if not args or args[0] in ("-h", "--help"):
        OUT.print(_USAGE, markup=False, highlight=False)
        return
    if args[0] not in COMMANDS:
        raise unknown("command", f"lm {args[0]}", [f"lm {name}" for name in COMMANDS])
    COMMANDS[args[0]](args[1:])


@dataclass(frozen=True)
class CaptureOptions:
    """Options of `toysae lm capture`.

    Attributes:
        site: by TransformerLens' names, e.g. blocks.3.hook_resid_post; all share one pass.
        text: a .txt or .jsonl file, a folder of .txt files, a data set on the hub, or "sample".
        out: each site gets a folder in it; the same call goes on after a stop.
        tokens: activations to keep, e.g. 10M; all of the text if not given.
        column: that holds the text, of a .jsonl file or a data set.
        n_ctx: tokens of a sequence.
        pack: documents follow each other, cut every n_ctx tokens; otherwise each is padded.
        bos: start each sequence with the token that begins a text (for GPT-2 and Pythia the end
            token).
        first: positions before this one are not kept: position 0 is an attention sink.
        dtype: on disk: bfloat16, float16 or float32.
        centre_residual: subtract each activation's mean over dimensions, as TransformerLens does.
        arithmetic: of the model: float32 or bfloat16.
        batch_size: sequences at once.
        live: store nothing, run the model again whenever activations are needed.
        dry_run: only print how much disk it would take.
        quiet: no progress bar.
    """

    site: tuple[str, ...]
    text: str
    out: Path
    tokens: str = ""
    column: str = "text"
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
    from ..lm.capture.capture import check_run
    from ..lm.capture.sample import resolve_sources
    from ..lm.capture.sources import CORPUS
    from ..lm.capture.text import TextLayout, build_corpus
    from ..lm.models import load_model, load_tokenizer
    from ..lm.models.sites import parse_site
    from ..runs.lock import locked

    name, rest = positional(args, "a model, e.g. EleutherAI/pythia-70m")
    o = read_options(CaptureOptions, rest, "toysae lm capture")
    n_tokens, layout = count(o.tokens), TextLayout(o.n_ctx, o.pack, o.bos, o.first)
    source, text = resolve_sources(name, o.text)
    model = load_model(source, dtype=_dtype(o.arithmetic))
    for site in o.site:
        parse_site(site, model.config)
    tokenizer = load_tokenizer(source)
    tokenizer.check(model.config.n_vocab, name)
    check_run(model, o.n_ctx, o.dtype)
    with TemporaryDirectory() as nowhere, locked(o.out):
        folder = Path(nowhere) if o.dry_run else o.out  # a dry run leaves nothing behind
        _write(o, model, build_corpus(text, tokenizer, folder / CORPUS, n_tokens, layout, o.column))


def _write(o: CaptureOptions, model: "LM", corpus: "Corpus") -> None:
    from ..disk import disk_is_full, free_bytes, size
    from ..lm.capture.capture import begin, capture, capture_bytes, new_manifest, resumed

    what = (o.dtype, o.centre_residual, o.live)
    manifests = [new_manifest(model, corpus, site, *what) for site in dict.fromkeys(o.site)]
    rows, need = manifests[0].rows, 0 if o.live else capture_bytes(manifests)
    dropped = f", positions before {o.first} of each left out" if o.first else ""
    OUT.print(
        f"{rows:,} activations of {len(manifests)} site(s) in sequences of {o.n_ctx} tokens"
        f"{dropped}: {size(need)} on disk, {size(free_bytes(o.out))} free",
        highlight=False,
    )
    if o.dry_run:
        if need > free_bytes(o.out):
            raise disk_is_full(o.out, need)
        return
    if o.live:
        folders = [o.out / m.site for m in manifests]
        for folder, manifest in zip(folders, manifests, strict=True):
            begin(folder, resumed(folder, manifest), model)
    else:
        with TokenBar(rows, o.quiet) as tell:
            folders = capture(
                model, corpus, o.site, o.out, dtype=o.dtype, centre=o.centre_residual,
                batch_size=o.batch_size,
                on_batch=lambda n, n_bytes: tell(n, f"{n:,} tokens, {size(n_bytes)}"),
            )  # fmt: skip
    for folder in folders:
        OUT.print(f"captured {folder}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class TrainOptions(EngineOptions):
    """Options of `toysae lm train` besides those of the training.

    Attributes:
        site: of the capture, if it holds several.
        out: DIR/saes/SITE if not given; the same call goes on after a stop.
    """

    site: str | None = None


def _train(args: list[str]) -> None:
    from ..lm.capture.shards import find_site
    from ..lm.saes.train import Training, asked_of_site, prepare_site, write_shared

    folder, rest = positional(args, "the directory of a capture")

    @dataclass(frozen=True)
    class Options(TrainOptions):
        training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)

    known = [f.name for f in (*fields(TrainOptions), *fields(Training))]
    rest = check_flags(rest, "option", known)
    o = parsed(Options, rest, "toysae lm train")
    site = find_site(folder, o.site)
    out = o.out or site.parent / "saes" / site.name

    def tables(results: Any) -> Iterator[tuple[str, Any]]:
        table = write_shared(asked.cells, results).table
        yield f"SAEs on {site.name}", table[[c for c in _SHOWN if c in table]]

    shown = Shown((), tables, False, lambda results: (), whole=True)
    command = again(["lm", "train", str(Path(folder).absolute()), *rest], out)
    name, figures_dir = f"SAEs on {site.name}", out / "figures"
    with profiled(o, name, out, figures_dir):
        asked = asked_of_site(prepare_site(site, o.training), o.training)
        carry_out(asked, shown, name, out, figures_dir, o, command)


_SHOWN = [
    "recipe", "init", "d_sae", "l1_coeff", "k", "l0_target", "sae_seed", "fvu", "l0",
    "dead_fraction", "dense_latents", "mmcs_seeds", "mmcs_seeds_init", "diverged",
]  # fmt: skip


@dataclass(frozen=True)
class _None:
    """There are no options."""


def _fetch_sample(args: list[str]) -> None:
    from ..lm.capture import sample

    read_options(_None, args, "toysae lm sample")
    model, text = sample.fetch()
    OUT.print(
        f"model: {model}\ntext: {text}, {sample.about_text()}", highlight=False, soft_wrap=True
    )


def _dtype(arithmetic: str) -> Any:
    import jax.numpy as jnp

    dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if arithmetic not in dtypes:
        raise unknown("arithmetic", arithmetic, dtypes)
    return dtypes[arithmetic]


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "sample": _fetch_sample,
    "capture": _capture,
    "train": _train,
    "card": card,
    "twin": twin,
    "eval": eval_saes,
    "page": page,
    "steer": steer,
    "downstream": downstream,
    "neurons": neurons,
    "patch": patch,
}
