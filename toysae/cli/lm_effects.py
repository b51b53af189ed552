"""toysae lm steer, downstream, patch, neurons: what single latents do, and if they are neurons."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..errors import require
from .lm_saes import SAES, Where, write_tables
from .options import count, positional, read_options
from .show import OUT, print_frame

if TYPE_CHECKING:
    from ..lm.effects.changes import Change


@dataclass(frozen=True, kw_only=True)
class SteerOptions(Where):
    """What `toysae lm steer` can be told. The latent is ablated unless --times or --pin is given.

    Attributes:
        latent: by its number.
        times: what its activation is multiplied by: 0 ablates it, -4 writes A - 5 a X.
        pin: what its activation is set to at every position.
        n_sequences: of the text held out, that the model predicts.
        batch_size: sequences at once.
        n: tokens moved up, and as many moved down.
        out: a CSV file.
    """

    latent: int
    times: float | None = None
    pin: float | None = None
    n_sequences: int = 32
    batch_size: int = 8
    n: int = 10
    out: Path | None = None


def steer(args: list[str]) -> None:
    from ..lm.effects.on_disk import steer_saes

    path, rest = positional(args, SAES)
    o = read_options(SteerOptions, rest, "toysae lm steer")
    change = _change(o.times, o.pin)
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
    write_tables({name: table for name, (table, _) in found.items()}, o.out)


@dataclass(frozen=True, kw_only=True)
class PatchOptions(Where):
    """What `toysae lm patch` can be told.

    Attributes:
        pairs: of prompts, about whom something is given to.
        batch_size: pairs at once.
        names: of people instead of its own; each must be one token.
        signed: what raises the logit difference most is patched first, what lowers it last; or
            else the largest effects of either sign first.
        seed: of what is drawn.
        out: a CSV file.
    """

    pairs: int = 32
    batch_size: int = 8
    names: tuple[str, ...] = ()
    signed: bool = True
    seed: int = 0
    out: Path | None = None


def patch(args: list[str]) -> None:
    from ..lm.effects.on_disk import patch_saes

    path, rest = positional(args, SAES)
    o = read_options(PatchOptions, rest, "toysae lm patch")
    found = patch_saes(
        Path(path), o.capture, o.site, o.model, o.pairs, o.batch_size, o.seed, o.rows, o.names,
        o.signed,
    )  # fmt: skip
    for name, table in found.items():
        print_frame(table, f"{name}: corrupted prompts with k coefficients of the clean run")
    write_tables(found, o.out)


@dataclass(frozen=True, kw_only=True)
class DownstreamOptions(Where):
    """What `toysae lm downstream` can be told. Latents are ablated without --times or --pin.

    Attributes:
        latents: by their numbers, each changed on its own.
        times: what their activation is multiplied by: 0 ablates it.
        pin: what their activation is set to at every position.
        later_site: of the later SAE, if its folder does not say it.
        later_row: of the later SAE, if LATER_SAE is the directory of a run.
        n_sequences: of the text held out, that the model reads.
        batch_size: sequences at once.
        n: pairs of latents shown, the largest changes first.
        out: a CSV file.
    """

    latents: tuple[int, ...]
    times: float | None = None
    pin: float | None = None
    later_site: str | None = None
    later_row: int = 0
    n_sequences: int = 32
    batch_size: int = 8
    n: int = 20
    out: Path | None = None


def downstream(args: list[str]) -> None:
    from ..lm.effects.on_disk import downstream_saes

    path, rest = positional(args, SAES)
    later, rest = positional(rest, "a later site's run, or the folder of an SAE")
    o = read_options(DownstreamOptions, rest, "toysae lm downstream")
    found = downstream_saes(
        Path(path), Path(later), o.latents, _change(o.times, o.pin), o.capture, o.site,
        o.later_site, o.model, o.n_sequences, o.batch_size, o.rows, o.later_row,
    )  # fmt: skip
    tables = {name: effects.edges(o.n) for name, effects in found.items()}
    for name, table in tables.items():
        print_frame(table, f"{name}: mean change of later latents", constants=False)
        inert = found[name].inert
        OUT.print(f"{len(inert)} of {len(o.latents)} latents move nothing there", highlight=False)
    write_tables(tables, o.out)


@dataclass(frozen=True, kw_only=True)
class NeuronsOptions(Where):
    """What `toysae lm neurons` can be told.

    Attributes:
        n_tokens: of the text, evenly over it, e.g. 100k; "all" for all.
        seed: of the random rotation.
        n: latents shown, those that a single coordinate tells best.
        out: a CSV file of all latents.
    """

    n_tokens: str = "100k"
    seed: int = 0
    n: int = 10
    out: Path | None = None


def neurons(args: list[str]) -> None:
    from ..lm.effects.on_disk import neurons_of_saes

    path, rest = positional(args, SAES)
    o = read_options(NeuronsOptions, rest, "toysae lm neurons")
    n_tokens = None if o.n_tokens == "all" else count(o.n_tokens)
    found = neurons_of_saes(Path(path), o.capture, o.site, o.model, n_tokens, o.seed, o.rows)
    for name, latents in found.items():
        table = latents.table.sort_values("neuron_corr", ascending=False).head(o.n)
        print_frame(table, f"{name}: the latents nearest to neurons", constants=False)
    summary = pd.DataFrame([{"sae": name, **latents.summary()} for name, latents in found.items()])
    print_frame(summary, "medians, and what they would be at random", constants=False)
    write_tables({name: latents.table for name, latents in found.items()}, o.out)


def _change(times: float | None, pin: float | None) -> "Change":
    from ..lm.effects.changes import Change

    require(times is None or pin is None, "--times and --pin exclude each other: give one")
    return Change(0.0 if times is None else times, pin)
