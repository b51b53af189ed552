"""Which signals that need no truth can a practitioner trust to choose an SAE?

The interim report (Sharkey et al. 2022) chose L1 and size by MMCS with larger dictionaries, by the
onset of dead latents and by the plateau of the loss, without a truth to check them on. Here they
are checked: on a grid of L1 x size on several worlds, each signal's rank correlation with true
mmcs, and what is lost by taking the SAE for which it is best.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from toysae.errors import require
from toysae.points import grid
from toysae.recovery.label_free import found_in, matched_cosine, rank_correlations
from toysae.runs.cell import Cell
from toysae.runs.results import Results
from toysae.runs.worlds import Worlds
from toysae.sae import make_spec
from toysae.sweeps.study import Drawing, Study, check_sizes
from toysae.training.members import fallback

from .figures import correlation_bars, signals_against_truth
from .measure import Signals

WORLDS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "zipf": {"probs": "zipf"},
    "trees": {
        "firing": "forest", "probs": "zipf", "n_roots": 4, "branching": 2, "depth": 2,
        "siblings_exclude": False,
    },
    "ratio 4": {"ratio": 2.0},  # times that of the options
}  # fmt: skip
"""The fields of each that differ from the plain world of random directions; "trees" needs at least
28 features."""

SIGNALS = {
    "mmcs_larger": "MMCS in the next larger SAE",
    "mmcs_seeds": "MMCS in another seed's SAE",
    "stability": "one-to-one cosine, other seed",
    "alive": "living latents, share",
    "plateau": "loss no lower at the next size",
    "incoherence": "− mean |cos| of decoder rows",
    "enc_dec_cos": "encoder–decoder cosine",
    "ev": "explained variance",
    "sparsity": "− L0",
}
TASKS = {
    "all": "choose L1 and size",
    "size": "choose L1 at a given size",
    "l1_coeff": "choose size at a given L1",
}


@dataclass(frozen=True)
class Options:
    """Worlds, grid and training.

    Attributes:
        d_in: input dimension.
        ratio: n_features / d_in.
        l0: mean active features in a sample.
        worlds: of those above.
        recipe: of every SAE; it reads an L1.
        sizes: d_sae / n_features, each twice the one before.
        l1_coeff: coefficients.
        world_seeds: the n of every interval.
        sae_seeds: at least 2, for the signals that compare seeds.
        n_steps: Adam steps.
        batch_size: samples a step.
        lr: learning rate, which falls over the last 20 %.
        n_eval: samples that loss, L0 and dead latents are measured on.
    """

    d_in: int = 16
    ratio: float = 2.0
    l0: float = 2.5
    worlds: tuple[str, ...] = tuple(WORLDS)
    recipe: str = "untied"
    sizes: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    l1_coeff: tuple[float, ...] = (0.01, 0.03, 0.06, 0.12, 0.25, 0.5, 0.8, 1.2)
    world_seeds: int = 5
    sae_seeds: int = 2
    n_steps: int = 4000
    batch_size: int = 256
    lr: float = 3e-3
    n_eval: int = 16_384


def check(o: Options) -> None:
    """Refuses what cannot be measured."""
    check_sizes(o)
    for world in o.worlds:
        require(world in WORLDS, f"unknown world {world!r}: give some of {', '.join(WORLDS)}")
    require(o.sae_seeds >= 2, f"sae_seeds {o.sae_seeds} must be at least 2: signals compare seeds")
    require(len(o.sizes) >= 2, f"sizes {o.sizes} must be at least two: signals compare sizes")
    require(list(o.sizes) == sorted(set(o.sizes)), f"sizes {o.sizes} must rise")
    encoder = make_spec(o.recipe, o.d_in, o.d_in).encoder
    require("W_enc" in encoder.provides, f"recipe {o.recipe!r} has no encoder direction of its own "
            "for each latent: give one that has")  # fmt: skip


def worlds(o: Options, name: str) -> Worlds:
    """The worlds of one of the names above, one for each seed."""
    fields = dict(WORLDS[name])
    n_features = round(o.ratio * fields.pop("ratio", 1.0) * o.d_in)
    fields |= {"d_in": o.d_in, "n_features": n_features, "l0": o.l0}
    return Worlds("sphere", tuple(fields.items()), tuple(range(o.world_seeds)))


def cells(o: Options) -> list[Cell]:
    """A cell for each world and size; all of a world see the same samples."""
    check(o)
    by_size = []
    for name in o.worlds:
        data = worlds(o, name)
        for size in o.sizes:
            spec = make_spec(o.recipe, o.d_in, max(round(size * data.worlds.n_features), 1))
            numbers = {
                **fallback(o.recipe, spec),
                "l1_coeff": o.l1_coeff,
                "lr": o.lr,
                "lr_decay": 0.2,
            }
            by_size.append(
                Cell(
                    name=f"{name.replace(' ', '-')}-size-{size:g}",
                    data=data,
                    spec=spec,
                    members=grid(**numbers),
                    sae_seeds=tuple(range(o.sae_seeds)),
                    n_steps=o.n_steps,
                    batch_size=o.batch_size,
                    measure=Signals(o.n_eval),
                    columns={"world": name, "size": size, "l1_coeff": o.l1_coeff},
                )
            )
    return by_size


Dictionary = tuple[np.ndarray, np.ndarray]
"""Decoder rows, and which of them are alive."""


def dictionaries(results: Results) -> list[Dictionary]:
    """The dictionary of each row of the table."""
    by_row = []
    for cell in results.cells:
        alive = results.arrays(cell)["latent_freq"] > 0
        by_row += zip(results.weights(cell)["W_dec"], alive, strict=True)
    return by_row


def compared(o: Options, table: pd.DataFrame, saes: Sequence[Dictionary]) -> pd.DataFrame:
    """The table with the signals that compare an SAE with that of another seed and with the next
    larger one, NaN where there is none.

    Args:
        o: the sizes and seeds.
        table: one row an SAE: `world`, `size`, `l1_coeff`, `world_seed`, `sae_seed` and `mse`.
        saes: the dictionary of each row.
    """
    columns = ["size", "sae_seed", "world", "l1_coeff", "world_seed"]
    keys = list(table[columns].itertuples(index=False, name=None))
    place, larger = {key: i for i, key in enumerate(keys)}, dict(pairwise(o.sizes))
    mse, rows = table["mse"].to_numpy(), []
    for i, (size, seed, *setting) in enumerate(keys):
        row = dict.fromkeys(("mmcs_seeds", "stability", "mmcs_larger", "plateau"), np.nan)
        other, next_size = (seed - 1) % o.sae_seeds, larger.get(size)  # the first with the last
        if (at := place.get((size, other, *setting))) is not None:
            pair = _both(saes[i], saes[at])
            row |= {"mmcs_seeds": float(found_in(*pair)), "stability": matched_cosine(*pair)}
        # Dictionaries of one seed start from the same rows in all sizes: take another seed's.
        if (at := place.get((next_size, other, *setting))) is not None:
            row["mmcs_larger"] = float(found_in(*_both(saes[i], saes[at])))
        if (at := place.get((next_size, seed, *setting))) is not None:
            row["plateau"] = mse[at] / mse[i] - 1
        rows.append(row)
    return table.join(pd.DataFrame(rows, index=table.index))


def _both(one: Dictionary, other: Dictionary) -> tuple[np.ndarray, ...]:
    """Two dictionaries as arguments of :func:`found_in` and :func:`matched_cosine`."""
    return one[0], other[0], one[1], other[1]


def signals(o: Options, results: Results) -> pd.DataFrame:
    """One row an SAE: its true scores and its signals, larger meaning better."""
    table = compared(o, results.table, dictionaries(results))
    return table.assign(
        sparsity=-table["l0"],
        alive=1 - table["dead_fraction"],
        incoherence=-table["mean_abs_cos"],
    )


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations of each task, world and signal, without SAEs that diverged or have no
    living latent."""
    kept = table[~table["diverged"].astype(bool) & (table["alive"] > 0)]
    # The largest size lacks the signals that need a larger one, so no signal is judged on it.
    kept = kept[kept["size"] < kept["size"].max()]
    fixed = {"all": [], "size": ["size"], "l1_coeff": ["l1_coeff"]}
    return pd.concat(
        [rank_correlations(kept, list(SIGNALS), ["mmcs"], ["world"], fixed[task]).assign(task=task)
         for task in TASKS],
        ignore_index=True,
    )  # fmt: skip


