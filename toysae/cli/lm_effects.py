"""toysae lm steer, downstream, patch, neurons: what latents do, and whether they are neurons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import require
from ..lazy import pd
from .lm_saes import SAES, Where, write_tables
from .options import count, positional, read_options
from .show import OUT, print_frame

if TYPE_CHECKING:
    from ..lm.effects.changes import Change


@dataclass(frozen=True, kw_only=True)
class ChangeOptions(Where):
    """How latents are changed. They are ablated unless --times or --pin is given.

    Attributes:
        times: what an activation is multiplied by: 0 ablates the latent, -4 writes A - 5 a X.
        pin: what an activation is set to at every position.
        n_sequences: of the held-out text, that the model reads.
        batch_size: sequences at once.
        out: a CSV file.
    """

    times: float | None = None
    pin: float | None = None
    n_sequences: int = 32
    batch_size: int = 8
    out: Path | None = None

    def change(self) -> Change:
        from ..lm.effects.changes import Change

        only_one = self.times is None or self.pin is None
        require(only_one, "--times and --pin exclude each other: give one")
        return Change(0.0 if self.times is None else self.times, self.pin)


@dataclass(frozen=True, kw_only=True)
class SteerOptions(ChangeOptions):
    """Options of `toysae lm steer`.

    Attributes:
        latent: by its number.
        n: tokens moved up, and as many moved down.
    """

    latent: int
    n: int = 10


def steer(args: list[str]) -> None:
    """Prints which tokens changing a latent makes more and less likely."""
    from ..lm.effects.on_disk import steer_saes

    path, rest = positional(args, SAES)
    o = read_options(SteerOptions, rest, "toysae lm steer")
    change = o.change()
    by_sae = steer_saes(o.opened(path), o.latent, change, o.n_sequences, o.batch_size, o.n)
    for name, (table, moved) in by_sae.items():
        where = "all positions" if change.everywhere else "where it fires"
        print_frame(table, f"{name}: latent {o.latent} {change}, mean change of log p, {where}")
        OUT.print(
            f"fires at {moved.n_firing:,} of {moved.n_scored:,} tokens, at most {moved.largest:.3g}"
            f"; KL {moved.kl:.3g}, change of cross-entropy {moved.delta_ce:+.3g} nats {where}",
            highlight=False,
        )
    write_tables({name: table for name, (table, _) in by_sae.items()}, o.out)


@dataclass(frozen=True, kw_only=True)
class PatchOptions(Where):
    """Options of `toysae lm patch`.

    Attributes:
        pairs: of prompts about a person to whom something is given.
        batch_size: pairs at once.
        names: of people to use; each must be one token.
        signed: patch what raises the logit difference most first and what lowers it last;
            otherwise the largest effects of either sign first.
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
    """Prints how many latents must be patched to turn the answer of corrupted prompts."""
    from ..lm.effects.on_disk import patch_saes

    path, rest = positional(args, SAES)
    o = read_options(PatchOptions, rest, "toysae lm patch")
    tables = patch_saes(o.opened(path), o.pairs, o.batch_size, o.seed, o.names, o.signed)
    for name, table in tables.items():
        print_frame(table, f"{name}: corrupted prompts with k coefficients of the clean run")
    write_tables(tables, o.out)


@dataclass(frozen=True, kw_only=True)
class DownstreamOptions(ChangeOptions):
    """Options of `toysae lm downstream`.

    Attributes:
        latents: by their numbers, each changed on its own.
        later_site: of the later SAE, if its folder does not say it.
        later_row: of the later SAE, if LATER_SAE is the directory of a run.
        n: pairs of latents shown, the largest changes first.
    """

    latents: tuple[int, ...]
    later_site: str | None = None
    later_row: int = 0
    n: int = 20


def downstream(args: list[str]) -> None:
    """Prints which later latents change most."""
    from ..lm.effects.on_disk import downstream_saes

    path, rest = positional(args, SAES)
    later, rest = positional(rest, "a later site's run, or the folder of an SAE")
    o = read_options(DownstreamOptions, rest, "toysae lm downstream")
    by_sae = downstream_saes(
        o.opened(path), Path(later), o.latents, o.change(), o.later_site, o.later_row,
        o.n_sequences, o.batch_size,
    )  # fmt: skip
    tables = {name: effects.edges(o.n) for name, effects in by_sae.items()}
    for name, table in tables.items():
        print_frame(table, f"{name}: mean change of later latents", constants=False)
        inert = by_sae[name].inert
        OUT.print(f"{len(inert)} of {len(o.latents)} latents move nothing there", highlight=False)
    write_tables(tables, o.out)


@dataclass(frozen=True, kw_only=True)
class NeuronsOptions(Where):
    """Options of `toysae lm neurons`.

    Attributes:
        n_tokens: of the text, evenly over it, e.g. 100k; "all" for all.
        seed: of the random rotation.
        n: latents shown, those that a single coordinate predicts best.
        out: a CSV file of all latents.
    """

    n_tokens: str = "100k"
    seed: int = 0
    n: int = 10
    out: Path | None = None


def neurons(args: list[str]) -> None:
    """Prints how near latents are to single coordinates of the activations."""
    from ..lm.effects.on_disk import neurons_of_saes

    path, rest = positional(args, SAES)
    o = read_options(NeuronsOptions, rest, "toysae lm neurons")
    n_tokens = None if o.n_tokens == "all" else count(o.n_tokens)
    by_sae = neurons_of_saes(o.opened(path), n_tokens, o.seed)
    for name, latents in by_sae.items():
        table = latents.table.sort_values("neuron_corr", ascending=False).head(o.n)
        print_frame(table, f"{name}: the latents nearest to neurons", constants=False)
    summary = pd.DataFrame([{"sae": name, **latents.summary()} for name, latents in by_sae.items()])
    print_frame(summary, "medians, and what they would be at random", constants=False)
    write_tables({name: latents.table for name, latents in by_sae.items()}, o.out)
