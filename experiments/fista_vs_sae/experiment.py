"""Do FISTA dictionaries have the lower loss and the worse recovery, and where does an SAE lose?

Encoders from tied to FISTA over one and the same kind of dictionary. The frontier shows loss and
recovery at equal L0; the gaps split each SAE's objective into what its encoder loses to the best
codes (amortisation) and what its dictionary loses to the true one.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from toysae.plotting import amortisation as draw
from toysae.plotting.style import save
from toysae.recovery import (
    add_batch,
    cosines,
    empty_totals,
    fista_codes,
    mcc,
    mcs,
    summarise,
)
from toysae.recovery.amortisation import gap_decomposition
from toysae.recovery.probe import recovery_probe
from toysae.sae import SAE, make_spec
from toysae.sae.decoders import UnitNorm
from toysae.sweeps.study import Study, check_sizes
from toysae.training import train_group
from toysae.training.members import make_group
from toysae.training.state import keys_of
from toysae.worlds import World, make_world
from toysae.worlds.world import stack

LADDER = ("tied", "tied-gain", "untied", "mlp", "lista", "fista")


@dataclass(frozen=True)
class Options:
    """Worlds, ladder and training.

    Attributes:
        d_in: input dimension.
        ratios: n_features / d_in of each world; d_sae = n_features.
        l0: mean active features in a sample.
        rungs: recipes, from the cheapest encoder to FISTA.
        l1: coefficients.
        world_seeds: the n of every interval.
        n_steps: Adam steps.
        batch_size: samples a step.
        lr: learning rate, which falls over the last 30 %.
        n_eval: samples that each SAE is scored on.
        n_gap: the first of them, that the objective is split on.
        n_iterations: FISTA steps of the best codes there.
    """

    d_in: int = 16
    ratios: tuple[float, ...] = (1.5, 4.0)
    l0: float = 2.0
    rungs: tuple[str, ...] = LADDER
    l1: tuple[float, ...] = (0.03, 0.1, 0.2, 0.35, 0.5, 0.8)
    world_seeds: int = 3
    n_steps: int = 4000
    batch_size: int = 128
    lr: float = 3e-3
    n_eval: int = 8192
    n_gap: int = 1024
    n_iterations: int = 300


def measure(o: Options) -> pd.DataFrame:
    """Every rung on every world at every L1: one row an SAE, its scores and its gaps.

    All rungs have the same unit-norm decoder without bias and see the same samples. The true
    dictionary with FISTA codes is one more rung, scored and not trained.
    """
    tables = []
    seeds = range(o.world_seeds)
    for ratio in o.ratios:
        n = round(ratio * o.d_in)
        made = [make_world("sphere", s, d_in=o.d_in, n_features=n, l0=o.l0) for s in seeds]
        places = pd.DataFrame(
            {
                "ratio": ratio,
                "world_seed": np.repeat(seeds, len(o.l1)),
                "l1_coeff": np.tile(o.l1, len(seeds)),
            }
        )
        for rung in o.rungs:
            spec = make_spec(rung, o.d_in, n, decoder=UnitNorm("none"))
            hypers = {"l1_coeff": o.l1, "lr": o.lr, "lr_decay": 0.3}
            group = make_group(made, seeds, spec, hypers, [0], o.batch_size)
            trained = train_group(group, o.n_steps, recovery_probe, 2)
            scores = score(trained.saes, group.worlds, group.world_seeds, *_sizes(o))
            diverged = trained.diverged.ravel()
            tables.append(places.assign(rung=rung, diverged=diverged, **_columns(scores)))
            print(f"ratio {ratio:g}, {rung}: {len(places)} SAEs", flush=True)
        keys = jnp.arange(o.world_seeds, dtype=jnp.int32)
        scores = score_truth(stack(made), keys, jnp.asarray(o.l1), *_sizes(o)[::2])
        tables.append(places.assign(rung=draw.TRUTH, diverged=False, **_columns(scores)))
    return pd.concat(tables, ignore_index=True)


def _sizes(o: Options) -> tuple[int, int, int]:
    return o.n_eval, o.n_gap, o.n_iterations


def _columns(scores: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """`[n_worlds, n_members]` to rows; the signed MCC is matched on the host."""
    host = jax.device_get(scores)
    cos = host.pop("cosines", None)
    if cos is not None:
        host["mcc"] = np.array([mcc(c) if np.isfinite(c).all() else np.nan
                                for c in cos.reshape(-1, *cos.shape[2:])])  # fmt: skip
    return {name: np.asarray(value).ravel() for name, value in host.items()}


@partial(jax.jit, static_argnames=("n", "n_gap", "n_iterations"))
def score(
    saes: SAE, worlds: World, world_seeds: jax.Array, n: int, n_gap: int, n_iterations: int
) -> dict[str, jax.Array]:
    """Loss, recovery and gaps of every SAE on fresh samples, leading axes [worlds, members]."""

    def in_world(of_world: tuple[World, jax.Array, SAE]) -> dict[str, jax.Array]:
        world, key, saes = of_world
        batch = world.sample(key, n)

        def one(sae: SAE) -> dict[str, jax.Array]:
            f, x, found = sae(batch.x), batch.x[:n_gap], mcs(world.directions, sae.W_dec)
            gaps = gap_decomposition(
                x, f.z[:n_gap], sae.W_dec, world.directions, sae.hypers["l1_coeff"], n_iterations
            )
            return {
                **_reconstruction(batch.x, f.x_hat, f.z),
                "true_l0": (batch.feature_acts != 0).sum(1).mean(),
                "mmcs": found.mean(),
                "mcs_above_0.9": (found > 0.9).mean(),
                "cosines": cosines(world.directions, sae.W_dec),
                **vars(gaps),
            }

        return jax.lax.map(one, saes)

    return jax.lax.map(in_world, (worlds, keys_of(world_seeds, "evaluation"), saes))


@partial(jax.jit, static_argnames=("n", "n_iterations"))
def score_truth(
    worlds: World, world_seeds: jax.Array, l1: jax.Array, n: int, n_iterations: int
) -> dict[str, jax.Array]:
    """Loss of FISTA codes in the true dictionary at each L1, `[n_worlds, n_l1]`."""

    def in_world(of_world: tuple[World, jax.Array]) -> dict[str, jax.Array]:
        world, key = of_world
        batch = world.sample(key, n)

        def one(l1_coeff: jax.Array) -> dict[str, jax.Array]:
            codes = fista_codes(batch.x, world.directions, l1_coeff, n_iterations)
            true_l0 = (batch.feature_acts != 0).sum(1).mean()
            return {
                **_reconstruction(batch.x, codes @ world.directions, codes),
                "true_l0": true_l0,
            }

        return jax.lax.map(one, l1)

    return jax.lax.map(in_world, (worlds, keys_of(world_seeds, "evaluation")))


def _reconstruction(x: jax.Array, x_hat: jax.Array, z: jax.Array) -> dict[str, jax.Array]:
    totals = summarise(add_batch(empty_totals(x.shape[1], z.shape[1]), x, x_hat, z))
    return {name: totals[name] for name in ("mse", "ev", "l0")}


def at_equal_l0(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of each rung on each world where its L0 is the truth's, interpolated in ln L0.

    NaN where a rung's L1 grid does not reach that L0.
    """
    rows = []
    for (ratio, rung, seed), part in table.groupby(["ratio", "rung", "world_seed"], sort=False):
        part = part[~part["diverged"]].sort_values("l0")
        part = part[part["l0"] > 0]
        wanted, has = np.log(part["true_l0"].mean()), np.log(part["l0"].to_numpy(float))
        scores = {
            name: np.interp(wanted, has, part[name].to_numpy(float), np.nan, np.nan)
            if len(part)
            else np.nan
            for name in draw.SCORES
        }
        rows.append({"ratio": ratio, "rung": rung, "world_seed": seed, **scores})
    return pd.DataFrame(rows)