def answer(o: Options, results: Results) -> dict[str, pd.DataFrame]:
    """Means over world seeds: a row a task and signal, a column a world."""
    means = correlations(signals(o, results)).pivot(
        index=["task", "signal"], columns="world", values="mean"
    )
    rows = pd.MultiIndex.from_product([TASKS, SIGNALS], names=["task", "signal"])
    shown = means.reindex(index=rows, columns=list(o.worlds)).round(2).reset_index()
    return {"rank_correlation_with_true_mmcs": shown.replace({"task": TASKS})}


def draw(o: Options, results: Results) -> Iterator[Drawing]:
    """The correlations and regrets of the signals, and the signals themselves."""
    table = signals(o, results)
    note = (
        f"{len(table)} runs of {o.recipe}, {o.world_seeds} world seeds, {o.sae_seeds} SAE seeds; "
        f"random unit directions in d_in {o.d_in}, ratio {o.ratio:g} unless said, true L0 "
        f"{o.l0:g}; "
        f"d_sae / n_features {', '.join(f'{s:g}' for s in o.sizes)}, the largest only to compare "
        f"with; L1 {', '.join(f'{v:g}' for v in o.l1_coeff)}; {o.n_steps:,} steps, "
        f"{o.n_steps * o.batch_size:,} samples per run"
    )
    bars = f"{note}; ± 95 %, Student's t over world seeds"
    title = "What signals without truth are worth: against true mmcs"
    yield "worth", *correlation_bars(correlations(table), SIGNALS, TASKS, title, bars)
    shown = table[table["size"] < table["size"].max()]
    yield "signals", *signals_against_truth(shown, SIGNALS, title, note)


study = Study(
    question="Which of the signals that need no truth can a practitioner trust to choose the L1 "
    "and the size of an SAE?",
    expected="The interim report's MMCS with larger dictionaries should follow true recovery "
    "closely; explained variance should not.",
    run_time="about 15 CPU minutes",
    options=Options(),
    smoke={
        "d_in": 8, "worlds": ("uniform",), "sizes": (0.5, 1.0), "l1_coeff": (0.03, 0.2, 0.6),
        "world_seeds": 2, "n_steps": 200, "batch_size": 64, "n_eval": 1024, "l0": 1.5,
    },
    keep_weights=True,
    cells=cells,
    answer=answer,
    draw=draw,
)  # fmt: skip
