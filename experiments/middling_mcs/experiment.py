"""Where MMCS is middling, are all features found partly, or some fully and the others not?

A good case is worsened by one cause at a time, by degrees: more features than dimensions, too much
or too little L1, rare features, too short a training, too few latents, too many active features.
Polarisation is the variance of MCS as a share of the largest variance at that mean: 0 if all
features are found partly, 1 if each is found fully or not at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from toysae.points import grid
from toysae.recovery import over_seeds
from toysae.runs.cell import Cell
from toysae.runs.results import Results
from toysae.runs.worlds import Named, Worlds
from toysae.sae import make_spec
from toysae.sweeps.study import Drawing, Study, check_sizes
from toysae.training.members import fallback

from .figures import BINS, middling_histograms, polarisation_map
from .measure import Polarisation

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
"""The range of positions between the random floor (0) and the truth (1) that is middling."""
SCORES = ("mmcs", "position", "mcs_above_0.9", "polarisation")


@dataclass(frozen=True)
class Options:
    """The good case, and the degrees by which each cause worsens it.

    Attributes:
        d_in: input dimension.
        ratio: n_features / d_in of the good case.
        l0: its mean active features in a sample.
        l1_coeff: its coefficient.
        recipes: SAE recipes that read an L1.
        world_seeds: the n of every interval.
        n_steps: Adam steps at the good ratio, elsewhere in proportion to the number of features.
        batch_size: samples a step.
        lr: learning rate, which falls over the last 20 %.
        ratios: degrees.
        high_l1: degrees.
        low_l1: degrees.
        exponents: degrees, of a Zipf tail.
        sizes: degrees, d_sae / n_features.
        l0s: degrees.
        points: of the learning curve, which are the degrees of undertraining.
    """

    d_in: int = 20
    ratio: float = 2.0
    l0: float = 2.5
    l1_coeff: float = 0.2
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


class Condition(NamedTuple):
    """A degree of a cause.

    Attributes:
        cause: a key of `CAUSES`.
        level: its degree; for undertraining those are the points of the learning curve.
        fields: of the world.
        size: d_sae / n_features.
        l1_coeff: coefficient.
    """

    cause: str
    level: float
    fields: Named
    size: float
    l1_coeff: float


def conditions(o: Options) -> list[Condition]:
    """All degrees of all causes; each differs from the good case in one thing at most."""

    def world(**worse: float | str) -> Named:
        good = {"d_in": o.d_in, "n_features": round(o.ratio * o.d_in), "l0": o.l0}
        return tuple((good | worse).items())

    good = world()
    ratios = [(ratio, world(n_features=round(ratio * o.d_in))) for ratio in o.ratios]
    tails = [(exponent, world(probs="zipf", exponent=exponent)) for exponent in o.exponents]
    return [
        Condition("undertraining", 0.0, good, 1.0, o.l1_coeff),
        *(Condition("ratio", ratio, more, 1.0, o.l1_coeff) for ratio, more in ratios),
        *(Condition("high-l1", l1, good, 1.0, l1) for l1 in o.high_l1),
        *(Condition("low-l1", l1, good, 1.0, l1) for l1 in o.low_l1),
        *(Condition("rare", exponent, tail, 1.0, o.l1_coeff) for exponent, tail in tails),
        *(Condition("few-latents", size, good, size, o.l1_coeff) for size in o.sizes),
        *(Condition("l0", l0, world(l0=l0), 1.0, o.l1_coeff) for l0 in o.l0s),
    ]


def trainings(o: Options) -> dict[str, list[Condition]]:
    """By name, the conditions that train together because they differ only in L1; the good case
    trains once for all causes."""
    every, together = conditions(o), {}
    good = every[0]  # undertraining is of the good case
    for c in every:
        is_good = (c.fields, c.size) == (good.fields, good.size)
        together.setdefault("good" if is_good else f"{c.cause}-{c.level:g}", []).append(c)
    return together


def cells(o: Options) -> list[Cell]:
    """A cell for each recipe and training."""
    check_sizes(o)
    return [_cell(o, recipe, name, c) for recipe in o.recipes for name, c in trainings(o).items()]


def _cell(o: Options, recipe: str, name: str, together: list[Condition]) -> Cell:
    fields, size = together[0].fields, together[0].size
    n_features = int(dict(fields)["n_features"])
    spec = make_spec(recipe, o.d_in, max(round(size * n_features), 1))
    l1 = tuple(dict.fromkeys(c.l1_coeff for c in together))
    numbers = {**fallback(recipe, spec), "l1_coeff": l1, "lr": o.lr, "lr_decay": 0.2}
    return Cell(
        name=f"{recipe}-{name}",
        data=Worlds("sphere", fields, tuple(range(o.world_seeds))),
        spec=spec,
        members=grid(**numbers),
        sae_seeds=(0,),
        n_steps=max(round(o.n_steps * n_features / (o.ratio * o.d_in)), 1),
        batch_size=o.batch_size,
        measure=Polarisation(o.points if name == "good" else 1),
        columns={"recipe": recipe, "training": name},
    )


def levels(o: Options, results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row for each recipe, cause, level and world; and the number of features of all worlds by
    bin of MCS."""
    tables, counts = [], []
    table, by_training = results.table, trainings(o)
    for cell in results.cells:
        saes, arrays = table[table["cell"] == cell], results.arrays(cell)
        for c in by_training[saes["training"].iloc[0]]:
            rows = saes[np.isclose(saes["l1_coeff"], c.l1_coeff)]
            points = [(-1, c.level)]
            if c.cause == "undertraining":
                points = enumerate(arrays["curve_steps"].astype(float))
            for at, level in points:
                head = {"recipe": saes["recipe"].iloc[0], "cause": c.cause, "level": level}
                scores = {name: arrays[f"curve_{name}"][rows["row"], at] for name in SCORES}
                tables.append(rows[["world_seed", "diverged", "floor"]].assign(**head, **scores))
                values = arrays["curve_mcs"][rows.loc[~rows["diverged"], "row"], :, at]
                in_bins, _ = np.histogram(np.clip(values, 0, 1), BINS)
                counts.append(pd.DataFrame({**head, "low": BINS[:-1], "count": in_bins}))
    return pd.concat(tables, ignore_index=True), pd.concat(counts, ignore_index=True)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """The polarisation of each recipe and cause over its middling levels: the mean over these, then
    the interval over worlds, and a verdict. Causes without a middling level are left out; an
    interval of more than ± 1/3 allows no verdict."""
    level = table.groupby(["recipe", "cause", "level"])["position"].transform("mean")
    middle = table[level.between(*MIDDLING)]
    means = over_seeds(middle, ["recipe", "cause"], "polarisation")
    levels = middle.groupby(["recipe", "cause"])["level"].nunique().rename("levels")
    means = means.merge(levels.reset_index(), on=["recipe", "cause"])
    # An interval wider than the distance between two kinds cannot tell them apart.
    unsure = ~(means["half_width"] < 1 / 3)
    kind = np.select(
        [unsure, means["mean"] < 1 / 3, means["mean"] > 2 / 3],
        ["too uncertain to say", "all partly", "some fully"], "a mixture",
    )  # fmt: skip
    return means.assign(verdict=kind)


