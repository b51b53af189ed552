"""A layer's card: the panel of a world's card on real activations, next to those of worlds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ...errors import require
from ...keys import seed_key
from ...lazy import pd
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
    """Statistics of a layer's activations.

    Attributes:
        site: by name.
        stats: of the panel.
        mean: `[d]`.
        norm_by_position: `[n_ctx]` mean of ‖x‖ at each position; NaN at those that are not kept.
        latents: the panel of an SAE's latents, if an SAE was given.
    """

    site: str
    stats: PanelStats
    mean: Float[np.ndarray, " d"]
    norm_by_position: Float[np.ndarray, " n_ctx"]
    latents: FeaturePanel | None = None

    @property
    def panel(self) -> PanelStats | FeaturePanel:
        """The panel that is compared with those of worlds."""
        return self.latents or self.stats

    def rows(self, *others: FeaturePanel) -> list[tuple[str, ...]]:
        """Lines for a table: (statistic, the layer, worlds ...)."""
        lines = compare_panels(self.panel, *others)
        norms = self.norm_by_position[np.isfinite(self.norm_by_position)]
        eighth = max(1, len(norms) // 8)
        trend = f"{norms[:eighth].mean() / norms[-eighth:].mean():.3g}"
        blank = ("–",) * len(others)
        return [*lines, ("norm of the first eighth of positions / of the last", trend, *blank)]


def some_sequences(source: Source, n_rows: int, seed: int = 0) -> Int[np.ndarray, " n"]:
    """Draws sequences at random that hold about `n_rows` activations; all if there are fewer."""
    order = np.random.default_rng(seed).permutation(len(source.counts))
    n = int(np.searchsorted(np.cumsum(source.counts[order]), n_rows)) + 1
    return np.sort(order[:n])


def activation_pieces(
    source: Source, sequences: Int[np.ndarray, " n"], size: int = 64
) -> Iterator[Float[np.ndarray, "rows d"]]:
    """Yields the activations of sequences in float32, some sequences at a time."""
    for start in range(0, len(sequences), size):
        yield np.asarray(source.read(sequences[start : start + size]), np.float32)


def layer_card(
    site: str, source: Source, first: int, n_rows: int = N_ROWS, seed: int = 0,
    sae: SiteSAE | None = None,
) -> LayerCard:  # fmt: skip
    """Computes the card of a site.

    Args:
        site: by name.
        source: of its activations.
        first: the position of each sequence's first activation.
        n_rows: about how many activations to read.
        seed: of the choice of sequences.
        sae: of the site, whose latents are to be compared with features of worlds.

    Raises:
        ToysaeError: no activations, an SAE of another site.
    """
    require(n_rows >= 1, f"n_rows {n_rows} must be at least 1")
    fits = sae is None or (sae.site, sae.sae.spec.d_in) == (site, source.d)
    require(fits, f"the SAE is of {sae and sae.site}, not of {site} with {source.d} dimensions")
    some = some_sequences(source, n_rows, seed)
    counts = source.counts[some]
    norm_sums, n_at = np.zeros((2, int(counts.max()) + first))
    positions = [np.arange(first, first + n) for n in counts]

    def adding_norms() -> Iterator[np.ndarray]:
        for i, x in zip(range(0, len(some), 64), activation_pieces(source, some), strict=True):
            pos = np.concatenate(positions[i : i + 64])
            np.add.at(norm_sums, pos, np.linalg.norm(x, axis=1))
            np.add.at(n_at, pos, 1)
            yield x

    stats = panel_of(adding_norms())
    with np.errstate(invalid="ignore"):
        by_position = norm_sums / n_at
    latents = None if sae is None else latent_panel("latents", sae, source, some, stats)
    return LayerCard(site, stats, stats.mean, by_position, latents)


@dataclass(frozen=True)
class FittedTwin:
    """A twin and the statistics that it was fitted to.

    Attributes:
        twin: its parameters.
        table: one row a statistic: `layer`, `twin` (realised on samples), `matched`.
    """

    twin: Twin
    table: pd.DataFrame

    @property
    def unmatched(self) -> list[str]:
        """The statistics in which the twin differs from the layer."""
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
    """Fits a world to a source's activations (:func:`.fit_twin`), massive ones as a feature of
    their own, and compares its samples with all of them."""
    some = some_sequences(source, n_rows, seed)

    def rows() -> Iterator[np.ndarray]:
        return activation_pieces(source, some)

    massive, others = split_massive(rows)
    mean = mean_of(among(rows(), others))
    stats, covariance = centred_panel(among(rows(), others), mean)
    twin = fit_twin(stats, mean, covariance, ratios, directions, correlate, seed, on_look)
    twin = replace(twin, massive=massive)
    whole = stats if massive is None else centred_panel(rows(), mean_of(rows()))[0]
    layers, twins = statistics(whole), statistics(panel_of_twin(twin, 32_768, seed))
    table = pd.DataFrame({
        "statistic": list(layers), "layer": list(layers.values()),
        "twin": [twins[name] for name in layers],
        "matched": [is_matched(twins[name], value) for name, value in layers.items()],
    })  # fmt: skip
    return FittedTwin(twin, table)


def recovered_on(
    twin: Twin, recipes: Mapping[str, Mapping[str, Any]], *, size: float = 1.0,
    n_steps: int = 2_000, batch_size: int = 512, seeds: int = 3, quiet: bool = False,
    arithmetic: str = "float32",
) -> pd.DataFrame:  # fmt: skip
    """Runs the recovery experiment on a twin: trains SAEs on its inputs, normalised as a layer's
    are, and compares their dictionaries with the true features.

    Args:
        twin: to train on.
        recipes: the numbers of each recipe, by its name.
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
    """The world of a twin with inputs of mean 0 and variance 1 a dimension, as SAEs of a layer see
    them."""
    world = twin_world(twin, seed)
    drawn = batches(world, seed_key(seed, "twin normalisation"), 16_384, 4096)
    x = np.concatenate([np.asarray(batch.x) for batch in drawn])
    mean = x.mean(0)
    scale = 1 / np.sqrt(np.mean((x - mean) ** 2))
    noise = None if world.noise_sd is None else world.noise_sd * scale
    bias = None if world.bias is None else (world.bias - mean) * scale
    return world.replace(rows=world.rows * scale, bias=bias, noise_sd=noise)  # pyright: ignore[reportAttributeAccessIssue]


def world_panels(names: Sequence[str], n_samples: int = 32_768) -> dict[str, FeaturePanel]:
    """Computes the panels of named worlds.

    Raises:
        ToysaeError: an unknown name.
    """
    return {name: world_panel(make_world(name, 0), n_samples) for name in names}


def save_card(card: LayerCard, panels: Mapping[str, FeaturePanel], folder: Path) -> list[Path]:
    """Draws the panels side by side, as a PNG and the CSV behind it."""
    from ...plotting.panel import panel_figure  # matplotlib takes .4 s
    from ...plotting.style import save

    folder.mkdir(parents=True, exist_ok=True)
    sources = {card.site: card.panel, **panels}
    return list(save(*panel_figure(sources), folder, f"card-{card.site}"))
