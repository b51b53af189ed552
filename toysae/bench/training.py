"""How fast SAEs train: one group at a time, in turns with the matmul rate or the plain SAE."""

import time
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from ..sae import RECIPES, make_spec
from ..sweeps.members import make_group
from ..training import Group, TrainState, advance, start
from ..worlds import make_world
from .matmul import matmul_rate


@dataclass(frozen=True)
class Preset:
    """One timed group: `n_members` SAEs on one sphere world."""

    recipe: str
    d_in: int
    n_features: int
    d_sae: int
    n_members: int
    batch_size: int = 256


PRESETS = {
    "small": Preset("untied", 64, 128, 256, 1),
    "small-tied": Preset("tied", 64, 128, 256, 1),
    "small-sweep": Preset("untied", 64, 128, 256, 16),
    "small-sweep-tied": Preset("tied", 64, 128, 256, 16),
    "medium": Preset("untied", 256, 512, 1024, 1),
    "medium-sweep": Preset("untied", 256, 512, 1024, 8),
}


def _recipe_presets() -> dict[str, Preset]:
    """Every compiled program among the recipes at two sizes, by `recipe@size`."""
    sizes = {"small": (64, 128, 256, 4), "medium": (256, 512, 1024, 1)}
    programs = {make_spec(name, 16, 32).once_started(): name for name in reversed(RECIPES)}
    return {
        f"{recipe}@{size}": Preset(recipe, *shape)
        for size, shape in sizes.items()
        for recipe in reversed(programs.values())
    }


RECIPE_PRESETS = _recipe_presets()
BASELINE = "untied"


def group_of(p: Preset) -> Group:
    world = make_world("sphere", d_in=p.d_in, n_features=p.n_features)
    spec = make_spec(p.recipe, p.d_in, p.d_sae)
    numbers = RECIPES[p.recipe].toy
    return make_group([world], [0], spec, numbers, range(p.n_members), p.batch_size)


class Trainer:
    """One group in steady training: `rate()` trains about `seconds` more and measures."""

    def __init__(self, p: Preset, seconds: float):
        self.preset, self.group, self.total = p, group_of(p), jnp.float32(1e6)
        self.compile_s = self._until(1, start(self.group))
        self.chunk = max(int(seconds * 10 / self._until(11)), 10)

    def _until(self, step: int, state: TrainState | None = None) -> float:
        begun = time.perf_counter()
        self.state = advance(state or self.state, self.group, jnp.int32(step), self.total)
        self.state.loss.block_until_ready()
        return time.perf_counter() - begun

    def rate(self) -> float:
        """SAE-samples/s."""
        samples = self.chunk * self.preset.batch_size * self.preset.n_members
        return samples / self._until(int(self.state.step) + self.chunk)


def _described(p: Preset, samples: list[float]) -> dict[str, float | str]:
    return {
        "recipe": p.recipe,
        "shape": f"d {p.d_in} / {p.n_features} features / {p.d_sae} latents",
        "SAEs": p.n_members,
        "k SAE-samples/s": round(float(np.median(samples)) / 1e3, 1),
        "low": round(min(samples) / 1e3, 1),
        "high": round(max(samples) / 1e3, 1),
    }


def time_preset(name: str, seconds: float, rounds: int) -> dict[str, float | str]:
    p = PRESETS[name]
    trainer = Trainer(p, seconds)
    timed = [(matmul_rate(), trainer.rate()) for _ in range(rounds)]
    matmul, samples = map(list, zip(*timed, strict=True))
    share = np.median(np.array(samples) / np.array(matmul)) * 10 * p.d_in * p.d_sae
    return {
        "preset": name,
        **_described(p, samples),
        "share of matmul": round(float(share), 3),
        "matmul GFLOP/s": round(float(np.median(matmul)) / 1e9, 1),
        "compile s": round(trainer.compile_s, 2),
    }


def time_recipe(name: str, seconds: float, rounds: int) -> dict[str, float | str]:
    """A recipe's rate beside the plain SAE's of the same size, the two taking turns."""
    p = RECIPE_PRESETS[name]
    plain, trainer = (Trainer(one, seconds) for one in (replace(p, recipe=BASELINE), p))
    timed = [(plain.rate(), trainer.rate()) for _ in range(rounds)]
    baseline, samples = map(list, zip(*timed, strict=True))
    ratio = np.median(np.array(samples) / np.array(baseline))
    return {
        "preset": name,
        **_described(p, samples),
        f"of {BASELINE}": round(float(ratio), 3),
        "compile s": round(trainer.compile_s, 2),
    }
