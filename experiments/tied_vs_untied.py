"""When does untying the encoder help?

Pairs of features at cosine rho, from mutually exclusive to always together. The dual vector
(a - rho b) / (1 - rho^2) reads a without hearing b, and only an untied encoder can hold it. A
tied one must pay, and a unit-norm tied one also loses gain to L1; "tied-gain" ties the direction
and frees the gain, so that rho is not confounded with shrinkage.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from toysae.plotting import tying as draw
from toysae.plotting.style import save
from toysae.recovery import add_batch, best_coefficient, cosines, empty_totals, summarise
from toysae.recovery.probe import recovery_probe
from toysae.sae import SAE, SAESpec, make_spec
from toysae.sae.decoders import UnitNorm
from toysae.sae.geometry_penalties import EncDecSimilarity
from toysae.sae.penalties import L1, Sum
from toysae.study import Study, check_sizes
from toysae.training import train_group
from toysae.training.members import make_group
from toysae.training.state import keys_of
from toysae.worlds import World, make_world

SETTING = ["spread", "co_occurrence", "rho"]


@dataclass(frozen=True)
class Options:
    """Worlds, arms and training; every combination of the first three is a world.

    Attributes:
        rho: cosines within a pair.
        co_occurrence: share of a feature's firings that come with its partner's.
        spread: sd of the magnitudes, whose mean is 1.
        d_in: input dimension; also the number of features and of latents. Pairs are
            orthogonal to each other.
        p: firing probability of each feature; also the co-occurrence of independent ones.
        world_seeds: worlds of each kind; the n of every interval.
        l1: coefficients, of which each world gets the one best on the other seeds.
        arms: encoders; "similarity" is untied with a loss on the angle to its decoder.
        similarity_coeff: weight of that loss.
        n_steps: Adam steps.
        batch_size: samples a step.
        lr: learning rate, which falls over the last 30 %.
        n_eval: samples that each SAE is scored on.
    """

    rho: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8)
    co_occurrence: tuple[float, ...] = (0.0, 0.1, 0.4, 0.7, 1.0)
    spread: tuple[float, ...] = (0.0, 0.3)
    d_in: int = 16
    p: float = 0.1
    world_seeds: int = 5
    l1: tuple[float, ...] = (0.06, 0.12, 0.25, 0.5)
    arms: tuple[str, ...] = ("tied", "tied-gain", "untied", "similarity")
    similarity_coeff: float = 0.01
    n_steps: int = 3000
    batch_size: int = 128
    lr: float = 3e-3
    n_eval: int = 8192


def arms(o: Options) -> dict[str, tuple[SAESpec, dict[str, float]]]:
    """Spec and own hypers of each arm by its label; they differ in the encoder alone."""
    made = {}
    for arm in o.arms:
        label, recipe, own, penalty = arm, arm, {}, Sum((L1(),))
        if arm == "similarity":
            label, recipe = f"untied + {o.similarity_coeff:g} similarity loss", "untied"
            own, penalty = {"similarity_coeff": o.similarity_coeff}, Sum((L1(), EncDecSimilarity()))
        spec = make_spec(recipe, o.d_in, o.d_in, decoder=UnitNorm("none"), penalty=penalty)
        made[label] = (spec, own)
    return made


def pair_world(o: Options, seed: int, spread: float, co_occurrence: float, rho: float) -> World:
    """Orthogonal pairs; within each, cosine `rho` and joint firing."""
    return make_world(
        "pairs", seed, d_in=o.d_in, n_features=o.d_in, l0=o.p * o.d_in, firing="pairs",
        co_occurrence=co_occurrence, magnitude="normal", magnitude_spread=spread, rho=rho,
    )  # fmt: skip


def measure(o: Options) -> pd.DataFrame:
    """Every arm on every world at every L1: one row an SAE.

    All worlds of an arm are one compiled program; every arm sees the same worlds and samples.
    """
    settings = list(product(o.spread, o.co_occurrence, o.rho, range(o.world_seeds)))
    worlds = [pair_world(o, seed, *setting) for *setting, seed in settings]
    places = pd.DataFrame(settings, columns=pd.Index([*SETTING, "world_seed"]))
    places = places.loc[places.index.repeat(len(o.l1))].reset_index(drop=True)
    tables = []
    for arm, (spec, own) in arms(o).items():
        hypers = {"l1_coeff": o.l1, "lr": o.lr, "lr_decay": 0.3, **own}
        # A stream of samples for each world: its place in the list is its seed.
        group = make_group(worlds, range(len(worlds)), spec, hypers, [0], o.batch_size)
        trained = train_group(group, o.n_steps, recovery_probe, 2)
        scores = score(trained.saes, group.worlds, group.world_seeds, o.n_eval)
        columns = {name: np.asarray(value).ravel() for name, value in scores.items()}
        l1 = np.tile(o.l1, len(worlds))
        tables.append(
            places.assign(arm=arm, l1_coeff=l1, diverged=trained.diverged.ravel(), **columns)
        )
        print(f"{arm}: {len(l1)} SAEs", flush=True)
    table = pd.concat(tables, ignore_index=True)
    return table.assign(l0_ratio=table["l0"] / table["true_l0"])


@partial(jax.jit, static_argnames="n")
def score(saes: SAE, worlds: World, world_seeds: jax.Array, n: int) -> dict[str, jax.Array]:
    """Recovery, sparsity and detection on `n` fresh samples, each `[n_worlds, n_members]`.

    `f1` is the mean over features of how well the latent of the best cosine detects each one:
    F1 of z != 0 against the feature's firing.
    """

    def one(sae: SAE, world: World, x: jax.Array, on: jax.Array) -> dict[str, jax.Array]:
        f, cos = sae(x), cosines(world.directions, sae.W_dec)
        totals = summarise(add_batch(empty_totals(*sae.W_dec.shape[::-1]), x, f.x_hat, f.z))
        fires = (f.z != 0)[:, cos.argmax(1)]
        f1 = 2 * (on & fires).sum(0) / jnp.maximum(on.sum(0) + fires.sum(0), 1)
        return {
            "mmcs": cos.max(1).mean(), "mcs_above_0.95": (cos.max(1) > 0.95).mean(),
            "f1": f1.mean(), "l0": totals["l0"], "true_l0": on.sum(1).mean(), "ev": totals["ev"],
        }  # fmt: skip

    def in_world(of_world: tuple[World, jax.Array, SAE]) -> dict[str, jax.Array]:
        world, key, saes = of_world
        batch = world.sample(key, n)
        on = batch.feature_acts != 0
        return jax.vmap(one, (0, None, None, None))(saes, world, batch.x, on)

    # One world at a time, at the memory of one.
    return jax.lax.map(in_world, (worlds, keys_of(world_seeds, "evaluation"), saes))


def run(o: Options, out_dir: Path, figures_dir: Path) -> None:
    """Trains all arms, chooses each one's L1, draws curves and differences."""
    check_sizes(o)
    table = measure(o)
    table.to_csv(out_dir / "table.csv", index=False)
    chosen = best_coefficient(table, [*SETTING, "arm"], "l1_coeff")
    chosen.to_csv(out_dir / "chosen.csv", index=False)
    shown: Any = chosen.groupby(["arm", *SETTING])[["mmcs", "f1", "l0_ratio"]].mean()
    print(shown.unstack("rho").round(2).to_string(), flush=True)
    _draw(o, chosen, figures_dir)


