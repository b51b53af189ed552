"""The ensembles of SAEs that are timed, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..sae import RECIPES, make_spec
from ..training import Ensemble
from ..training.members import make_ensemble
from ..worlds import World, make_world


@dataclass(frozen=True)
class Preset:
    """A timed ensemble: `n_members` SAEs on one world.

    `world` is "sphere", with magnitudes as SAELens draws them, or the name of a published world,
    whose own sizes and `l0` must be given.
    """

    recipe: str
    d_in: int
    n_features: int
    d_sae: int
    n_members: int
    batch_size: int = 256
    world: str = "sphere"
    l0: float = 5.0
    arithmetic: str = "float32"

    @property
    def shape(self) -> str:
        """The sizes in words."""
        return f"d {self.d_in} / {self.n_features} features / {self.d_sae} latents"


BENCH_PRESETS = {
    # One SAE of a notebook: overheads and sampling weigh as much as its products.
    "small": Preset("untied", 64, 128, 256, 1),
    "small-tied": Preset("tied", 64, 128, 256, 1),
    # A sweep on a laptop: what an ensemble saves.
    "small-sweep": Preset("untied", 64, 128, 256, 16),
    "small-sweep-tied": Preset("tied", 64, 128, 256, 16),
    # Products take most of the time, at the batch size of a laptop and at SAELens' default.
    "medium": Preset("untied", 256, 512, 1024, 1),
    "medium-sweep": Preset("untied", 256, 512, 1024, 8),
    "medium-1024": Preset("untied", 256, 512, 1024, 1, 1024),
    # The width of a small language model: products alone, and parameters beyond the caches.
    "large": Preset("untied", 768, 1536, 4096, 1, 1024),
}

_FILLS = Preset("untied", 64, 128, 256, 512)
_SYNTH = Preset("untied", 768, 16_384, 4096, 1, 1024, "synth-sae-bench-16k", 34.4)
GPU_PRESETS = {
    # An ensemble that fills a GPU.
    "small-512": _FILLS,
    "small-512-bf16": replace(_FILLS, arithmetic="bfloat16"),
    "small-512-fused": replace(_FILLS, arithmetic="fused"),
    # The published benchmark: 16,384 correlated features are sampled for one wide SAE.
    "synth-16k": _SYNTH,
    "synth-16k-bf16": replace(_SYNTH, arithmetic="bfloat16"),
}

GRID_PRESETS = {
    # The interim report's 17 x 9 grid of L1 and size, a size a row: 153 SAEs in all.
    f"grid-{d_sae}": Preset("untied", 256, 512, d_sae, 17)
    for d_sae in (64 * 2**i for i in range(9))
}


def _recipe_presets() -> dict[str, Preset]:
    """Every different compiled program among the recipes at two sizes, by `recipe@size`."""
    sizes = {"small": (64, 128, 256, 4), "medium": (256, 512, 1024, 1)}
    programs = {make_spec(name, 16, 32).once_started(): name for name in reversed(RECIPES)}
    return {
        f"{recipe}@{size}": Preset(recipe, *shape)
        for size, shape in sizes.items()
        for recipe in reversed(programs.values())
    }


RECIPE_PRESETS = _recipe_presets()


def preset_fields(p: Preset) -> dict[str, Any]:
    """The fields of its world that are not left at their defaults."""
    if p.world != "sphere":
        return {}
    return {"d_in": p.d_in, "n_features": p.n_features, "l0": p.l0, "magnitude": "normal"}


def preset_world(p: Preset) -> World:
    """The world that the preset's SAEs train on."""
    return make_world(p.world, **preset_fields(p))


def preset_ensemble(p: Preset, numbers: Mapping[str, float] | None = None) -> Ensemble:
    """The preset's ensemble, with the recipe's toy numbers unless others are given."""
    spec = make_spec(p.recipe, p.d_in, p.d_sae, arithmetic=p.arithmetic)
    numbers = RECIPES[p.recipe].toy if numbers is None else numbers
    return make_ensemble([preset_world(p)], [0], spec, numbers, range(p.n_members), p.batch_size)
