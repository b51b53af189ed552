"""Which SAEs absorb, hedge, split or merge, and does absorption show without the truth?

There are worlds that cause absorption (trees), and worlds that look like it without having it:
pairs of exclusive features at an angle, and plain interference. Detectors without the truth are
judged on pairs of latents: by how far encoders lean apart, which weights show, and by what is left
of the input while one latent fires for both, which only activations show.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from toysae.errors import require
from toysae.points import grid
from toysae.recovery import cosines
from toysae.recovery.absorption_signs import within_span
from toysae.recovery.geometry import encoder_rows
from toysae.recovery.matching import partners
from toysae.runs.cell import Cell
from toysae.runs.results import Results
from toysae.runs.worlds import Worlds
from toysae.sae import RECIPES, SAE, make_spec
from toysae.sae.encoders import Tied, TiedGain
from toysae.sweeps.study import Drawing, Study, check_sizes
from toysae.training.members import fallback
from toysae.worlds import World

from .figures import (
    ablation_scatter,
    cosine_matrices,
    detector_areas,
    detector_curves,
    modes_by_recipe,
)
from .measure import FailureModes

_PLAIN: dict[str, Any] = {"d_in": 20, "n_features": 20, "l0": 1.2, "magnitude": "normal",
                          "magnitude_spread": 0.2}  # fmt: skip
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "trees": ("matryoshka-tree", {"magnitude_sd": 0.2}),
    "trees, equal magnitudes": ("matryoshka-tree", {"magnitude_sd": 0.0}),
    "exclusive pairs": ("pairs", {**_PLAIN, "rho": 0.7071, "firing": "exclusive",
                                  "group_size": 2}),
    "independent": ("orthogonal", _PLAIN),
    "interference": ("sphere", {**_PLAIN, "n_features": 40}),
}  # fmt: skip
TRUE_L0 = 1.2
"""Of every world, about: SAEs that read a k get one that is a quarter higher."""

SCORES = {
    "mmcs": "mmcs",
    "mostly_absorbed_pairs": "parents mostly absorbed",
    "absorption_rate": "absorption rate",
    "parent_recall": "parents' recall",
    "parent_recall_repaired": "their recall, repaired",
    "hedging": "hedging",
    "features_per_latent": "features per latent",
    "split_features": "features split",
    "merged_features": "features merged",
    "scale_error": "scale error",
    "ablation_interference": "interference of ablation",
    "max_abs_cos": "largest |cos| of decoder rows",
}
DETECTORS = {
    "enc_dec": "1 − encoder–decoder cosine of both",
    "decoder": "cosine of decoder rows",
    "weights": "decoders lean together, encoders apart",
    "activations": "what the SAE leaves of the input",
    "both": "weights × activations",
}
SETS = {
    "trees": ("trees", "independent"),
    "trees, equal magnitudes": ("trees, equal magnitudes", "independent"),
    "trees, exclusive pairs": ("trees", "independent", "exclusive pairs"),
    "trees, interference": ("trees", "independent", "interference"),
}
"""Worlds whose pairs are judged together: some with absorption, and some to tell them from."""
LEANING = 0.3
"""Cosine of decoder rows above which two latents are hard to tell from an absorbed pair."""


@dataclass(frozen=True)
class Options:
    """Worlds, SAEs and training.

    Attributes:
        worlds: of those above; a set of detectors is drawn if all of its worlds are given.
        recipes: with W_enc or tied.
        l1_coeff: coefficient of those that read one.
        world_seeds: the n of every interval.
        n_steps: Adam steps.
        batch_size: samples a step.
        n_eval: samples that each SAE is scored on.
    """

    worlds: tuple[str, ...] = tuple(WORLDS)
    recipes: tuple[str, ...] = ("untied", "tied", "batchtopk", "matryoshka", "jumprelu")
    l1_coeff: float = 0.05
    world_seeds: int = 5
    n_steps: int = 6000
    batch_size: int = 256
    n_eval: int = 32_768


def check(o: Options) -> None:
    """Refuses what cannot be measured."""
    check_sizes(o)
    for world in o.worlds:
        require(world in WORLDS, f"unknown world {world!r}: give some of {', '.join(WORLDS)}")
    for recipe in o.recipes:
        spec = make_spec(recipe, 20, 20)
        read = "W_enc" in spec.encoder.provides or isinstance(spec.encoder, Tied | TiedGain)
        require(read, f"recipe {recipe!r} has no encoder direction of each latent: leave it out")


def numbers(recipe: str, o: Options) -> dict[str, Any]:
    """A recipe's own toy settings, except for an L1 or a k, which the options give."""
    ours = {"l1_coeff": o.l1_coeff, "k": 1.25 * TRUE_L0}
    knob = RECIPES[recipe].knob()
    toy = fallback(recipe, make_spec(recipe, 20, 20))
    return {**toy, knob: ours.get(knob, RECIPES[recipe].toy[knob])}


def cells(o: Options) -> list[Cell]:
    """A cell for each world and recipe; all recipes see the same samples of a world."""
    check(o)
    by_world = []
    for name in o.worlds:
        preset, fields = WORLDS[name]
        data = Worlds(preset, tuple(fields.items()), tuple(range(o.world_seeds)))
        for recipe in o.recipes:
            by_world.append(
                Cell(
                    name=f"{name.replace(',', '').replace(' ', '-')}-{recipe}",
                    data=data,
                    spec=make_spec(recipe, data.worlds.d_in, data.worlds.n_features),
                    members=grid(**numbers(recipe, o)),
                    sae_seeds=(0,),
                    n_steps=o.n_steps,
                    batch_size=o.batch_size,
                    measure=FailureModes(o.n_eval),
                    columns={"world": name, "recipe": recipe},
                )
            )
    return by_world


