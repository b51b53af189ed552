"""A layer's card: the panel of a world's card on real activations, side by side with worlds'."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ...errors import require
from ...keys import seed_key
from ...plotting.panel import panel_figure
from ...plotting.style import save
from ...sweeps import train
from ...worlds import World, make_world
from ...worlds.panel import compare_panels, world_panel
from ...worlds.panel.activations import PanelStats, panel_of
from ...worlds.panel.features import FeaturePanel
from ...worlds.world import batches
from ..capture.stream import Source
from ..saes.site_sae import SiteSAE
from .latent_panel import latent_panel
from .massive import among, mean_of, split_massive
from .twin import Twin, centred_panel, panel_of_twin, twin_world
from .twin_fit import DIRECTIONS, RATIOS, fit_twin
from .twin_statistics import is_matched, statistics

N_ROWS = 65_536


@dataclass(frozen=True)
class LayerCard:
    """What a layer's activations look like.

    Attributes:
        site: by name.
        stats: of the panel.
        mean: `[d]`.
        norm_by_position: mean of ‖x‖ at each position kept, `[n_ctx]`; NaN where there is none.
        latents: what an SAE's latents do there, if one was given.
    """

    site: str
    stats: PanelStats
    mean: Float[np.ndarray, " d"]
    norm_by_position: Float[np.ndarray, " n_ctx"]
    latents: FeaturePanel | None = None

    @property
    def panel(self) -> PanelStats | FeaturePanel:
        """What goes beside worlds' panels."""
        return self.latents or self.stats

    def rows(self, *others: FeaturePanel) -> list[tuple[str, ...]]:
        """(what, the layer, worlds ...) lines for a table."""
        lines = compare_panels(self.panel, *others)
        by = self.norm_by_position[np.isfinite(self.norm_by_position)]
        blank = ("–",) * len(others)
        early, late = by[: max(1, len(by) // 8)].mean(), by[-max(1, len(by) // 8) :].mean()
        trend = ("norm of the first eighth of positions / of the last", f"{early / late:.3g}")
        return [*lines, (*trend, *blank)]


def some_sequences(source: Source, n_rows: int, seed: int = 0) -> Int[np.ndarray, " n"]:
    """Sequences drawn at random that hold about `n_rows` activations; all if there are fewer."""
    order = np.random.default_rng(seed).permutation(len(source.counts))
    n = int(np.searchsorted(np.cumsum(source.counts[order]), n_rows)) + 1
    return np.sort(order[:n])


def activation_pieces(
    source: Source, sequences: Int[np.ndarray, " n"], size: int = 64
) -> Iterator[Float[np.ndarray, "rows d"]]:
    """Their activations in float32, some sequences at a time."""
    for start in range(0, len(sequences), size):
        yield np.asarray(source.read(sequences[start : start + size]), np.float32)


def layer_card(
    site: str, source: Source, first: int, n_rows: int = N_ROWS, seed: int = 0,
    sae: SiteSAE | None = None,
) -> LayerCard:  # fmt: skip
    """The card of a site.

    Args:
        site: by name.
        source: of its activations.
        first: the position of each sequence's first activation.
        n_rows: about how many to look at.
        seed: which sequences.
        sae: of the site, whose latents are to be set beside worlds' features.

    Raises:
        ToysaeError: no activations, an SAE of another site.
    """
    require(n_rows >= 1, f"n_rows {n_rows} must be at least 1")
    fits = sae is None or (sae.site, sae.sae.spec.d_in) == (site, source.d)
    require(fits, f"the SAE is of {sae and sae.site}, not of {site} with {source.d} dimensions")
    some = some_sequences(source, n_rows, seed)
    counts = source.counts[some]
    norms = np.zeros((2, int(counts.max()) + first))
    place = [np.arange(first, first + n) for n in counts]

    def watched() -> Iterator[np.ndarray]:
        for i, x in zip(range(0, len(some), 64), activation_pieces(source, some), strict=True):
            at = np.concatenate(place[i : i + 64])
            np.add.at(norms[0], at, np.linalg.norm(x, axis=1))
            np.add.at(norms[1], at, 1)
            yield x

    stats = panel_of(watched())
    with np.errstate(invalid="ignore"):
        by_position = norms[0] / norms[1]
    latents = None if sae is None else latent_panel("latents", sae, source, some, stats)
    return LayerCard(site, stats, stats.mean, by_position, latents)


@dataclass(frozen=True)
class FittedTwin:
    """A twin with what it was fitted to.

    Attributes:
        twin: its parameters.
        table: one row a statistic: `layer`, `twin` (realised on samples), `matched`.
    """

    twin: Twin
    table: pd.DataFrame

    @property
    def unmatched(self) -> list[str]:
        """The statistics that the twin does not have."""
        return self.table.loc[~self.table["matched"], "statistic"].tolist()


def make_twin(
    source: Source,
    n_rows: int = N_ROWS,
    ratios: Sequence[float] = RATIOS,
    directions: Sequence[str] = DIRECTIONS,
    correlate: bool = True,
    seed: int = 0,
    on_look: Callable[[str], object] = lambda about: None,
) -> FittedTwin:
    """Fits a world to a source's activations (:func:`.fit_twin`), massive ones as
    a feature of their own, and holds what it realises against all of them."""
    some = some_sequences(source, n_rows, seed)
    massive, others = split_massive(lambda: activation_pieces(source, some))
    mean = mean_of(among(activation_pieces(source, some), others))
    stats, covariance = centred_panel(among(activation_pieces(source, some), others), mean)
    twin = fit_twin(stats, mean, covariance, ratios, directions, correlate, seed, on_look)
    twin = replace(twin, massive=massive)
    whole = stats
    if massive is not None:
        whole, _ = centred_panel(
            activation_pieces(source, some), mean_of(activation_pieces(source, some))
        )
    found, wanted = statistics(panel_of_twin(twin, 32_768, seed)), statistics(whole)
    table = pd.DataFrame({
        "statistic": list(wanted), "layer": list(wanted.values()),
        "twin": [found[name] for name in wanted],
        "matched": [is_matched(found[name], value) for name, value in wanted.items()],
    })  # fmt: skip
    return FittedTwin(twin, table)


def recovered_on(
    twin: Twin, recipes: Mapping[str, Mapping[str, Any]], *, size: float = 1.0,
    n_steps: int = 2_000, batch_size: int = 512, seeds: int = 3, quiet: bool = False,
    arithmetic: str = "float32",
) -> pd.DataFrame:  # fmt: skip
    """The recovery experiment on a twin: its inputs normalised as a layer's are, SAEs trained, and
    their dictionaries held against the true features.

    Args:
        twin: to train on.
        recipes: by name, the numbers of each.
        size: d_sae over d_in.
        n_steps: Adam steps.
        batch_size: samples a step.
        seeds: of the twin's directions, a world each.
        quiet: no progress bar.
        arithmetic: see :func:`toysae.train`.

    Returns:
        One row an SAE: the columns of :func:`toysae.train`'s table, and `recipe`.
    """
    tables = []
    for seed in range(seeds):
        world = normalised_world(twin, seed)
        for recipe, numbers in recipes.items():
            result = train(
                world, recipe, d_sae=round(size * twin.d_in), n_steps=n_steps,
                batch_size=batch_size, data_seed=seed, n_eval=16_384, curve_points=8, quiet=quiet,
                arithmetic=arithmetic, **numbers,
            )  # fmt: skip
            tables.append(result.table.assign(recipe=recipe, world_seed=seed))
    return pd.concat(tables, ignore_index=True)


def normalised_world(twin: Twin, seed: int = 0) -> World:
    """The twin without its mean, at a variance of 1 a dimension, as SAEs of a layer see it."""
    world = twin_world(twin, seed)
    drawn = batches(world, seed_key(seed, "twin normalisation"), 16_384, 4096)
    x = np.concatenate([np.asarray(batch.x) for batch in drawn])
    mean = x.mean(0)
    scale = 1 / np.sqrt(np.mean((x - mean) ** 2))
    noise = None if world.noise_sd is None else world.noise_sd * scale
    bias = None if world.bias is None else (world.bias - mean) * scale
    return world.replace(rows=world.rows * scale, bias=bias, noise_sd=noise)  # pyright: ignore[reportAttributeAccessIssue]


def world_panels(names: Sequence[str], n_samples: int = 32_768) -> dict[str, FeaturePanel]:
    """The panels of named worlds.

    Raises:
        ToysaeError: an unknown name.
    """
    return {name: world_panel(make_world(name, 0), n_samples) for name in names}


def save_card(card_: LayerCard, panels: Mapping[str, FeaturePanel], folder: Path) -> list[Path]:
    """Draws the panels side by side: a PNG and the CSV behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {card_.site: card_.panel, **panels}
    return list(save(*panel_figure(sources), folder, f"card-{card_.site}"))
