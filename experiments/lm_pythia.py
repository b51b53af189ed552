"""Cunningham et al. 2023 on Pythia: tied SAEs of several sizes on residual streams and MLPs.

The published recipe (arXiv 2309.08600): tied weights, unit rows, Adam 1e-3, activations as they
are, an L1 of 8.6e-4 on the residual stream and 3.2e-4 on MLPs in its code's convention. Here with
seeds, with sizes for the MMCS in a larger dictionary, and with the cross-entropy beside PCA's. The
models and the Pile come from the Hugging Face hub; any model of a known family and any text will
do: `--models FOLDER --text FILE`.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from toysae.cli.show import print_frame
from toysae.errors import require
from toysae.lm.figures import seeds_figure, splice_figure
from toysae.lm.site_study import capture_text, found_in_larger, study_site
from toysae.lm.train import Training
from toysae.plotting.style import save
from toysae.sweeps.study import Study, check_sizes


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
        resid_l1: coefficients on the residual stream, in the convention of the paper's code.
        mlp_l1: coefficients elsewhere.
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
    resid_l1: tuple[float, ...] = (3e-4, 8.6e-4, 2.4e-3)
    mlp_l1: tuple[float, ...] = (1e-4, 3.2e-4, 1e-3)
    sizes: tuple[float, ...] = (1.0, 2.0, 4.0)
    seeds: int = 3
    n_steps: int = 40_000
    batch_size: int = 256
    n_sequences: int = 128


def run(o: Options, out: Path, figures: Path) -> None:
    check_sizes(o)
    require(
        len(o.layers) == len(o.models),
        f"{len(o.layers)} layers for {len(o.models)} models: give one of each",
    )
    tables, losses, found = [], {}, {}
    for name, layer in zip(o.models, o.layers, strict=True):
        here, sites = out / Path(name).name, [f"blocks.{layer}.{site}" for site in o.sites]
        model, folders = capture_text(name, o.text, sites, o.n_tokens, o.n_ctx, here)
        for folder in folders:
            alphas = o.resid_l1 if "resid" in folder.name else o.mlp_l1
            d_in = model.config.d_mlp if "mlp.hook_post" in folder.name else model.config.d_model
            t = Training(
                recipes=("cunningham-2023",), inits=("recipe",), sizes=o.sizes,
                l1=tuple(alpha * d_in for alpha in alphas), seeds=o.seeds, n_steps=o.n_steps,
                batch_size=o.batch_size, lr=1e-3, lr_warmup=0.0, lr_decay=0.0, centre=False,
                scale="none",
            )  # fmt: skip
            saes = here / "saes" / folder.name
            study = study_site(folder, t, saes, o.n_sequences, model)
            larger = found_in_larger(study)
            table = study.table.assign(model=name, mmcs_larger=larger)
            print_frame(table[[c for c in _SHOWN if c in table]], f"{name}, {folder.name}")
            print_frame(study.losses, f"cross-entropy with {folder.name} replaced")
            where = f"{Path(name).name} {folder.name}"
            tables.append(table)
            losses[where], found[where] = study.losses, study.groups
    pd.concat(tables, ignore_index=True).to_csv(figures / "saes.csv", index=False)
    note = (
        f"{sum(map(len, tables))} SAEs of {o.n_steps:,} steps of {o.batch_size} from "
        f"{o.n_tokens:,} activations a site; {o.seeds} seeds"
    )
    for drawn, name in (
        (seeds_figure(found, note), "mcs_across_seeds"),
        (splice_figure(losses, note), "cross_entropy"),
    ):
        for file in save(*drawn, figures, name):
            print(f"drew {file}")


_SHOWN = ["model", "d_sae", "l1_coeff", "sae_seed", "fvu", "l0", "dead_fraction", "mmcs_seeds",
          "mmcs_larger", "floor", "diverged"]  # fmt: skip

study = Study(
    question="Do the published recipe's SAEs of Pythia agree between seeds and sizes, and what do "
    "they cost the model?",
    run=run,
    options=Options(),
    expected="The paper's dictionaries are found in larger ones the better, the more sparse they "
    "are; its numbers depend on activations as they are, without centring.",
    run_time="an hour on a GPU; needs the Hugging Face hub and `pip install datasets`",
    smoke={
        "n_tokens": 100_000, "n_steps": 200, "sizes": (1.0, 2.0), "seeds": 2, "n_sequences": 16,
        "models": ("EleutherAI/pythia-70m",), "layers": (2,),
    },
)  # fmt: skip