def answer(o: Options, results: Results) -> dict[str, pd.DataFrame]:
    """The verdicts, and the causes with each of them."""
    table, _ = levels(o, results)
    by_cause = verdicts(table)
    return {"verdicts": by_cause, "answer": causes_of(by_cause, table)}


def causes_of(by_cause: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The causes with each verdict in words, and those without a middling level.

    Args:
        by_cause: the verdicts.
        table: from :func:`levels`.
    """
    causes = {}
    for kind in ("some fully", "a mixture", "all partly", "too uncertain to say"):
        causes[kind] = [
            f"{_plain(row['cause'])} ({row['recipe']}, P {row['mean']:.2f} ± "
            f"{row['half_width']:.2f})"
            for row in by_cause[by_cause["verdict"] == kind].to_dict("records")
        ]
    causes["never in the middle"] = [
        f"{_plain(cause)} ({recipe})"
        for recipe in dict.fromkeys(table["recipe"])
        for cause in CAUSES
        if not len(by_cause[(by_cause["recipe"] == recipe) & (by_cause["cause"] == cause)])
    ]
    rows = [(kind, "; ".join(names)) for kind, names in causes.items() if names]
    return pd.DataFrame(rows, columns=pd.Index(["verdict", "causes"]))


def _plain(cause: str) -> str:
    return CAUSES[cause].replace("\n", " ")


def draw(o: Options, results: Results) -> Iterator[Drawing]:
    """The map of polarisation, and the histograms behind its middle."""
    table, counts = levels(o, results)
    note = (
        f"{len(results.table)} runs, {o.world_seeds} world seeds; random unit directions in d_in "
        f"{o.d_in}; unless varied {round(o.ratio * o.d_in)} features, true L0 {o.l0:g}, as many "
        f"latents, L1 {o.l1_coeff:g}; {o.n_steps:,} steps at ratio {o.ratio:g} and in proportion "
        f"to the features elsewhere, {o.batch_size} samples each; ± 95 %, Student's t over "
        "world seeds"
    )
    title = "A middling mmcs: all features partly, or some fully?"
    yield "polarisation", *polarisation_map(table, CAUSES, title, note)
    yield "histograms", *middling_histograms(table, counts, CAUSES, title, note)


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
    cells=cells,
    answer=answer,
    draw=draw,
)  # fmt: skip
