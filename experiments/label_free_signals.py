"""Which signals that need no truth can a practitioner trust to choose an SAE?

The interim report (Sharkey et al. 2022) chose L1 and size by MMCS with larger dictionaries, by the
onset of dead latents and by the plateau of the loss, and had no truth to check them on. Here there
is: a grid of L1 x size on several worlds, each signal's rank correlation with true mmcs, and what
is lost by taking the SAE that it likes best.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from toysae.errors import require
from toysae.evaluation.scoring import evaluate_all
from toysae.plotting import label_free as draw
from toysae.plotting.style import save
from toysae.recovery import enc_dec_cosines, mcs
from toysae.recovery.geometry import pairwise_cosines
from toysae.recovery.label_free import found_in, matched_cosine, rank_correlations
from toysae.recovery.probe import recovery_probe
from toysae.sae import make_spec
from toysae.sweeps.study import Study, check_sizes
from toysae.training import Group, train_group
from toysae.training.members import fallback, make_group
from toysae.worlds import make_world

WORLDS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "zipf": {"probs": "zipf"},
    "trees": {
        "firing": "forest", "probs": "zipf", "n_roots": 4, "branching": 2, "depth": 2,
        "siblings_exclude": False,
    },
    "ratio 4": {"ratio": 2.0},  # times that of the options
}  # fmt: skip
"""What each adds to the plain world of random directions, of at least 28 features."""

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
    "l1": "choose size at a given L1",
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
        l1: coefficients.
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
    l1: tuple[float, ...] = (0.01, 0.03, 0.06, 0.12, 0.25, 0.5, 0.8, 1.2)
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


def measure(o: Options) -> pd.DataFrame:
    """One row an SAE: its signals and its true scores."""
    tables, seeds = [], range(o.world_seeds)
    for name in o.worlds:
        fields = dict(WORLDS[name])
        n = round(o.ratio * fields.pop("ratio", 1.0) * o.d_in)
        fields |= {"d_in": o.d_in, "n_features": n, "l0": o.l0}
        made = [make_world("sphere", seed, **fields) for seed in seeds]
        by_size = []
        for size in o.sizes:
            spec = make_spec(o.recipe, o.d_in, max(round(size * n), 1))
            numbers = {**fallback(o.recipe, spec), "l1_coeff": o.l1, "lr": o.lr, "lr_decay": 0.2}
            group = make_group(made, seeds, spec, numbers, range(o.sae_seeds), o.batch_size)
            by_size.append(_of_size(o, group))
            print(f"{name}, d_sae {spec.d_sae}: {group.n_rows} SAEs", flush=True)
        tables.append(_joined(o, by_size).assign(world=name))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class Sized:
    """The SAEs of one size, arrays [worlds, l1, seeds, ...]."""

    W_dec: np.ndarray
    alive: np.ndarray
    columns: dict[str, np.ndarray]


def _of_size(o: Options, group: Group) -> Sized:
    trained = train_group(group, o.n_steps, recovery_probe, 1)
    saes, n_batches = trained.saes, jnp.int32(-(-o.n_eval // 1024))
    spec, seeds = group.spec.once_started(), group.world_seeds
    scores, _ = jax.device_get(evaluate_all(saes, spec, group.worlds, seeds, n_batches, 1024))
    found = np.asarray(_found(group.worlds.target, saes.W_dec))
    alive = np.asarray(scores["firing_freq"]) > 0

    def cells(values: Any) -> np.ndarray:
        """[worlds, members, ...] -> [worlds, l1, seeds, ...]; seeds vary fastest."""
        values = np.asarray(values)
        return values.reshape(len(values), len(o.l1), o.sae_seeds, *values.shape[2:])

    encoder = np.where(alive, _enc_dec(saes.weights.enc["W_enc"], saes.W_dec), 0).sum(-1)
    columns = {
        "diverged": trained.diverged,
        "mmcs": found.mean(-1),
        "mcs_above_0.9": (found > 0.9).mean(-1),
        "ev": scores["ev"],
        "mse": scores["mse"],
        "sparsity": -scores["l0"],
        "true_l0": scores["true_l0"],
        "alive": 1 - scores["dead_fraction"],
        "enc_dec_cos": encoder / np.maximum(alive.sum(-1), 1),
        "incoherence": -np.asarray(_coherence(saes.W_dec, jnp.asarray(alive))),
    }
    return Sized(cells(saes.W_dec), cells(alive), {k: cells(v) for k, v in columns.items()})


@jax.jit
def _found(target: jax.Array, W_dec: jax.Array) -> jax.Array:
    return jax.vmap(jax.vmap(mcs, (None, 0)))(target, W_dec)


@jax.jit
def _enc_dec(W_enc: jax.Array, W_dec: jax.Array) -> jax.Array:
    return jax.vmap(jax.vmap(enc_dec_cosines))(W_enc, W_dec)


@jax.jit
def _coherence(W_dec: jax.Array, alive: jax.Array) -> jax.Array:
    return jax.vmap(jax.vmap(lambda W, kept: pairwise_cosines(W, kept)["mean_abs_cos"]))(
        W_dec, alive
    )


def _joined(o: Options, by_size: list[Sized]) -> pd.DataFrame:
    """One row an SAE, with what compares it to other seeds and to the next larger size."""
    rows = []
    for i, (size, of_size) in enumerate(zip(o.sizes, by_size, strict=True)):
        larger = by_size[i + 1] if i + 1 < len(by_size) else None
        for world, l1, seed in np.ndindex(of_size.alive.shape[:3]):
            at = world, l1, seed
            other = world, l1, seed - 1  # the first is compared with the last
            own = of_size.W_dec[at], of_size.alive[at]
            pair = (own[0], of_size.W_dec[other], own[1], of_size.alive[other])
            row = {name: values[at] for name, values in of_size.columns.items()}
            row |= {"size": size, "l1": o.l1[l1], "world_seed": world, "sae_seed": seed}
            row |= {"mmcs_seeds": float(found_in(*pair)), "stability": matched_cosine(*pair)}
            row |= {"mmcs_larger": np.nan, "plateau": np.nan}
            if larger is not None:
                # One seed starts dictionaries of all sizes from the same rows: another one's.
                bigger = own[0], larger.W_dec[other], own[1], larger.alive[other]
                row["mmcs_larger"] = float(found_in(*bigger))
                row["plateau"] = larger.columns["mse"][at] / row["mse"] - 1
            rows.append(row)
    return pd.DataFrame(rows)


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Of each task, world and signal; SAEs that diverged or all of whose latents died are out."""
    kept = table[~table["diverged"].astype(bool) & (table["alive"] > 0)]
    # The largest size has no larger one, so no signal may be judged on it alone.
    kept = kept[kept["size"] < kept["size"].max()]
    fixed = {"all": [], "size": ["size"], "l1": ["l1"]}
    return pd.concat(
        [rank_correlations(kept, list(SIGNALS), ["mmcs"], ["world"], fixed[task]).assign(task=task)
         for task in TASKS],
        ignore_index=True,
    )  # fmt: skip


