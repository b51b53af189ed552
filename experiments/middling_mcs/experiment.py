"""Where MMCS is middling, are all features found partly, or some fully and the others not?

One world and one training at a time is worsened by one cause, by degrees: more features than
dimensions, too much or too little L1, rare features, too short a training, too few latents, too
many active features. Polarisation is the variance of MCS as a share of the largest possible at its
mean: 0 if all features are found partly, 1 if each is found fully or not at all.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from toysae.plotting import middling as draw
from toysae.plotting.style import save
from toysae.recovery import mcs, over_seeds, polarisation, random_floor
from toysae.sae import SAE, make_spec
from toysae.sweeps.study import Study, check_sizes
from toysae.training import train_group
from toysae.training.members import fallback, make_group
from toysae.worlds import World, make_world

CAUSES = {
    "ratio": "n_features / d_in",
    "high-l1": "L1 too high",
    "low-l1": "L1 too low",
    "rare": "rare features\n(Zipf exponent)",
    "undertraining": "undertraining\n(steps)",
    "few-latents": "d_sae / n_features",
    "l0": "true L0",
}
MIDDLING = (0.2, 0.8)
"""Of the way from the random floor to 1."""


@dataclass(frozen=True)
class Options:
    """The good case, and the degrees by which each cause worsens it.

    Attributes:
        d_in: input dimension.
        ratio: n_features / d_in of the good case.
        l0: its mean active features in a sample.
        l1: its coefficient.
        recipes: SAE recipes that read an L1.
        world_seeds: the n of every interval.
        n_steps: Adam steps at the good ratio; in proportion to the features elsewhere.
        batch_size: samples a step.
        lr: learning rate, which falls over the last 20 %.
        ratios: degrees.
        high_l1: degrees.
        low_l1: degrees.
        exponents: degrees, of a Zipf tail.
        sizes: degrees, d_sae / n_features.
        l0s: degrees.
        points: of the learning curve, for undertraining.
    """

    d_in: int = 20
    ratio: float = 2.0
    l0: float = 2.5
    l1: float = 0.2
    recipes: tuple[str, ...] = ("tied", "untied")
    world_seeds: int = 5
    n_steps: int = 6000
    batch_size: int = 256
    lr: float = 3e-3
    ratios: tuple[float, ...] = (1, 2, 3, 4, 6, 8)
    high_l1: tuple[float, ...] = (0.2, 0.5, 0.8, 1.0, 1.2, 1.5)
    low_l1: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
    exponents: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
    sizes: tuple[float, ...] = (0.25, 0.375, 0.5, 0.625, 0.75, 1.0)
    l0s: tuple[float, ...] = (2.5, 4, 5, 6.5, 8, 10)
    points: int = 16


def probe(sae: SAE, world: World, x: Any) -> dict[str, Any]:
    """Every feature's MCS, at each point of the curve."""
    return {"mcs": mcs(world.target, sae.W_dec)}


def conditions(o: Options) -> list[tuple[str, float, dict[str, Any], float, tuple[float, ...]]]:
    """(cause, level, world fields, d_sae / n_features, L1); an L1 cause has its levels at once."""
    good = {"d_in": o.d_in, "n_features": round(o.ratio * o.d_in), "l0": o.l0}
    found = [("undertraining", 0.0, good, 1.0, (o.l1,))]
    for ratio in o.ratios:
        found.append(("ratio", ratio, {**good, "n_features": round(ratio * o.d_in)}, 1.0, (o.l1,)))
    found += [("high-l1", 0.0, good, 1.0, o.high_l1), ("low-l1", 0.0, good, 1.0, o.low_l1)]
    for exponent in o.exponents:
        tail = {**good, "probs": "zipf", "exponent": exponent}
        found.append(("rare", exponent, tail, 1.0, (o.l1,)))
    found += [("few-latents", size, good, size, (o.l1,)) for size in o.sizes]
    found += [("l0", l0, {**good, "l0": l0}, 1.0, (o.l1,)) for l0 in o.l0s]
    return found


