"""Do FISTA dictionaries have the lower loss and the worse recovery, and where does an SAE lose?

Encoders from tied to FISTA are compared on the same kind of dictionary. The frontier shows loss and
recovery at equal L0; the gaps split each SAE's objective into what its encoder loses compared with
the best codes (amortisation) and what its dictionary loses compared with the true one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from toysae.points import grid
from toysae.runs.cell import Cell
from toysae.runs.results import Results
from toysae.runs.worlds import Worlds
from toysae.sae import make_spec
from toysae.sae.decoders import UnitNorm
from toysae.sweeps.study import Drawing, Study, check_sizes

from .figures import SCORES, TRUTH, at_true_l0, frontier, gaps
from .measure import LOSS, LadderScores

LADDER = ("tied", "tied-gain", "untied", "mlp", "lista", "fista")


@dataclass(frozen=True)
class Options:
    """Worlds, ladder and training.

    Attributes:
        d_in: input dimension.
        ratios: n_features / d_in of each world; d_sae = n_features.
        l0: mean active features in a sample.
        rungs: recipes, from the cheapest encoder to FISTA.
        l1_coeff: coefficients.
        world_seeds: the n of every interval.
        n_steps: Adam steps.
        batch_size: samples a step.
        lr: learning rate, which falls over the last 30 %.
        n_eval: samples that each SAE is scored on.
        n_gap: the number of the first of them on which the objective is split.
        n_iterations: FISTA steps of the best codes there.
    """

    d_in: int = 16
    ratios: tuple[float, ...] = (1.5, 4.0)
    l0: float = 2.0
    rungs: tuple[str, ...] = LADDER
    l1_coeff: tuple[float, ...] = (0.03, 0.1, 0.2, 0.35, 0.5, 0.8)
    world_seeds: int = 3
    n_steps: int = 4000
    batch_size: int = 128
    lr: float = 3e-3
    n_eval: int = 8192
    n_gap: int = 1024
    n_iterations: int = 300


def cells(o: Options) -> list[Cell]:
    """A cell for each rung at each ratio.

    All rungs have the same unit-norm decoder without bias and see the same samples.
    """
    check_sizes(o)
    return [_cell(o, ratio, rung) for ratio in o.ratios for rung in o.rungs]


def _cell(o: Options, ratio: float, rung: str) -> Cell:
    n = round(ratio * o.d_in)
    fields = {"d_in": o.d_in, "n_features": n, "l0": o.l0}
    return Cell(
        name=f"{rung}-ratio-{ratio:g}",
        data=Worlds("sphere", tuple(fields.items()), tuple(range(o.world_seeds))),
        spec=make_spec(rung, o.d_in, n, decoder=UnitNorm("none")),
        members=grid(l1_coeff=o.l1_coeff, lr=o.lr, lr_decay=0.3),
        sae_seeds=(0,),
        n_steps=o.n_steps,
        batch_size=o.batch_size,
        measure=LadderScores(o.n_eval, o.n_gap, o.n_iterations),
        columns={"ratio": ratio, "rung": rung},
    )


def ladder(results: Results) -> pd.DataFrame:
    """One row an SAE, with the true dictionary and FISTA codes as a rung that is scored but not
    trained."""
    table = results.table
    # It is measured with every SAE, but is the same for all SAEs of a world at an L1.
    truth = table.drop_duplicates(["ratio", "world_seed", "l1_coeff"])
    truth = truth[["ratio", "world_seed", "l1_coeff", "true_l0"]].assign(
        rung=TRUTH, diverged=False, **{name: truth[f"truth_{name}"] for name in LOSS}
    )
    return pd.concat([table, truth], ignore_index=True)


def at_equal_l0(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of each rung on each world where its L0 is the truth's, interpolated in ln L0; NaN if
    its L1 grid does not reach that L0."""
    rows = []
    for (ratio, rung, seed), part in table.groupby(["ratio", "rung", "world_seed"], sort=False):
        part = part[~part["diverged"]].sort_values("l0")
        part = part[part["l0"] > 0]
        wanted, has = np.log(part["true_l0"].mean()), np.log(part["l0"].to_numpy(float))
        scores = {
            name: np.interp(wanted, has, part[name].to_numpy(float), np.nan, np.nan)
            if len(part)
            else np.nan
            for name in SCORES
        }
        rows.append({"ratio": ratio, "rung": rung, "world_seed": seed, **scores})
    return pd.DataFrame(rows)


def answer(o: Options, results: Results) -> dict[str, pd.DataFrame]:
    """Means over worlds of each rung's scores where its L0 is the truth's."""
    equal = at_equal_l0(ladder(results))
    means = equal.groupby(["ratio", "rung"], sort=False)[list(SCORES)].mean()
    return {"equal_l0": means.round(3).reset_index()}


def draw(o: Options, results: Results) -> Iterator[Drawing]:
    """The frontier, its cut at the true L0, and the gaps."""
    table, trained = ladder(results), results.table
    note = (
        f"{len(trained)} runs, {o.world_seeds} world seeds; random unit directions in d_in "
        f"{o.d_in}, true L0 {o.l0:g}, d_sae = n_features, unit-norm decoder without bias; "
        f"{o.n_steps:,} steps, {o.n_steps * o.batch_size:,} samples per run; L1 "
        f"{', '.join(f'{v:g}' for v in o.l1_coeff)}; ± 95 %, Student's t over world seeds"
    )
    yield "frontier", *frontier(table, note)
    yield "equal_l0", *at_true_l0(at_equal_l0(table), note + "; interpolated in ln L0")
    worst = (trained["unconverged"] / trained["truth"]).max()
    codes = (
        f"{o.n_gap:,} samples; best codes: {o.n_iterations} FISTA steps, their mean objective "
        f"off by at most {worst:.2%} of the truth's"
    )
    yield "gaps", *gaps(trained, f"{note}; {codes}")


study = Study(
    question="Do FISTA dictionaries have the lower loss at equal L0 and the worse recovery than "
    "SAEs, and do SAEs lose by their encoder or by their dictionary?",
    expected="The stronger the encoder, the lower the loss at equal L0. Under interference the "
    "loss and the recovery need not agree.",
    run_time="about 6 CPU minutes",
    options=Options(),
    smoke={
        "d_in": 8, "ratios": (2.0,), "rungs": ("untied", "fista"), "l1_coeff": (0.06, 0.25),
        "world_seeds": 2, "n_steps": 100, "n_eval": 1024, "n_gap": 256, "n_iterations": 100,
    },
    cells=cells,
    answer=answer,
    draw=draw,
)  # fmt: skip
