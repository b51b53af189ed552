"""When does untying the encoder help?

Pairs of features have cosine rho and fire from never to always together. The dual vector
(a - rho b) / (1 - rho^2) reads a without reading b, and only an untied encoder can hold it. A tied
unit-norm encoder also loses gain to L1; "tied-gain" ties the direction and frees the gain, so that
rho is not confounded with shrinkage.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from toysae.points import grid
from toysae.recovery import best_coefficient
from toysae.runs.cell import Cell
from toysae.runs.results import Results
from toysae.runs.worlds import Worlds
from toysae.sae import SAESpec, make_spec
from toysae.sae.decoders import UnitNorm
from toysae.sae.geometry_penalties import EncDecSimilarity
from toysae.sae.penalties import L1, Sum
from toysae.sweeps.study import Drawing, Study, check_sizes

from .figures import tying_curves, tying_differences
from .measure import PairScores

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
        l1_coeff: coefficients; each world gets the one that is best on the other seeds.
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
    l1_coeff: tuple[float, ...] = (0.06, 0.12, 0.25, 0.5)
    arms: tuple[str, ...] = ("tied", "tied-gain", "untied", "similarity")
    similarity_coeff: float = 0.01
    n_steps: int = 3000
    batch_size: int = 128
    lr: float = 3e-3
    n_eval: int = 8192


def arms(o: Options) -> dict[str, tuple[SAESpec, dict[str, float]]]:
    """The spec and the own hypers of each arm by its label; arms differ only in the encoder, and
    "similarity" in its penalty."""
    by_label = {}
    for arm in o.arms:
        label, recipe, own, penalty = arm, arm, {}, Sum((L1(),))
        if arm == "similarity":
            label, recipe = f"untied + {o.similarity_coeff:g} similarity loss", "untied"
            own, penalty = {"similarity_coeff": o.similarity_coeff}, Sum((L1(), EncDecSimilarity()))
        spec = make_spec(recipe, o.d_in, o.d_in, decoder=UnitNorm("none"), penalty=penalty)
        by_label[label] = (spec, own)
    return by_label


def pairs(o: Options) -> Worlds:
    """Worlds of orthogonal pairs with cosine `rho` and joint firing within a pair, one for every
    combination and seed."""
    return Worlds.each(
        "pairs", range(o.world_seeds),
        grid(magnitude_spread=o.spread, co_occurrence=o.co_occurrence, rho=o.rho),
        d_in=o.d_in, n_features=o.d_in, l0=o.p * o.d_in, firing="pairs", magnitude="normal",
    )  # fmt: skip


def cells(o: Options) -> list[Cell]:
    """A cell for each arm; all arms see the same worlds and samples."""
    check_sizes(o)
    return [
        Cell(
            name=arm.replace(" ", "-"),
            data=pairs(o),
            spec=spec,
            members=grid(l1_coeff=o.l1_coeff, lr=o.lr, lr_decay=0.3, **own),
            sae_seeds=(0,),
            n_steps=o.n_steps,
            batch_size=o.batch_size,
            measure=PairScores(o.n_eval),
            columns={"arm": arm},
        )
        for arm, (spec, own) in arms(o).items()
    ]


def best(results: Results) -> pd.DataFrame:
    """The SAE of every arm in every world at the L1 that is best on the other seeds."""
    table = results.table.rename(columns={"magnitude_spread": "spread"})
    return best_coefficient(table, [*SETTING, "arm"], "l1_coeff")


def answer(o: Options, results: Results) -> dict[str, pd.DataFrame]:
    """Means over worlds for each arm and kind of pair."""
    shown = best(results).groupby(["arm", *SETTING])[["mmcs", "f1", "l0_ratio"]].mean()
    return {"best_l1": shown.round(3).reset_index()}


def draw(o: Options, results: Results) -> Iterator[Drawing]:
    """Curves over the cosine of a pair, and maps of paired differences."""
    chosen = best(results)
    unmatched = int((~chosen["l0_matched"]).sum())
    note = (
        f"{len(chosen) * len(o.l1_coeff)} runs, {o.world_seeds} world seeds, {o.d_in // 2} pairs a "
        f"world, each feature on with probability {o.p:g}; d_in {o.d_in}, d_sae {o.d_in}, "
        f"unit-norm decoder without bias; {o.n_steps:,} steps, {o.n_steps * o.batch_size:,} "
        f"samples per run; L1 of {', '.join(f'{v:g}' for v in o.l1_coeff)} chosen by mmcs on the "
        f"other seeds at L0 within 2× of the truth ({unmatched} of {len(chosen)} chosen runs had "
        "none); ± 95 %, Student's t over world seeds"
    )
    names = {0.0: "exclusive", o.p: "independent", 1.0: "always together"}
    columns = {c: f"co-occurrence {c:g}" + f"\n{names.get(c, '')}" for c in o.co_occurrence}
    rows = {s: f"magnitudes 1 ± {s:g}" if s else "magnitudes 1" for s in o.spread}
    for spread, name in rows.items():
        part = chosen[chosen["spread"] == spread]
        title = f"pairs at cosine ρ, {name}"
        yield f"curves_spread_{spread:g}", *tying_curves(part, columns, title, note)
    scores = {"mcs_above_0.95": "share with MCS > .95", "f1": "F1 of the best latent"}
    others = [arm for arm in o.arms if arm in ("tied", "tied-gain")]
    if "untied" in o.arms and others:
        title = "what untying the encoder adds"
        yield "differences", *tying_differences(chosen, "untied", others, scores, rows, title, note)


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
        "l1_coeff": (0.12, 0.25), "n_steps": 60, "n_eval": 1024,
    },
    cells=cells,
    answer=answer,
    draw=draw,
)  # fmt: skip
