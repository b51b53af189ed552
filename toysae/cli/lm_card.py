"""toysae lm card and toysae lm twin: a layer compared with worlds, and the world most like it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from ..errors import require
from ..lazy import pd
from .options import positional, read_options
from .show import OUT, LookBar, print_frame


@dataclass(frozen=True)
class CardOptions:
    """Options of `toysae lm card`.

    Attributes:
        site: of the capture, if it holds several.
        world: worlds to compare it with.
        n_rows: activations to read.
        sae: the folder of an SAE of this site, or of a run on it, whose latents are compared with
            worlds' features.
        row: of that run's table.
        out: a folder for the figure.
    """

    site: str | None = None
    world: tuple[str, ...] = ()
    n_rows: int = 65_536
    sae: Path | None = None
    row: int = 0
    out: Path | None = None


def card(args: list[str]) -> None:
    """Prints the panel of a layer, next to those of worlds."""
    from ..lm.capture.shards import find_site, read_manifest
    from ..lm.capture.sources import open_site
    from ..lm.cards import card as cards
    from ..lm.saes.bench import check_belongs
    from ..lm.saes.site_sae import load_site_sae

    folder, rest = positional(args, "the directory of a capture")
    o = read_options(CardOptions, rest, "toysae lm card")
    panels = cards.world_panels(o.world)
    site = find_site(folder, o.site)
    manifest = read_manifest(site)
    sae = None if o.sae is None else load_site_sae(o.sae, site.name, o.row)
    if sae is not None:
        check_belongs(str(o.sae), sae, manifest)
    of_layer = cards.layer_card(site.name, open_site(site), manifest.first, o.n_rows, sae=sae)
    title = "activations" if sae is None else "activations and latents, compared with true features"
    table = Table("what", site.name, *panels, title=title)
    for row in of_layer.rows(*panels.values()):
        table.add_row(*row)
    OUT.print(table)
    if o.out is not None:
        for file in cards.save_card(of_layer, panels, o.out):
            OUT.print(f"drew {file}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class TwinOptions:
    """Options of `toysae lm twin`.

    Attributes:
        site: of the capture, if it holds several.
        ratios: of features to dimensions to try.
        directions: to try: sphere, or drawn with the layer's covariance.
        n_rows: activations to look at.
        recipes: trained on the twin; none if empty.
        l1_coeff: L1 coefficients of those that read one, as for the layer.
        k: of those that read it.
        size: d_sae over d_in.
        n_steps: Adam steps.
        batch_size: samples a step.
        seeds: worlds of the same law.
        out: a folder for twin.safetensors, its statistics and the SAEs' scores.
        quiet: no progress bar.
    """

    site: str | None = None
    ratios: tuple[float, ...] = (1.0, 2.0, 4.0)
    directions: tuple[str, ...] = ("sphere", "layer")
    n_rows: int = 65_536
    recipes: tuple[str, ...] = ("untied",)
    l1_coeff: tuple[float, ...] = ()
    k: tuple[float, ...] = ()
    size: float = 1.0
    n_steps: int = 2_000
    batch_size: int = 512
    seeds: int = 3
    out: Path | None = None
    quiet: bool = False


def twin(args: list[str]) -> None:
    """Fits a world to a layer, and measures what is recoverable there."""
    from ..disk import write
    from ..lm.capture.shards import find_site
    from ..lm.capture.sources import open_site
    from ..lm.cards.card import make_twin, recovered_on
    from ..lm.cards.twin import twin_world
    from ..sae import recipe_row
    from ..worlds.files import save_world

    folder, rest = positional(args, "the directory of a capture")
    o = read_options(TwinOptions, rest, "toysae lm twin")
    numbers: dict[str, dict[str, Any]] = {}
    for recipe in o.recipes:
        knob = recipe_row(recipe).knob()
        given = {"l1_coeff": o.l1_coeff, "k": o.k}.get(knob, ())
        require(knob in ("l1_coeff", "k"), f"recipe {recipe!r} is driven by {knob}, which is not "
                "to be set here: take one that reads an L1 or k")  # fmt: skip
        require(given, f"recipe {recipe!r} needs --{knob.replace('_', '-')}; to train "
                "nothing, give --recipes with nothing behind it")  # fmt: skip
        numbers[recipe] = {knob: given, "lr": 1e-3, "lr_decay": 0.2}
    site = find_site(folder, o.site)
    with LookBar(o.quiet) as tell:
        fitted = make_twin(open_site(site), o.n_rows, o.ratios, o.directions, on_look=tell)
    print_frame(pd.DataFrame([fitted.twin.numbers()]), f"the twin of {site.name}", constants=False)
    print_frame(fitted.table, "what it was fitted to", constants=False)
    if fitted.unmatched:
        OUT.print(f"not matched: {'; '.join(fitted.unmatched)}", highlight=False)
    tables = {"statistics": fitted.table}
    if numbers:
        recovery = recovered_on(
            fitted.twin, numbers, size=o.size, n_steps=o.n_steps, batch_size=o.batch_size,
            seeds=o.seeds, quiet=o.quiet,
        )  # fmt: skip
        shown = ["recipe", "world_seed", *_KNOBS, *_SCORES]
        print_frame(recovery[[c for c in shown if c in recovery]], "recovery on the twin")
        tables["recovery"] = recovery
    if o.out is not None:
        o.out.mkdir(parents=True, exist_ok=True)
        save_world(twin_world(fitted.twin), o.out / "twin.safetensors")
        for name, table in tables.items():
            write(o.out / f"{name}.csv", lambda file, t=table: t.to_csv(file, index=False))
        OUT.print(f"wrote {o.out}", highlight=False, soft_wrap=True)


_KNOBS = ("l1_coeff", "k")
_SCORES = ("mmcs", "floor", "mcs_above_0.9", "mcc", "l0", "true_l0", "ev", "diverged")