def run(o: Options, out_dir: Path, figures_dir: Path) -> None:
    """Trains the grids, draws correlations and regret, and the signals themselves."""
    check(o)
    table = measure(o)
    table.to_csv(out_dir / "table.csv", index=False)
    frame = correlations(table)
    for task, title in TASKS.items():
        part = frame[frame["task"] == task].pivot(index="signal", columns="world", values="mean")
        print(f"{title}: rank correlation with true mmcs, mean over world seeds")
        print(part.loc[list(SIGNALS), list(o.worlds)].round(2).to_string(), flush=True)
    note = (
        f"{len(table)} runs of {o.recipe}, {o.world_seeds} world seeds, {o.sae_seeds} SAE seeds; "
        f"random unit directions in d_in {o.d_in}, ratio {o.ratio:g} unless said, true L0 "
        f"{o.l0:g}; "
        f"d_sae / n_features {', '.join(f'{s:g}' for s in o.sizes)}, the largest only to compare "
        f"with; L1 {', '.join(f'{v:g}' for v in o.l1)}; {o.n_steps:,} steps, "
        f"{o.n_steps * o.batch_size:,} samples per run"
    )
    bars = f"{note}; ± 95 %, Student's t over world seeds"
    title = "What signals without truth are worth: against true mmcs"
    save(*draw.correlation_bars(frame, SIGNALS, TASKS, title, bars), figures_dir, "worth")
    shown = table[table["size"] < table["size"].max()]
    save(*draw.signals_against_truth(shown, SIGNALS, title, note), figures_dir, "signals")


study = Study(
    question="Which of the signals that need no truth can a practitioner trust to choose the L1 "
    "and the size of an SAE?",
    expected="The interim report's MMCS with larger dictionaries should follow true recovery "
    "closely; explained variance should not.",
    run_time="about 15 CPU minutes",
    options=Options(),
    smoke={
        "d_in": 8, "worlds": ("uniform",), "sizes": (0.5, 1.0), "l1": (0.03, 0.2, 0.6),
        "world_seeds": 2, "n_steps": 200, "batch_size": 64, "n_eval": 1024, "l0": 1.5,
    },
    run=run,
)  # fmt: skip