def _draw(o: Options, chosen: pd.DataFrame, figures_dir: Path) -> None:
    unmatched = int((~chosen["l0_matched"]).sum())
    note = (
        f"{len(chosen) * len(o.l1)} runs, {o.world_seeds} world seeds, {o.d_in // 2} pairs a "
        f"world, each feature on with probability {o.p:g}; d_in {o.d_in}, d_sae {o.d_in}, "
        f"unit-norm decoder without bias; {o.n_steps:,} steps, {o.n_steps * o.batch_size:,} "
        f"samples per run; L1 of {', '.join(f'{v:g}' for v in o.l1)} chosen by mmcs on the other "
        f"seeds at L0 within 2× of the truth ({unmatched} of {len(chosen)} chosen runs had none); "
        "± 95 %, Student's t over world seeds"
    )
    names = {0.0: "exclusive", o.p: "independent", 1.0: "always together"}
    columns = {c: f"co-occurrence {c:g}" + f"\n{names.get(c, '')}" for c in o.co_occurrence}
    rows = {s: f"magnitudes 1 ± {s:g}" if s else "magnitudes 1" for s in o.spread}
    for spread, name in rows.items():
        part = chosen[chosen["spread"] == spread]
        fig, frame = draw.tying_curves(part, columns, f"pairs at cosine ρ, {name}", note)
        save(fig, frame, figures_dir, f"curves_spread_{spread:g}")
    scores = {"mcs_above_0.95": "share with MCS > .95", "f1": "F1 of the best latent"}
    others = [arm for arm in o.arms if arm in ("tied", "tied-gain")]
    if "untied" in o.arms and others:
        fig, frame = draw.tying_differences(
            chosen, "untied", others, scores, rows, "what untying the encoder adds", note
        )
        save(fig, frame, figures_dir, "differences")


study = Study(
    question="When does untying the encoder help: over the cosine of paired features, their "
    "co-occurrence and the spread of their magnitudes?",
    expected="At rho = 0 all arms agree. For rho > 0 a tied latent of a also fires on b; a free "
    "gain with a bias silences that only where magnitudes are constant and the pair exclusive. "
    "Features that always fire together with constant magnitudes are one feature to any SAE.",
    run_time="about 8 CPU minutes",
    options=Options(),
    smoke={
        "rho": (0.0, 0.8), "co_occurrence": (0.0,), "d_in": 8, "world_seeds": 2,
        "arms": ("tied", "similarity", "untied"), "spread": (0.3,),
        "l1": (0.12, 0.25), "n_steps": 60, "n_eval": 1024,
    },
    run=run,
)  # fmt: skip
