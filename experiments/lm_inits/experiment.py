"""Initialisations on a real layer: does a head start last, and do they end at the same features?

On a toy world an init is judged by the true features. Here a residual site of SmolLM2-135M replaces
the world (`make lm-sample`). The inits are the SVD of the matrices that write the site and of those
that read it, its own principal axes, its samples, and random directions. The study asks how fast
the error falls, how much dictionaries from different inits share, and what each costs the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import pandas as pd

from toysae.errors import require
from toysae.lm.capture.sample import about_text, resolve_sources
from toysae.lm.cards.site_study import (
    CAPTURE,
    SideBySide,
    capture_text,
    captured_first,
    side_by_side,
    training_note,
    uncaptured,
)
from toysae.lm.saes.train import SiteData, Training, site_cells
from toysae.lm.saes.train import prepare_site as prepare_site
from toysae.recovery.label_free import found_in
from toysae.runs.cell import Cell
from toysae.runs.results import Results
from toysae.sweeps.study import Drawing, Study, check_sizes

from .figures import inits_figure


@dataclass(frozen=True)
class Options:
    """What is captured and trained.

    Attributes:
        model: a folder, a GGUF file, a name on the hub, or "sample".
        text: a file, a folder, a data set on the hub, or "sample".
        layer: whose hook_resid_post.
        n_tokens: activations.
        n_ctx: tokens of a sequence.
        recipe: of the SAEs; one that reads an L1.
        inits: see :class:`toysae.lm.saes.train.Training`.
        l1_coeff: coefficient of the L1 penalty.
        size: d_sae / d_in.
        seeds: of each init.
        n_steps: Adam steps.
        batch_size: activations a step.
        curve_points: of the learning curves.
        n_sequences: held out, that the model predicts.
        arithmetic: of the SAEs' large products.
    """

    model: str = "sample"
    text: str = "sample"
    layer: int = 6
    n_tokens: int = 300_000
    n_ctx: int = 128
    recipe: str = "untied"
    inits: tuple[str, ...] = ("random", "svd-write", "svd-read", "svd-data", "data-samples")
    l1_coeff: float = 2.5
    size: float = 2.0
    seeds: int = 3
    n_steps: int = 1_600
    batch_size: int = 512
    curve_points: int = 24
    n_sequences: int = 24
    arithmetic: str = "bfloat16"


def site_of(o: Options) -> str:
    return f"blocks.{o.layer}.hook_resid_post"


def training(o: Options) -> Training:
    return Training(
        recipes=(o.recipe,), inits=o.inits, sizes=(o.size,), l1_coeff=(o.l1_coeff,), seeds=o.seeds,
        n_steps=o.n_steps, batch_size=o.batch_size, curve_points=o.curve_points,
        arithmetic=o.arithmetic,
    )  # fmt: skip


def check(o: Options) -> None:
    check_sizes(o)
    require(o.seeds >= 2, f"seeds {o.seeds} must be at least 2: dictionaries of seeds are compared")


def prepare(o: Options, out: Path) -> SiteData:
    """Captures the site."""
    check(o)
    source, text = resolve_sources(o.model, o.text)
    (folder,) = capture_text(source, text, [site_of(o)], o.n_tokens, o.n_ctx, out / CAPTURE)
    return prepare_site(folder, training(o))


def unprepared(o: Options, out: Path) -> str:
    check(o)
    left = uncaptured([site_of(o)], out / CAPTURE)
    return captured_first(o.n_tokens) if left else ""


def cells(o: Options, site: SiteData) -> list[Cell]:
    """A cell for each init."""
    return site_cells(site, training(o))


@lru_cache(maxsize=1)
def compared(o: Options, results: Results, site: SiteData) -> SideBySide:
    """The SAEs of all inits; cached, since the tables and the figure both show them."""
    n_seeds = results.table.query("not diverged").groupby("init")["sae_seed"].nunique()
    where = results.path / "table.csv"
    require((n_seeds >= 2).any(), f"fewer than two seeds of every init were left in {where}: the "
            "others diverged")  # fmt: skip
    return side_by_side(cells(o, site), results, o.n_sequences)


def answer(o: Options, results: Results, site: SiteData) -> dict[str, pd.DataFrame]:
    """Scores, what each SAE costs the model, and what every two SAEs of different seeds share."""
    saes = compared(o, results, site)
    return {
        "saes": saes.table[[c for c in _SHOWN if c in saes.table]],
        "cross_entropy": saes.losses,
        "shared": shared(saes, results),
    }


def draw(o: Options, results: Results, site: SiteData) -> Iterator[Drawing]:
    saes, (source, text) = compared(o, results, site), resolve_sources(o.model, o.text)
    text_name = about_text().split(" (")[0] if o.text == "sample" else Path(text).name
    n_saes = f"{len(saes.table)} {o.recipe} SAEs"
    trained = training_note(n_saes, o.n_steps, o.batch_size, o.n_tokens)
    note = f"{Path(source).name} on {text_name}; {site_of(o)}; {trained}"
    yield "inits", *inits_figure(curves(saes), shared(saes, results), note)


def curves(saes: SideBySide) -> pd.DataFrame:
    """One row a step and SAE that did not diverge: `init`, `sae_seed`, `step`, `fvu`, `l0`."""
    return pd.concat([
        pd.DataFrame({
            "init": row["init"], "sae_seed": row["sae_seed"], "step": arrays["curve_steps"],
            "fvu": 1 - arrays["curve_ev"][i], "l0": arrays["curve_l0"][i],
        })
        for rows, arrays in saes.cells
        for i, (_, row) in enumerate(rows.iterrows())
        if not row["diverged"]
    ])  # fmt: skip


def shared(saes: SideBySide, results: Results) -> pd.DataFrame:
    """MMCS of the living latents of every SAE in those of every SAE of another seed."""
    dictionaries = [
        (row["init"], row["sae_seed"], W_dec, arrays["firing_freq"][i] > 0)
        for rows, arrays in saes.cells
        for W_decs in [results.weights(rows["cell"].iloc[0])["W_dec"]]
        for i, ((_, row), W_dec) in enumerate(zip(rows.iterrows(), W_decs, strict=True))
        if not row["diverged"]
    ]
    return pd.DataFrame([
        {"init": a, "other_init": b, "sae_seed": s, "other_seed": r,
         "mmcs": float(found_in(W, V, alive, others))}
        for (a, s, W, alive), (b, r, V, others) in product(dictionaries, repeat=2)
        if s != r
    ])  # fmt: skip


_SHOWN = ["site", "init", "sae_seed", "fvu", "l0", "dead_fraction", "dense_latents", "mmcs_seeds",
          "mmcs_seeds_init", "floor", "diverged"]  # fmt: skip

study = Study(
    question="On a real layer, does an init's head start last, and do inits end at the same "
    "features?",
    options=Options(),
    expected=(
        "Inits from data or weights start at a lower error and random ones catch up. Seeds of an "
        "SVD init agree because they start alike, not because training found the same features: "
        "what a random init finds of them tells the two apart."
    ),
    run_time="about 20 min on two cores, after `make lm-sample`",
    smoke={
        "layer": 1, "n_tokens": 4_000, "n_ctx": 32, "inits": ("random", "svd-write"), "size": 0.2,
        "seeds": 2, "n_steps": 20, "batch_size": 64, "curve_points": 4, "n_sequences": 4,
    },
    prepare=prepare,
    unprepared=unprepared,
    cells=cells,
    answer=answer,
    draw=draw,
    keep_weights=True,
    whole=True,
)  # fmt: skip
