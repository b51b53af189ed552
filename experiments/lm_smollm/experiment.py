"""SAEs on a real language model: what do seeds, inits and tying change? Is a toy world like it?

SmolLM2-135M reads Jane Austen (`make lm-sample`). Tied and untied SAEs train on a residual site and
an MLP's hidden layer, from random directions and from the singular vectors of the matrix that
writes the site. What was found in toy worlds is asked here without a truth: MCS across seeds,
cross-entropy with the SAE in place compared with PCA and other replacements, latents' contexts, the
site's card next to those of two worlds, and a twin: a world with the site's statistics, on which
recovery can be measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from toysae.errors import require
from toysae.evaluation.measure import RecoveryScores
from toysae.lm.capture import sample
from toysae.lm.capture.shards import Manifest, read_manifest
from toysae.lm.cards.card import LayerCard, layer_card, world_panels
from toysae.lm.cards.pages import Chosen, pages
from toysae.lm.cards.site_study import (
    CAPTURE,
    SideBySide,
    capture_text,
    captured_first,
    draw_sites,
    losses_of,
    prefix_of,
    sites_side_by_side,
    training_note,
    uncaptured,
)
from toysae.lm.saes.bench import open_bench
from toysae.lm.saes.site_sae import sae_of_run
from toysae.lm.saes.train import SiteData, Training, site_cells
from toysae.lm.saes.train import prepare_site as prepare_site
from toysae.plotting.panel import panel_figure
from toysae.points import grid
from toysae.runs.cell import Cell
from toysae.runs.results import Results
from toysae.sae import make_spec
from toysae.sweeps.study import Drawing, Study, check_sizes
from toysae.training.members import fallback
from toysae.worlds.panel.features import FeaturePanel

from .twin import TwinWorlds


@dataclass(frozen=True)
class Options:
    """What is captured and trained.

    Attributes:
        layer: of both sites.
        n_tokens: activations of each site.
        n_ctx: tokens of a sequence.
        recipes: SAE recipes that read an L1.
        inits: see :class:`toysae.lm.saes.train.Training`.
        resid_l1_coeff: of the SAEs of the residual stream.
        mlp_l1_coeff: of those of the MLP's hidden layer.
        resid_size: d_sae / d_in on the residual stream.
        mlp_size: d_sae / d_in on the MLP's hidden layer.
        seeds: of each kind of SAE.
        n_steps: Adam steps.
        batch_size: activations a step.
        n_sequences: held out, that the model predicts.
        worlds: that the site's card is compared with.
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
    resid_l1_coeff: float = 2.5
    mlp_l1_coeff: float = 4.0
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


@dataclass(frozen=True)
class Prepared:
    """What the study trains on.

    Attributes:
        resid: the captured residual stream.
        mlp: the captured hidden layer of the MLP.
        twin: of the residual stream.
    """

    resid: SiteData
    mlp: SiteData
    twin: TwinWorlds


def sites_of(o: Options) -> list[str]:
    check_sizes(o)
    require(sample.is_there(), "there is no model yet: run `make lm-sample`, or `toysae lm sample`")
    return [f"blocks.{o.layer}.hook_resid_post", f"blocks.{o.layer}.mlp.hook_post"]


def training(o: Options, l1: float, size: float) -> Training:
    return Training(
        recipes=o.recipes, inits=o.inits, sizes=(size,), l1_coeff=(l1,), seeds=o.seeds,
        n_steps=o.n_steps, batch_size=o.batch_size, arithmetic=o.arithmetic,
    )  # fmt: skip


def prepare(o: Options, out: Path) -> Prepared:
    """Captures both sites and fits the twin."""
    folders = capture_text(
        sample.model_path(), sample.text_path(), sites_of(o), o.n_tokens, o.n_ctx, out / CAPTURE
    )
    resid = prepare_site(folders[0], training(o, o.resid_l1_coeff, o.resid_size))
    mlp = prepare_site(folders[1], training(o, o.mlp_l1_coeff, o.mlp_size))
    twin = twin_of(o, resid.folder, resid.manifest)
    twin.keep(resid.source)
    return Prepared(resid, mlp, twin)


def twin_of(o: Options, site: Path, capture: Manifest) -> TwinWorlds:
    return TwinWorlds(site, capture, o.twin_ratios, tuple(range(o.twin_seeds)))


def unprepared(o: Options, out: Path) -> str:
    sites = sites_of(o)
    if left := uncaptured(sites, out / CAPTURE):
        return captured_first(o.n_tokens, " and ".join(left))
    resid = out / CAPTURE / sites[0]
    fitted = twin_of(o, resid, read_manifest(resid)).is_kept
    return "" if fitted else f"the twin of {sites[0]} is fitted first"


