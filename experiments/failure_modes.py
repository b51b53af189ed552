"""Which SAEs absorb, hedge, split or merge, and does absorption show without the truth?

Worlds that bring absorption about (trees), and worlds that look like it without being it: pairs of
exclusive features at an angle, and plain interference. Detectors that see no truth are judged on
pairs of latents: the leaning apart of encoders, which weights show, and what is left of the input
while one of the two fires for both, which only activations show.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from toysae.errors import require
from toysae.evaluation.score import Scored, score_sae
from toysae.keys import named_key, seed_key
from toysae.plotting import failure_modes as draw
from toysae.plotting.style import save
from toysae.recovery import cosines
from toysae.recovery.absorption import ABSORBS, MOSTLY
from toysae.recovery.absorption_signs import absorption_signs, within_span
from toysae.recovery.geometry import encoder_rows
from toysae.recovery.probe import recovery_probe
from toysae.sae import RECIPES, SAE, make_spec
from toysae.sae.encoders import Tied, TiedGain
from toysae.sweeps.study import Study, check_sizes
from toysae.training import train_group
from toysae.training.members import fallback, make_group, member_grid
from toysae.worlds import World, make_world, sample

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
"""About that of every world: k of the SAEs that read one is a quarter above."""

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
"""Worlds whose pairs are judged together: those that absorb, and what is to be told from them."""
LEANING = 0.3
"""Cosine of decoder rows above which two latents are hard to tell from an absorbed pair."""


@dataclass(frozen=True)
class Options:
    """Worlds, SAEs and training.

    Attributes:
        worlds: of those above; detectors are drawn where all of them are there.
        recipes: with W_enc or tied.
        l1: coefficient of those that read one.
        world_seeds: the n of every interval.
        n_steps: Adam steps.
        batch_size: samples a step.
        n_eval: samples that each SAE is scored on.
    """

    worlds: tuple[str, ...] = tuple(WORLDS)
    recipes: tuple[str, ...] = ("untied", "tied", "batchtopk", "matryoshka", "jumprelu")
    l1: float = 0.05
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
        member_grid(spec, numbers(recipe, o), [0])  # refuses a number that is missing


def numbers(recipe: str, o: Options) -> dict[str, Any]:
    """Its own toy settings, but for an L1 or a k."""
    ours = {"l1_coeff": o.l1, "k": 1.25 * TRUE_L0}
    knob = RECIPES[recipe].knob()
    own = fallback(recipe, make_spec(recipe, 20, 20))
    return {**own, knob: ours.get(knob, RECIPES[recipe].toy[knob])}


def detectors(sae: SAE, scored: Scored, x: jax.Array) -> pd.DataFrame:
    """One row a pair of living latents: what each detector says of it, and the truth."""
    table = absorption_signs(sae, x, ~scored.records.latents["dead"].to_numpy(bool))
    table["activations"] = table["activations"].fillna(0)
    table["both"] = table["weights"] * table["activations"]
    taken = set()
    if len(scored.pairs):
        pairs = scored.pairs
        absorbed = pairs[(pairs["share"] > MOSTLY) | (pairs["rate"] > ABSORBS)]
        for one, other in absorbed[["parent_latent", "child_latent"]].to_numpy(int):
            taken |= {(one, other), (other, one)}
    latents = table[["latent", "other"]].itertuples(index=False, name=None)
    return table.assign(absorbed=[pair in taken for pair in latents])


def matrices(sae: SAE, scored: Scored, world: World) -> dict[str, np.ndarray]:
    """Latents in the order of the features they are matched to."""
    partner = scored.records.features["partner"].to_numpy()
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


def measure(o: Options) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict]:
    """Of every SAE its row, its pairs of latents and its living latents; and small matrices."""
    tables, pairs, latents, shown = [], [], [], {}
    seeds = range(o.world_seeds)
    for name in o.worlds:
        preset, fields = WORLDS[name]
        worlds = [make_world(preset, seed, **fields) for seed in seeds]
        for recipe in o.recipes:
            spec = make_spec(recipe, worlds[0].d_in, worlds[0].n_features)
            group = make_group(worlds, seeds, spec, numbers(recipe, o), [0], o.batch_size)
            trained = train_group(group, o.n_steps, recovery_probe, 1)
            for seed, world in zip(seeds, worlds, strict=True):
                head = {"world": name, "recipe": recipe, "world_seed": seed}
                if trained.diverged[seed, 0]:
                    tables.append(pd.DataFrame([{**head, "diverged": True}]))
                    continue
                sae = jax.tree.map(lambda leaf, seed=seed: leaf[seed, 0], trained.saes)
                scored = score_sae(sae, world, o.n_eval, seed)
                tables.append(scored.table.drop(columns="world").assign(**head, diverged=False))
                batch = sample(world, named_key(seed_key(seed, "data"), "detectors"), 8192)
                pairs.append(detectors(sae, scored, batch.x).assign(**head))
                records = scored.records.latents
                latents.append(records[~records["dead"]].assign(**head))
                if seed == 0 and recipe in o.recipes[:2]:
                    shown[f"{recipe}\n{name}"] = matrices(sae, scored, world)
            print(f"{name}, {recipe}: {o.world_seeds} SAEs", flush=True)
    require(pairs, "every SAE diverged: give a smaller l1")
    return *(pd.concat(v, ignore_index=True) for v in (tables, pairs, latents)), shown


def run(o: Options, out_dir: Path, figures_dir: Path) -> None:
    """Trains, scores, and draws modes, detectors, ablation and matrices."""
    check(o)
    table, pairs, latents, shown = measure(o)
    table.to_csv(out_dir / "table.csv", index=False)
    pairs.to_csv(out_dir / "pairs.csv", index=False)
    note = (
        f"{len(table)} runs, {o.world_seeds} world seeds; 20 features in d_in 20 (interference: "
        f"40), true L0 about {TRUE_L0:g}, as many latents; L1 {o.l1:g}, k {1.25 * TRUE_L0:g}; "
        f"{o.n_steps:,} steps, {o.n_steps * o.batch_size:,} samples per run, scored on "
        f"{o.n_eval:,}"
    )
    t = "± 95 %, Student's t over world seeds"
    fig, frame = draw.modes_by_recipe(table, SCORES, "What goes wrong", f"{note}; {t}")
    save(fig, frame, figures_dir, "modes")
    print(frame.pivot_table(index=["score"], columns=["world", "recipe"], values="mean")
          .round(2).T.to_string(), flush=True)  # fmt: skip
    _draw_detectors(o, pairs, f"{note}; AUROC {t}", figures_dir)
    title = "A − aX: taking a latent out of the input"
    save(*draw.ablation_scatter(latents, title, note), figures_dir, "ablation")
    one = note.replace(f"{len(table)} runs, {o.world_seeds} world seeds", "one world and SAE seed")
    title = "Latents in the order of the features they match; encoders within the decoder's span"
    if shown:  # unless the first world's diverged
        save(*draw.cosine_matrices(shown, title, one), figures_dir, "matrices")


def _draw_detectors(o: Options, pairs: pd.DataFrame, note: str, figures_dir: Path) -> None:
    sets = {name: worlds for name, worlds in SETS.items() if set(worlds) <= set(o.worlds)}
    if not sets or not pairs["absorbed"].any():
        return
    title = "Does absorption show without the truth? "
    kinds = {
        "detectors": ("all pairs of latents", pairs),
        "detectors_leaning": (
            f"pairs with a cosine of decoder rows above {LEANING:g}",
            pairs[pairs["decoder"] > LEANING],
        ),
    }
    for name, (which, kept) in kinds.items():
        fig, frame = draw.detector_curves(kept, DETECTORS, sets, title + which.capitalize(), note)
        save(fig, frame, figures_dir, name)
        print(f"{which}\n{frame.round(3).to_string(index=False)}", flush=True)


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
    run=run,
)  # fmt: skip