def run(o: Options, out_dir: Path, figures_dir: Path) -> None:
    """Trains the ladder, draws the frontier and the gaps."""
    check_sizes(o)
    table = measure(o)
    table.to_csv(out_dir / "table.csv", index=False)
    equal = at_equal_l0(table)
    equal.to_csv(out_dir / "equal_l0.csv", index=False)
    print("at the true L0, mean over world seeds")
    print(equal.groupby(["ratio", "rung"], sort=False)[list(draw.SCORES)].mean().round(3)
          .to_string(), flush=True)  # fmt: skip
    _draw(o, table, equal, figures_dir)


def _draw(o: Options, table: pd.DataFrame, equal: pd.DataFrame, figures_dir: Path) -> None:
    trained = table[table["rung"] != draw.TRUTH]
    note = (
        f"{len(trained)} runs, {o.world_seeds} world seeds; random unit directions in d_in "
        f"{o.d_in}, true L0 {o.l0:g}, d_sae = n_features, unit-norm decoder without bias; "
        f"{o.n_steps:,} steps, {o.n_steps * o.batch_size:,} samples per run; L1 "
        f"{', '.join(f'{v:g}' for v in o.l1)}; ± 95 %, Student's t over world seeds"
    )
    fig, frame = draw.frontier(table, note)
    save(fig, frame, figures_dir, "frontier")
    fig, frame = draw.at_true_l0(equal, note + "; interpolated in ln L0")
    save(fig, frame, figures_dir, "equal_l0")
    worst = (trained["unconverged"] / trained["truth"]).max()
    codes = (
        f"{o.n_gap:,} samples; best codes: {o.n_iterations} FISTA steps, their mean objective "
        f"off by at most {worst:.2%} of the truth's"
    )
    fig, frame = draw.gaps(trained, f"{note}; {codes}")
    save(fig, frame, figures_dir, "gaps")


study = Study(
    question="Do FISTA dictionaries have the lower loss at equal L0 and the worse recovery than "
    "SAEs, and do SAEs lose by their encoder or by their dictionary?",
    expected="The stronger the encoder, the lower the loss at equal L0. Under interference the "
    "loss and the recovery need not agree.",
    run_time="about 6 CPU minutes",
    options=Options(),
    smoke={
        "d_in": 8, "ratios": (2.0,), "rungs": ("untied", "fista"), "l1": (0.06, 0.25),
        "world_seeds": 2, "n_steps": 100, "n_eval": 1024, "n_gap": 256, "n_iterations": 100,
    },
    run=run,
)  # fmt: skip
