"""Cunningham et al. 2023 on Pythia: tied SAEs of several sizes on residual streams and MLPs.

The published recipe (arXiv 2309.08600): tied weights, unit rows, Adam 1e-3, activations as they
are, an L1 of 8.6e-4 on the residual stream and 3.2e-4 on MLPs in its code's convention. Added are
seeds, sizes for the MMCS in a larger dictionary, and the cross-entropy compared with PCA's. The
models and the Pile come from the Hugging Face hub; `--models FOLDER --text FILE` takes any model of
a known family and any text.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pandas as pd

from toysae.errors import require
from toysae.lm.capture.shards import read_manifest
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
from toysae.lm.saes.train import SiteData, Training, site_cells
from toysae.lm.saes.train import prepare_site as prepare_site
from toysae.runs.cell import Cell
from toysae.runs.results import Results
from toysae.sweeps.study import Drawing, Study, check_sizes

from .larger import found_in_larger


@dataclass(frozen=True)
class Options:
    """What is captured and trained.

    Attributes:
        models: folders, GGUF files or names on the hub.
        layers: of each model.
        sites: in each layer, after "blocks.L.".
        text: a file, a folder or a data set on the hub.
        n_tokens: activations of each site.
        n_ctx: tokens of a sequence.
        resid_l1_coeff: coefficients on the residual stream, in the convention of the paper's code.
        mlp_l1_coeff: coefficients elsewhere.
        sizes: d_sae / d_in.
        seeds: of each kind of SAE.
        n_steps: Adam steps.
        batch_size: activations a step.
        n_sequences: held out, that the model predicts.
    """

    models: tuple[str, ...] = ("EleutherAI/pythia-70m", "EleutherAI/pythia-410m")
    layers: tuple[int, ...] = (2, 12)
    sites: tuple[str, ...] = ("hook_resid_post", "mlp.hook_post")
    text: str = "monology/pile-uncopyrighted"
    n_tokens: int = 10_000_000
    n_ctx: int = 256
    resid_l1_coeff: tuple[float, ...] = (3e-4, 8.6e-4, 2.4e-3)
    mlp_l1_coeff: tuple[float, ...] = (1e-4, 3.2e-4, 1e-3)
    sizes: tuple[float, ...] = (1.0, 2.0, 4.0)
    seeds: int = 3
    n_steps: int = 40_000
    batch_size: int = 256
    n_sequences: int = 128


Sites = tuple[SiteData, ...]


def sites_of(o: Options) -> dict[str, list[str]]:
    """The sites of each model."""
    check_sizes(o)
    require(
        len(o.layers) == len(o.models),
        f"{len(o.layers)} layers for {len(o.models)} models: give one of each",
    )
    sites: dict[str, list[str]] = {model: [] for model in o.models}
    for model, layer in zip(o.models, o.layers, strict=True):
        sites[model] += [f"blocks.{layer}.{site}" for site in o.sites]
    return {model: list(dict.fromkeys(each)) for model, each in sites.items()}


def training(o: Options, site: str, d_in: int) -> Training:
    """L1 is scaled: the paper's code averages the error over dimensions, here it is summed."""
    alphas = o.resid_l1_coeff if "resid" in site else o.mlp_l1_coeff
    return Training(
        recipes=("cunningham-2023",), inits=("recipe",), sizes=o.sizes,
        l1_coeff=tuple(alpha * d_in for alpha in alphas), seeds=o.seeds, n_steps=o.n_steps,
        batch_size=o.batch_size, lr=1e-3, lr_warmup=0.0, lr_decay=0.0, centre=False, scale="none",
    )  # fmt: skip


def prepare(o: Options, out: Path) -> Sites:
    """Captures the sites of every model."""
    folders = [
        folder
        for model, sites in sites_of(o).items()
        for folder in capture_text(
            model, o.text, sites, o.n_tokens, o.n_ctx, out / CAPTURE / Path(model).name
        )
    ]
    return tuple(
        prepare_site(folder, training(o, folder.name, read_manifest(folder).d))
        for folder in folders
    )


def unprepared(o: Options, out: Path) -> str:
    places = [
        f"{' and '.join(left)} of {model}"
        for model, sites in sites_of(o).items()
        if (left := uncaptured(sites, out / CAPTURE / Path(model).name))
    ]
    return captured_first(o.n_tokens, f"each of {'; '.join(places)}") if places else ""


def cells_by_site(o: Options, sites: Sites) -> dict[str, list[Cell]]:
    """A cell for each size, by the short name of a model and its site."""
    models = [model for model, names in sites_of(o).items() for _ in names]
    by_site = {}
    for model, site in zip(models, sites, strict=True):
        name = site.manifest.site
        where = f"{Path(model).name} {name}"
        of_site = site_cells(site, training(o, name, site.manifest.d), prefix_of(where))
        by_site[where] = [replace(c, columns={"model": model, **c.columns}) for c in of_site]
    return by_site


def cells(o: Options, sites: Sites) -> list[Cell]:
    return [cell for of_site in cells_by_site(o, sites).values() for cell in of_site]


@lru_cache(maxsize=1)
def compared(o: Options, results: Results, sites: Sites) -> dict[str, SideBySide]:
    """The SAEs of each site; cached, since the tables and the figures both show them."""
    return sites_side_by_side(cells_by_site(o, sites), results, o.n_sequences)


def answer(o: Options, results: Results, sites: Sites) -> dict[str, pd.DataFrame]:
    """Scores, how alike seeds and sizes are, and what each SAE costs its model."""
    by_site = compared(o, results, sites)
    tables = [
        each.table.assign(mmcs_larger=found_in_larger(each, results)) for each in by_site.values()
    ]
    saes = pd.concat(tables)
    return {
        "saes": saes[[c for c in _SHOWN if c in saes]],
        "cross_entropy": losses_of(by_site),
    }


def draw(o: Options, results: Results, sites: Sites) -> Iterator[Drawing]:
    n_saes = f"{len(results.table)} SAEs"
    note = f"{training_note(n_saes, o.n_steps, o.batch_size, o.n_tokens)} a site; {o.seeds} seeds"
    yield from draw_sites(compared(o, results, sites), note)


_SHOWN = ["model", "site", "d_sae", "l1_coeff", "sae_seed", "fvu", "l0", "dead_fraction",
          "mmcs_seeds", "mmcs_larger", "floor", "diverged"]  # fmt: skip

study = Study(
    question="Do the published recipe's SAEs of Pythia agree between seeds and sizes, and what do "
    "they cost the model?",
    options=Options(),
    expected="The paper's dictionaries are found in larger ones the better, the more sparse they "
    "are; its numbers depend on activations as they are, without centring.",
    run_time="an hour on a GPU; needs the Hugging Face hub and `pip install datasets`",
    smoke={
        "n_tokens": 100_000, "n_steps": 200, "sizes": (1.0, 2.0), "seeds": 2, "n_sequences": 16,
        "models": ("EleutherAI/pythia-70m",), "layers": (2,),
    },
    prepare=prepare,
    unprepared=unprepared,
    cells=cells,
    answer=answer,
    draw=draw,
    keep_weights=True,
    whole=True,
)  # fmt: skip
