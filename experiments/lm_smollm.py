"""SAEs on a real language model: what do seeds, inits and tying change? Is a toy world like it?

SmolLM2-135M reads Jane Austen (`make lm-sample`). At a residual site and an MLP's hidden layer,
tied and untied SAEs from random directions and from the singular vectors of the matrix that writes
the site. What was found in toy worlds is asked here without a truth: MCS across seeds,
cross-entropy with the SAE in place beside PCA and other stand-ins, latents' contexts, the site's
card beside two worlds', and a twin: a world with the site's statistics, on which recovery can be
measured.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from toysae.cli.show import print_frame
from toysae.errors import require
from toysae.lm import sample
from toysae.lm.card import card, make_twin, recovered_on, save_card, world_panels
from toysae.lm.evaluate import Chosen, write_pages
from toysae.lm.figures import seeds_figure, splice_figure
from toysae.lm.shards import Shards
from toysae.lm.site_sae import load_site_sae
from toysae.lm.site_study import capture_text, study_site
from toysae.lm.train import Training
from toysae.plotting.style import save
from toysae.runs.results import Results
from toysae.sweeps.study import Study, check_sizes


@dataclass(frozen=True)
class Options:
    """What is captured and trained.

    Attributes:
        layer: of both sites.
        n_tokens: activations of each site.
        n_ctx: tokens of a sequence.
        recipes: SAE recipes that read an L1.
        inits: see :class:`toysae.lm.train.Training`.
        resid_l1: of the SAEs of the residual stream.
        mlp_l1: of those of the MLP's hidden layer.
        resid_size: d_sae / d_in there.
        mlp_size: d_sae / d_in there.
        seeds: of each kind of SAE.
        n_steps: Adam steps.
        batch_size: activations a step.
        n_sequences: held out, that the model predicts.
        worlds: beside the site's card.
        twin_ratios: features over dimensions that the twin may have.
        twin_seeds: worlds of the twin's law.
        n_latents: on the page.
        page_tokens: that their contexts come from.
        arithmetic: of the SAEs' large products.
    """

    layer: int = 6
    n_tokens: int = 300_000
    n_ctx: int = 128
    recipes: tuple[str, ...] = ("tied", "untied")
    inits: tuple[str, ...] = ("random", "svd-write")
    resid_l1: float = 2.5
    mlp_l1: float = 4.0
    resid_size: float = 2.0
    mlp_size: float = 1 / 3
    seeds: int = 3
    n_steps: int = 1_200
    batch_size: int = 512
    n_sequences: int = 32
    worlds: tuple[str, ...] = ("sphere", "synth-sae-bench-16k")
    twin_ratios: tuple[float, ...] = (1.0, 2.0)
    twin_seeds: int = 3
    n_latents: int = 24
    page_tokens: int = 100_000
    arithmetic: str = "bfloat16"


def run(o: Options, out: Path, figures: Path) -> None:
    check_sizes(o)
    require(sample.is_there(), "there is no model yet: run `make lm-sample`, or `toysae lm sample`")
    sites = {
        f"blocks.{o.layer}.hook_resid_post": (o.resid_l1, o.resid_size),
        f"blocks.{o.layer}.mlp.hook_post": (o.mlp_l1, o.mlp_size),
    }
    source, text = sample.model_path(), sample.text_path()
    model, folders = capture_text(source, text, list(sites), o.n_tokens, o.n_ctx, out)
    found, losses = {}, {}
    for folder, (l1, size) in zip(folders, sites.values(), strict=True):
        t = Training(
            recipes=o.recipes, inits=o.inits, sizes=(size,), l1=(l1,), seeds=o.seeds,
            n_steps=o.n_steps, batch_size=o.batch_size, arithmetic=o.arithmetic,
        )  # fmt: skip
        site = study_site(folder, t, out / "saes" / folder.name, o.n_sequences, model)
        table = site.table
        print_frame(table[[c for c in _SHOWN if c in table]], f"SAEs on {folder.name}")
        print_frame(site.losses, f"cross-entropy with {folder.name} replaced")
        losses[folder.name], found[folder.name] = site.losses, site.groups
    n_saes = sum(len(table) for of_site in found.values() for table, _ in of_site)
    note = (
        f"SmolLM2-135M on {sample.about().split(' (')[0]}; {n_saes} SAEs of {o.n_steps:,} steps of "
        f"{o.batch_size} from {o.n_tokens:,} activations; {o.seeds} seeds"
    )
    _save(seeds_figure(found, note), figures, "mcs_across_seeds")
    _save(splice_figure(losses, note), figures, "cross_entropy")
    resid = folders[0]
    saes = out / "saes" / resid.name
    best = int(np.nanargmin(Results.load(saes).table["fvu"]))
    sae = load_site_sae(saes, row=best)
    shards = Shards(resid, verify=False)
    cards = card(resid.name, shards, shards.manifest.first, sae=sae)
    panels = world_panels(o.worlds)
    rows = pd.DataFrame(cards.rows(*panels.values()), columns=["what", resid.name, *panels])
    rows.to_csv(figures / "card.csv", index=False)
    print_frame(rows, "the site beside worlds", constants=False)
    save_card(cards, panels, figures)
    _twin(o, resid, figures)
    chosen = Chosen(n_latents=o.n_latents, n_tokens=o.page_tokens)
    page = figures / "latents.html"
    for file in write_pages(saes, chosen, page, model=model, rows=(best,)):
        print(f"wrote {file}")


def _twin(o: Options, site: Path, figures: Path) -> None:
    """The world that looks like the site, and what the same recipes recover there."""
    fitted = make_twin(Shards(site, verify=False), ratios=o.twin_ratios)
    print_frame(pd.DataFrame([fitted.twin.numbers()]), f"the twin of {site.name}", constants=False)
    print_frame(fitted.table, "what it was fitted to", constants=False)
    numbers = {r: {"l1_coeff": o.resid_l1, "lr": 1e-3, "lr_decay": 0.2} for r in o.recipes}
    recovered = recovered_on(
        fitted.twin, numbers, size=o.resid_size, n_steps=o.n_steps, batch_size=o.batch_size,
        seeds=o.twin_seeds, arithmetic=o.arithmetic,
    )  # fmt: skip
    print_frame(recovered[["recipe", "world_seed", *_RECOVERED]], "recovery on the twin")
    fitted.table.to_csv(figures / "twin_statistics.csv", index=False)
    pd.DataFrame([fitted.twin.numbers()]).to_csv(figures / "twin.csv", index=False)
    recovered[["recipe", "world_seed", *_RECOVERED]].to_csv(
        figures / "twin_recovery.csv", index=False
    )


def _save(drawn: tuple[Figure, pd.DataFrame], folder: Path, name: str) -> None:
    for file in save(*drawn, folder, name):
        print(f"drew {file}")


_SHOWN = ["recipe", "init", "sae_seed", "d_sae", "l1_coeff", "fvu", "l0", "dead_fraction",
          "dense_latents", "mmcs_seeds", "mmcs_seeds_init", "floor"]  # fmt: skip
_RECOVERED = ["mmcs", "floor", "mcs_above_0.9", "mcc", "l0", "true_l0", "ev"]

study = Study(
    question="On a real language model, what do seeds, inits and tying change, and is a toy world "
    "like it?",
    run=run,
    options=Options(),
    expected=(
        "SAEs beat a PCA of as many directions as they have latents on a token, not one of 256. "
        "Inits that are no draw are alike across seeds from the start, which MCS across seeds "
        "counts for them. A world of isotropic directions cannot have a residual stream's spectrum "
        "and norms at once."
    ),
    run_time="about 30 min on two cores, after `make lm-sample`",
    smoke={
        "layer": 1, "n_tokens": 4_000, "n_ctx": 32, "n_steps": 20, "batch_size": 64,
        "resid_size": 0.2, "mlp_size": 0.1, "seeds": 2, "n_sequences": 4, "worlds": ("sphere",),
        "twin_ratios": (0.25,), "twin_seeds": 1, "page_tokens": 1_000, "n_latents": 4,
    },
)  # fmt: skip