def records(results: Results, kind: str) -> pd.DataFrame:
    """One row a living latent, or a pair of them: the arrays of the measure whose names begin with
    `kind`, with the SAE's world and recipe."""
    table, frames = results.table, []
    for cell in results.cells:
        arrays = results.arrays(cell).items()
        columns = {name.removeprefix(kind): a for name, a in arrays if name.startswith(kind)}
        saes = table.loc[table["cell"] == cell, ["world", "recipe", "world_seed"]]
        each = saes.loc[saes.index.repeat(next(iter(columns.values())).shape[1])]
        frame = each.assign(**{name: a.ravel() for name, a in columns.items()})
        frames.append(frame.dropna(how="all", subset=list(columns)))
    return pd.concat(frames, ignore_index=True)


def judged(o: Options, results: Results) -> dict[str, tuple[str, pd.DataFrame]]:
    """The pairs of latents that detectors are judged on, with a description, by the figure's name;
    none if nothing absorbs."""
    pairs = records(results, "pair_").astype({"absorbed": bool})
    if not sets(o) or not pairs["absorbed"].any():
        return {}
    leaning = f"pairs with a cosine of decoder rows above {LEANING:g}"
    return {
        "detectors": ("all pairs of latents", pairs),
        "detectors_leaning": (leaning, pairs[pairs["decoder"] > LEANING]),
    }


def sets(o: Options) -> dict[str, tuple[str, ...]]:
    """The sets of which all worlds are given."""
    return {name: worlds for name, worlds in SETS.items() if set(worlds) <= set(o.worlds)}


def matrices(sae: SAE, world: World) -> dict[str, np.ndarray]:
    """Latents in the order of the features they are matched to."""
    partner = partners(np.asarray(cosines(world.target, sae.W_dec)))
    order = partner[partner >= 0]
    rows = encoder_rows(sae)
    assert rows is not None
    enc = within_span(rows.T, sae.W_dec).T[order]
    dec = sae.W_dec[order]
    return {
        "feature ×\nlatent": np.asarray(cosines(world.target, dec)),
        "encoder ×\ndecoder": np.asarray(cosines(enc, dec)),
        "encoder ×\nencoder": np.asarray(cosines(enc, enc)),
    }


def answer(o: Options, results: Results) -> dict[str, pd.DataFrame]:
    """Means over worlds of what goes wrong, and the AUROC of each detector."""
    table = results.table
    require(not table["diverged"].all(), "every SAE diverged: give a smaller l1_coeff")
    modes = table.groupby(["world", "recipe"], sort=False)[list(SCORES)].mean()
    areas = {
        name: detector_areas(pairs, DETECTORS, sets(o)).round(3)
        for name, (_, pairs) in judged(o, results).items()
    }
    return {"modes": modes.round(2).reset_index(), **areas}


def draw(o: Options, results: Results) -> Iterator[Drawing]:
    """What goes wrong by recipe, the detectors, ablation, and matrices of cosines."""
    table = results.table
    note = (
        f"{len(table)} runs, {o.world_seeds} world seeds; 20 features in d_in 20 (interference: "
        f"40), true L0 about {TRUE_L0:g}, as many latents; L1 {o.l1_coeff:g}, k "
        f"{1.25 * TRUE_L0:g}; {o.n_steps:,} steps, {o.n_steps * o.batch_size:,} samples per run, "
        f"scored on {o.n_eval:,}"
    )
    t = "± 95 %, Student's t over world seeds"
    yield "modes", *modes_by_recipe(table, SCORES, "What goes wrong", f"{note}; {t}")
    for name, (which, pairs) in judged(o, results).items():
        title = f"Does absorption show without the truth? {which.capitalize()}"
        yield name, *detector_curves(pairs, DETECTORS, sets(o), title, f"{note}; AUROC {t}")
    title = "A − aX: taking a latent out of the input"
    yield "ablation", *ablation_scatter(records(results, "latent_"), title, note)
    first = table[
        (table["world_seed"] == 0) & table["recipe"].isin(o.recipes[:2]) & ~table["diverged"]
    ]
    shown = {
        f"{recipe}\n{world}": matrices(results.sae(row), results.world(row))
        for row, recipe, world in zip(first.index, first["recipe"], first["world"], strict=True)
    }
    if shown:  # unless the first world's diverged
        one = note.replace(
            f"{len(table)} runs, {o.world_seeds} world seeds", "one world and SAE seed"
        )
        title = (
            "Latents in the order of the features they match; encoders within the decoder's span"
        )
        yield "matrices", *cosine_matrices(shown, title, one)


study = Study(
    question="Which SAEs absorb, hedge, split or merge, and does absorption show without the "
    "truth?",
    expected="Untied SAEs absorb in trees, tied ones less. A detector that reads weights takes "
    "exclusive features at an angle for absorption; one that reads activations does not.",
    run_time="about 12 CPU minutes",
    options=Options(),
    smoke={
        "worlds": ("trees", "independent"), "recipes": ("untied",), "world_seeds": 2,
        "n_steps": 100, "n_eval": 1024,
    },
    keep_weights=True,
    cells=cells,
    answer=answer,
    draw=draw,
)  # fmt: skip
