"""How fast SAEs train, in turns with the highest rates of the device or with the plain SAE."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..sae.arithmetic import FUSED, SPARSE
from ..training import TrainState, advance, start
from ..training.devices import layout_of
from ..training.ensemble import spread_ensemble
from ..training.memory import training_bytes
from ..training.ways import Ways, dense
from .counts import preset_step_flops, step_bytes
from .device import copy_rate, matmul_rate, peak_bytes
from .presets import (
    BENCH_PRESETS,
    GPU_PRESETS,
    GRID_PRESETS,
    RECIPE_PRESETS,
    Preset,
    preset_ensemble,
)
from .timing import median, seconds_of

BASELINE = "untied"
DENSE_STEPS = 500
"""Those before sparse steps are timed, while many latents are active."""


class Trainer:
    """An ensemble in training, compiled and at a steady rate.

    Attributes:
        chunk: steps that take about `seconds`.
        compile_s: seconds of the first step.
    """

    def __init__(self, p: Preset, seconds: float):
        self.preset, self.total = p, jnp.float32(1e6)
        ensemble = preset_ensemble(p)
        self.planned = training_bytes(ensemble)
        self.layout = layout_of(len(ensemble.world_seeds), len(ensemble.sae_seeds))
        is_sparse, spec = p.arithmetic == SPARSE, dense(ensemble.spec)
        ensemble = spread_ensemble(replace(ensemble, spec=spec), self.layout)
        self.state: TrainState = start(ensemble, self.layout)
        self.ensemble = ensemble.once_started()
        if is_sparse:
            self.train(DENSE_STEPS)
            self.ensemble = Ways(True, taken=[(0, SPARSE)]).taking(self.ensemble)
        self.n_params = sum(leaf.size for leaf in jax.tree.leaves(self.state.members.params))
        self.compile_s = self.train(1)
        self.chunk = max(int(seconds * 10 / self.train(10)), 10)

    def train(self, n_steps: int) -> float:
        """Trains this many steps more and returns their seconds."""
        until = self.state.step + n_steps

        def steps() -> Any:
            self.state = advance(self.state, self.ensemble, until, self.total, self.layout)
            return self.state.loss

        return seconds_of(steps)

    def rate(self) -> float:
        """SAE-samples/s of `chunk` steps more."""
        samples = self.chunk * self.preset.batch_size * self.preset.n_members
        return samples / self.train(self.chunk)


def rate_row(p: Preset, samples: list[float]) -> dict[str, Any]:
    """The columns of a preset and of its SAE-samples/s."""
    return {
        "recipe": p.recipe,
        "shape": p.shape,
        "SAEs": p.n_members,
        "batch": p.batch_size,
        "arithmetic": p.arithmetic,
        "k SAE-samples/s": median(samples, -2) / 1e3,
        "low": round(min(samples) / 1e3, 1),
        "high": round(max(samples) / 1e3, 1),
    }


def time_preset(
    name: str, seconds: float, rounds: int, arithmetic: str = "float32"
) -> dict[str, Any]:
    """Returns a row: SAE-samples/s, and their shares of the device's own matmul and copy rates.

    A share is the median over rounds of what :mod:`.counts` counts for the steps of a round,
    divided by the device's rate in that round. Small SAEs stay in a CPU's caches, so that their
    share of the copy rate, which is that of memory, can be above 1.
    """
    p = (BENCH_PRESETS | GPU_PRESETS | GRID_PRESETS)[name]
    p = replace(p, arithmetic=arithmetic) if p.arithmetic == "float32" else p
    if p.arithmetic == FUSED and jax.default_backend() == "cpu":
        return {"preset": name, "not timed": "a CPU runs its kernels by Pallas' interpreter"}
    trainer = Trainer(p, seconds)
    peak = peak_bytes()  # before the arrays that the device's rates are measured on
    timed = [
        (trainer.rate(), matmul_rate(), matmul_rate(jnp.bfloat16), copy_rate())
        for _ in range(rounds)
    ]
    samples, matmul, matmul_bf16, copy = map(list, zip(*timed, strict=True))
    flops, moved = preset_step_flops(p), step_bytes(p, trainer.n_params)

    def share(of_step: int, rates: list[float]) -> float:
        done = np.array(samples) * of_step / (p.batch_size * p.n_members)
        return median(done / np.array(rates), 3)

    return {
        "preset": name,
        **rate_row(p, samples),
        "MFLOP a step": round(flops / 1e6, 1),
        "MB a step": round(moved / 1e6, 1),
        "share of matmul": share(flops, matmul),
        "of bf16 matmul": share(flops, matmul_bf16),
        "of copy": share(moved, copy),
        "matmul GFLOP/s": median(matmul, -8) / 1e9,
        "bf16 matmul GFLOP/s": median(matmul_bf16, -8) / 1e9,
        "copy GB/s": median(copy, -8) / 1e9,
        "compile s": round(trainer.compile_s, 2),
        "peak MB": round(peak / 1e6, 1),
        "planned MB": round(trainer.planned / 1e6, 1),
        "rounds": {
            "SAE-samples/s": samples,
            "matmul FLOP/s": matmul,
            "bf16 matmul FLOP/s": matmul_bf16,
            "copy byte/s": copy,
        },
    }


def time_recipe(
    name: str, seconds: float, rounds: int, arithmetic: str = "float32"
) -> dict[str, Any]:
    """Returns a row: a recipe's rate compared with the plain SAE's of the same size, in turns."""
    p = replace(RECIPE_PRESETS[name], arithmetic=arithmetic)
    plain, trainer = (Trainer(one, seconds) for one in (replace(p, recipe=BASELINE), p))
    timed = [(plain.rate(), trainer.rate()) for _ in range(rounds)]
    baseline, samples = map(list, zip(*timed, strict=True))
    return {
        "preset": name,
        **rate_row(p, samples),
        f"of {BASELINE}": median(np.array(samples) / np.array(baseline), 3),
        "compile s": round(trainer.compile_s, 2),
        "rounds": {"SAE-samples/s": samples, f"{BASELINE} SAE-samples/s": baseline},
    }