def measure(o: Options) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a recipe, cause, level and world; and all features by bin of MCS."""
    rows, counts, seeds = [], [], range(o.world_seeds)
    for cause, level, fields, size, l1 in conditions(o):
        worlds = [make_world("sphere", seed, **fields) for seed in seeds]
        n = fields["n_features"]
        d_sae = max(round(size * n), 1)
        n_steps = max(round(o.n_steps * n / (o.ratio * o.d_in)), 1)
        for recipe in o.recipes:
            spec = make_spec(recipe, o.d_in, d_sae)
            numbers = {**fallback(recipe, spec), "l1_coeff": l1, "lr": o.lr, "lr_decay": 0.2}
            group = make_group(worlds, seeds, spec, numbers, [0], o.batch_size)
            points = o.points if cause == "undertraining" else 1
            trained = train_group(group, n_steps, probe, points, 1)
            scores = trained.curves["mcs"]  # [worlds, members, n_features, points]
            floor = random_floor(o.d_in, d_sae)
            for member, coefficient in enumerate(l1):
                of_level = {level: scores[:, member, :, -1]}
                if cause.endswith("l1"):
                    of_level = {coefficient: scores[:, member, :, -1]}
                if cause == "undertraining":
                    steps = trained.curve_steps
                    of_level = {float(s): scores[:, member, :, i] for i, s in enumerate(steps)}
                for at, values in of_level.items():
                    head = {"recipe": recipe, "cause": cause, "level": at}
                    lost = trained.diverged[:, member]
                    rows += _rows(head, values, floor, lost)
                    found, _ = np.histogram(np.clip(values[~lost], 0, 1), draw.BINS)
                    counts.append(pd.DataFrame({**head, "low": draw.BINS[:-1], "count": found}))
        print(f"{cause} {level:g}: {len(o.recipes) * len(l1) * len(seeds)} SAEs", flush=True)
    return pd.DataFrame(rows), pd.concat(counts, ignore_index=True)


def _rows(head: dict, values: np.ndarray, floor: float, diverged: np.ndarray) -> list[dict]:
    """`values` [worlds, n_features]."""
    mean = values.mean(1)
    polarised = np.asarray(polarisation(jnp.asarray(values), floor))
    return [
        {
            **head,
            "floor": floor,
            "world_seed": seed,
            "diverged": bool(diverged[seed]),
            "mmcs": mean[seed],
            "position": (mean[seed] - floor) / (1 - floor),
            "mcs_above_0.9": (values[seed] > 0.9).mean(),
            "polarisation": polarised[seed],
        }
        for seed in range(len(values))
    ]


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Of each recipe and cause, polarisation over its middling levels: mean over those, then
    interval over worlds. Causes that never leave mmcs in the middle are left out; an interval of
    more than ± 1/3 is no verdict."""
    level = table.groupby(["recipe", "cause", "level"])["position"].transform("mean")
    middle = table[level.between(*MIDDLING)]
    found = over_seeds(middle, ["recipe", "cause"], "polarisation")
    levels = middle.groupby(["recipe", "cause"])["level"].nunique().rename("levels")
    found = found.merge(levels.reset_index(), on=["recipe", "cause"])
    # An interval longer than from one kind to the next cannot tell them apart.
    unsure = ~(found["half_width"] < 1 / 3)
    kind = np.select(
        [unsure, found["mean"] < 1 / 3, found["mean"] > 2 / 3],
        ["too uncertain to say", "all partly", "some fully"], "a mixture",
    )  # fmt: skip
    return found.assign(verdict=kind)


def answer(found: pd.DataFrame, table: pd.DataFrame) -> str:
    """The verdicts as one paragraph."""
    said = []
    for kind in ("some fully", "a mixture", "all partly", "too uncertain to say"):
        rows = found[found["verdict"] == kind]
        names = [
            f"{_plain(row['cause'])} ({row['recipe']}, P {row['mean']:.2f} ± "
            f"{row['half_width']:.2f})"
            for row in rows.to_dict("records")
        ]
        if names:
            said.append(f"{kind if not said else kind.capitalize()}: " + "; ".join(names))
    absent = [
        f"{_plain(cause)} ({recipe})"
        for recipe in dict.fromkeys(table["recipe"])
        for cause in CAUSES
        if not len(found[(found["recipe"] == recipe) & (found["cause"] == cause)])
    ]
    low, high = MIDDLING
    text = (
        f"Where mmcs lies between {low:g} and {high:g} of the way from the random floor to 1, "
        f"the features are found, by cause, " + ". ".join(said) + "."
    )
    return text + (f" Never in the middle: {', '.join(absent)}." if absent else "")


def _plain(cause: str) -> str:
    return CAUSES[cause].replace("\n", " ")


def run(o: Options, out_dir: Path, figures_dir: Path) -> None:
    """Trains every condition, draws the map and the histograms, writes the answer."""
    check_sizes(o)
    table, counts = measure(o)
    table.to_csv(out_dir / "table.csv", index=False)
    found = verdicts(table)
    found.to_csv(figures_dir / "verdicts.csv", index=False)
    text = answer(found, table)
    (figures_dir / "answer.txt").write_text(text + "\n")
    print(text, flush=True)
    # All points of one learning curve are one run.
    n_runs = int((table["cause"] != "undertraining").sum()) + len(o.recipes) * o.world_seeds
    note = (
        f"{n_runs} runs, {o.world_seeds} world seeds; random unit directions in d_in {o.d_in}; "
        f"unless varied {round(o.ratio * o.d_in)} features, true L0 {o.l0:g}, as many latents, L1 "
        f"{o.l1:g}; {o.n_steps:,} steps at ratio {o.ratio:g} and in proportion to the features "
        f"elsewhere, {o.batch_size} samples each; ± 95 %, Student's t over world seeds"
    )
    title = "A middling mmcs: all features partly, or some fully?"
    fig, frame = draw.polarisation_map(table, CAUSES, title, note)
    save(fig, frame, figures_dir, "polarisation")
    fig, frame = draw.middling_histograms(table, counts, CAUSES, title, note)
    save(fig, frame, figures_dir, "histograms")


study = Study(
    question="Where MMCS is middling, are all features found partly, or some fully and the "
    "others not at all?",
    expected="Undertraining and too little L1 should leave all features partly found; rare "
    "features and too few latents some fully and the others not.",
    run_time="about 20 CPU minutes",
    options=Options(),
    smoke={
        "d_in": 8, "world_seeds": 2, "n_steps": 60, "batch_size": 64, "ratios": (4,),
        "high_l1": (0.2, 0.8), "low_l1": (0.003,), "exponents": (2.0,), "sizes": (0.5,),
        "l0s": (4,), "points": 4, "l0": 1.5,
    },
    run=run,
)  # fmt: skip