def cells_by_site(o: Options, p: Prepared) -> dict[str, list[Cell]]:
    """A cell for each recipe and init."""
    sites = [(p.resid, o.resid_l1_coeff, o.resid_size), (p.mlp, o.mlp_l1_coeff, o.mlp_size)]
    return {
        site.manifest.site: site_cells(site, training(o, l1, size), prefix_of(site.manifest.site))
        for site, l1, size in sites
    }


def twin_cells(o: Options, p: Prepared) -> list[Cell]:
    """The recipes of the residual stream on its twin, a cell for each."""
    d_in, cells = p.resid.manifest.d, []
    for recipe in o.recipes:
        spec = make_spec(recipe, d_in, round(o.resid_size * d_in), arithmetic=o.arithmetic)
        own = {"l1_coeff": o.resid_l1_coeff, "lr": 1e-3, "lr_decay": 0.2}
        cells.append(
            Cell(
                name=f"twin-{recipe}",
                data=p.twin,
                spec=spec,
                members=grid(**{**fallback(recipe, spec), **own}),
                sae_seeds=(0,),
                n_steps=o.n_steps,
                batch_size=o.batch_size,
                measure=RecoveryScores(n_eval=16_384, curve_points=8),
                columns={"site": "twin", "recipe": recipe, "init": "recipe"},
            )
        )
    return cells


def cells(o: Options, p: Prepared) -> list[Cell]:
    of_sites = [cell for of_site in cells_by_site(o, p).values() for cell in of_site]
    return [*of_sites, *twin_cells(o, p)]


@lru_cache(maxsize=1)
def compared(o: Options, results: Results, p: Prepared) -> dict[str, SideBySide]:
    """The SAEs of each site; cached, as the card is, since tables and figures both show them."""
    return sites_side_by_side(cells_by_site(o, p), results, o.n_sequences)


@lru_cache(maxsize=1)
def cards(o: Options, results: Results, p: Prepared) -> tuple[LayerCard, dict[str, FeaturePanel]]:
    """The card of the residual stream with its best SAE's latents, and the worlds' panels."""
    m = p.resid.manifest
    sae = sae_of_run(results, best(results, m.site))
    return layer_card(m.site, p.resid.source, m.first, sae=sae), world_panels(o.worlds)


def best(results: Results, site: str) -> int:
    """The row of the SAE with the least error at a site."""
    return int(str(results.select(site=site)["fvu"].idxmin()))


def answer(o: Options, results: Results, p: Prepared) -> dict[str, pd.DataFrame]:
    """Scores and costs of the SAEs, the site compared with worlds, its twin, and what is recovered
    there."""
    by_site, (card, panels) = compared(o, results, p), cards(o, results, p)
    saes = pd.concat([each.table for each in by_site.values()])
    twins = results.select(site="twin")
    return {
        "saes": saes[[c for c in _SHOWN if c in saes]],
        "cross_entropy": losses_of(by_site),
        "card": pd.DataFrame(card.rows(*panels.values()), columns=["what", card.site, *panels]),
        "twin": p.twin.table("numbers"),
        "twin_statistics": p.twin.table("statistics"),
        "twin_recovery": twins[["recipe", "world_seed", *_RECOVERED]].astype({"world_seed": int}),
    }


def draw(o: Options, results: Results, p: Prepared) -> Iterator[Drawing]:
    by_site, (card, panels) = compared(o, results, p), cards(o, results, p)
    n_saes = f"{sum(len(each.table) for each in by_site.values())} SAEs"
    trained = training_note(n_saes, o.n_steps, o.batch_size, o.n_tokens)
    text_name = sample.about_text().split(" (")[0]
    yield from draw_sites(by_site, f"SmolLM2-135M on {text_name}; {trained}; {o.seeds} seeds")
    yield f"card-{card.site}", *panel_figure({card.site: card.panel, **panels})
    chosen = Chosen(n_latents=o.n_latents, n_tokens=o.page_tokens)
    (page,) = pages(open_bench(results.path, rows=(best(results, card.site),)), chosen)
    yield "latents", page.html, page.table


_SHOWN = ["site", "recipe", "init", "sae_seed", "d_sae", "l1_coeff", "fvu", "l0", "dead_fraction",
          "dense_latents", "mmcs_seeds", "mmcs_seeds_init", "floor"]  # fmt: skip
_RECOVERED = ["mmcs", "floor", "mcs_above_0.9", "mcc", "l0", "true_l0", "ev"]

study = Study(
    question="On a real language model, what do seeds, inits and tying change, and is a toy world "
    "like it?",
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
    prepare=prepare,
    unprepared=unprepared,
    cells=cells,
    answer=answer,
    draw=draw,
    keep_weights=True,
    whole=True,
)  # fmt: skip
