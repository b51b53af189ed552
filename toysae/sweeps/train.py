"""`train`, for notebooks: one world, one recipe, any grid of numbers and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from .. import checked
from ..bits import in_32_bits
from ..errors import require
from ..evaluation.scoring import score_ensemble
from ..lazy import pd
from ..points import Points, grid
from ..recovery.probe import recovery_probe
from ..runs.progress import Progress
from ..sae import SAE, SAESpec, make_spec
from ..training import Trained, train_ensemble
from ..training.devices import UNSPLIT, Split
from ..training.members import fallback, make_ensemble
from ..watch import about, doing, watching
from ..worlds import World

_MEANT = {
    "batch": "batch_size", "device": "nothing: jax chooses", "epochs": "n_steps", "l1": "l1_coeff",
    "learning_rate": "lr", "n_latents": "d_sae", "seed": "sae_seeds or data_seed",
    "seeds": "sae_seeds", "sparsity": "l1_coeff or k", "steps": "n_steps",
}  # fmt: skip
"""Names of arguments in other libraries -> their names here."""


@dataclass(frozen=True)
class TrainResult:
    """Trained and scored SAEs.

    Attributes:
        table: one row for each SAE, numbers and scores.
        arrays: by row: `mcs [rows, n_features]`, `curve_mmcs [rows, points]`, ...
        trained: the ensemble itself, leading axes `[1, n_members]`.
    """

    table: pd.DataFrame
    arrays: dict[str, np.ndarray]
    trained: Trained

    def __repr__(self) -> str:
        world = self.table["world"].iloc[0] if "world" in self.table else "a world"
        return f"TrainResult({len(self.table)} SAEs on {world}: table, arrays, sae(row))"

    def sae(self, row: int) -> SAE:
        """One trained SAE, ready to call.

        Raises:
            ToysaeError: no such row.
        """
        n = len(self.table)
        row = checked.integer("row", row, 0, n - 1)
        return jax.tree.map(lambda leaf: leaf[0, row], self.trained.saes)


@in_32_bits
def train(
    world: World,
    recipe: str | SAESpec = "untied",
    *,
    d_sae: int | None = None,
    init: str | None = None,
    n_steps: int = 10_000,
    batch_size: int = 256,
    sae_seeds: Sequence[int] = (0,),
    data_seed: int = 0,
    n_eval: int = 65_536,
    curve_points: int = 40,
    quiet: bool = False,
    settings: str = "toy",
    arithmetic: str = "float32",
    split: Split = UNSPLIT,
    points: Points | None = None,
    **hypers: float | Sequence[float],
) -> TrainResult:
    """Trains every combination of the given numbers and seeds in one compiled program.

    Args:
        world: that the data come from.
        recipe: a recipe's name, or a whole spec.
        d_sae: number of latents; as many as features if not given. Not with a spec.
        init: the name of an init other than the recipe's own. Not with a spec.
        n_steps: Adam steps.
        batch_size: samples a step, shared by all SAEs.
        sae_seeds: of the initialisation.
        data_seed: of the data stream and the evaluation sample.
        n_eval: samples that the scores are measured on.
        curve_points: about how many points the learning curves have.
        quiet: no progress bar.
        settings: the source of numbers that are not given: "toy", the row of
            :data:`toysae.sae.RECIPES`, all but the one that sparsity depends on; or "paper", the
            recipe's source. With a spec, the defaults of its components.
        arithmetic: of the large products of a training step: "float32" takes sparse ones where
            they are faster, see :mod:`toysae.training.ways`, "dense" and "sparse" say which;
            "bfloat16" is up to twice as fast where the device has it; "fused" takes the steps of
            plain SAEs (Untied or Tied, ReLU, L1) in kernels that keep z out of memory, for GPUs and
            TPUs, where it has not been timed. Not with a spec, which has its own.
        split: how each SAE is split among several devices: by samples, latents or both.
        points: of numbers that the recipe reads, if not every combination is wanted, see
            :mod:`toysae.points`; each is trained with every combination of `hypers`.
        **hypers: numbers that the recipe reads, one or a list: ``l1_coeff=[0.03, 0.1]``,
            ``lr=1e-3``, ``lr_decay=0.2``, ``k=8``.

    Returns:
        The table, the arrays and the SAEs.

    Raises:
        ToysaeError: bad input, before anything trains.
    """
    _refuse_other_kinds(world, recipe, hypers)
    n_steps = checked.integer("n_steps", n_steps, 1, 2**31 - 1)
    n_eval = checked.integer("n_eval", n_eval, 1, 2**31 - 1)
    batch_size = checked.integer("batch_size", batch_size, 1)
    curve_points = checked.integer("curve_points", curve_points, 1, 100_000)
    data_seed = checked.seed("data_seed", data_seed)
    if isinstance(recipe, SAESpec):
        own = d_sae is None and init is None and arithmetic == "float32"
        require(own, "d_sae, init and arithmetic belong into the spec given")
        toy = settings == "toy"
        require(toy, f"settings {settings!r} are a recipe's: give its name, or numbers")
        spec = recipe
    else:
        spec, numbers = _of_recipe(recipe, world, d_sae, init, arithmetic, settings)
        given = points.names if points else ()
        hypers = {**{n: v for n, v in numbers.items() if n not in given}, **hypers}
    wanted = grid(**hypers) * (points or Points())
    ensemble = make_ensemble([world], [data_seed], spec, wanted, sae_seeds, batch_size, split)
    a_step = ensemble.n_rows * batch_size
    with watching("A call of train keeps nothing"), about(f"training on {world.name}"):
        with Progress({world.name: n_steps * a_step}, quiet) as progress:
            trained = train_ensemble(
                ensemble,
                n_steps,
                recovery_probe,
                curve_points,
                on_chunk=lambda edge: progress.update(world.name, edge.step * a_step),
            )
        doing("scoring", phase="scoring")
        return TrainResult(*score_ensemble(ensemble, trained, n_steps, n_eval), trained)


def _refuse_other_kinds(world: object, recipe: object, hypers: Mapping[str, object]) -> None:
    require(
        isinstance(world, World),
        f"{checked.shown(world)} is not a world: give make_world('sphere'), say",
    )
    require(
        isinstance(recipe, str | SAESpec),
        f"{checked.shown(recipe)} is not a recipe's name or an SAESpec: give one at a time, or "
        "several to an Experiment",
    )
    for name in hypers:
        hint = _MEANT.get(name)
        require(hint is None, f"unknown argument {name!r}: write {hint}")


def _of_recipe(
    recipe: str, world: World, d_sae: int | None, init: str | None, arithmetic: str, settings: str
) -> tuple[SAESpec, dict[str, float]]:
    """The spec of a recipe on a world, and its numbers."""
    d_sae = world.n_features if d_sae is None else d_sae
    spec = make_spec(recipe, world.d_in, d_sae, init, arithmetic=arithmetic)
    return spec, fallback(recipe, spec, settings)
