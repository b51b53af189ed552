"""Trains SAEs on the activations of a site, as cells of the same engine that trains on worlds.

OUT holds what any run writes, see :mod:`toysae.runs.results`, and

OUT/seeds.csv      by row of table.csv, how alike the dictionaries of several seeds are
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...aliases import accepts_old_names
from ...errors import require, unknown
from ...lazy import pd
from ...points import grid
from ...runs.cell import Cell, Data
from ...runs.options import DEFAULTS, Options
from ...runs.results import Results
from ...runs.run import run
from ...sae import INITS, SAESpec, make_spec, recipe_row
from ...sweeps.run import Asked
from ...training.members import fallback
from ..capture.shards import Manifest, read_manifest
from ..capture.sources import matrix_axes, open_site
from ..capture.stream import BUFFER_ROWS, HELD_OUT, Source, Stream, split_off, spread_sequences
from .feed import SiteFeed, Window
from .normalise import Normalisation, normalisation
from .scores import SiteScores
from .seeds import SEEDS, shared_by_seeds
from .site_sae import ACTIVATIONS

SVD_INITS = {"svd-write": "writes", "svd-read": "reads"}
"""Inits from left singular vectors of the matrix that writes the site, or of those that read it."""

_N_DRAWN = 16_384  # rows that inits and resampling draw from


@accepts_old_names
@dataclass(frozen=True)
class Training:
    """What is trained on a site: every recipe with every init and size, each with all combinations
    of numbers and seeds as one ensemble.

    Attributes:
        recipes: rows of :data:`toysae.sae.RECIPES`.
        inits: "recipe" for the recipe's own, "svd-write", "svd-read", or rows of
            :data:`toysae.sae.INITS`.
        sizes: d_sae as multiples of d_in.
        l1_coeff: L1 coefficients, for recipes that read one, on inputs of unit variance a
            dimension.
        k: latents a sample, for recipes that read it.
        l0_target: for recipes that are driven to one.
        seeds: SAEs of each kind.
        n_steps: Adam steps.
        batch_size: activations a step.
        lr: Adam's learning rate.
        lr_warmup, lr_decay: fractions of training over which it rises and falls.
        centre: whether the mean of the activations is subtracted.
        scale: what is scaled to sqrt(d_in): "rms", "mean-norm", or "none".
        data_seed: of the order of the activations.
        buffer_rows: activations held in memory and shuffled at a time.
        n_held_out: activations that are never trained on, for scores.
        curve_points: about how many points the learning curves have.
        arithmetic: of the large products, see :func:`toysae.train`.
    """

    recipes: tuple[str, ...] = ("untied",)
    inits: tuple[str, ...] = ("recipe",)
    sizes: tuple[float, ...] = (4.0,)
    l1_coeff: tuple[float, ...] = ()
    k: tuple[float, ...] = ()
    l0_target: tuple[float, ...] = ()
    seeds: int = 1
    n_steps: int = 10_000
    batch_size: int = 1024
    lr: float = 1e-3
    lr_warmup: float = 0.05
    lr_decay: float = 0.2
    centre: bool = True
    scale: str = "rms"
    data_seed: int = 0
    buffer_rows: int = BUFFER_ROWS
    n_held_out: int = HELD_OUT
    curve_points: int = 10
    arithmetic: str = "float32"

    def __post_init__(self) -> None:
        for name in ("seeds", "n_steps", "batch_size", "buffer_rows", "n_held_out"):
            value = getattr(self, name)
            require(value >= 1, f"{name} {value} must be at least 1")
        for name in ("recipes", "inits", "sizes"):
            require(getattr(self, name), f"{name} is empty: give at least one")


@dataclass(frozen=True, eq=False)
class SiteData:
    """A site that is ready for training.

    Attributes:
        folder: of the site.
        manifest: of the capture.
        source: of the activations.
        train: sequences to train on.
        drawn: `[n, d_in]` a sample of the activations to train on, from the whole text.
        pool: `[n, d_in]` held-out activations.
        normalisation: of the inputs.
    """

    folder: Path
    manifest: Manifest
    source: Source
    train: np.ndarray
    drawn: np.ndarray
    pool: np.ndarray
    normalisation: Normalisation

    @cached_property
    def on_device(self) -> dict[str, Array]:
        """What every window of this site holds besides its rows, shared by all cells."""
        return {
            "drawn": jnp.asarray(self.drawn)[None],
            "pool": jnp.asarray(self.pool)[None],
            "mean": jnp.asarray(self.normalisation.mean)[None],
            "scale": jnp.float32([self.normalisation.scale]),
        }


def prepare_site(folder: Path, t: Training, source: Source | None = None) -> SiteData:
    """Opens a site, splits off held-out activations and measures the normalisation on them.

    Raises:
        ToysaeError: see :func:`toysae.lm.capture.sources.open_site`; too few activations.
    """
    source = open_site(folder) if source is None else source
    train, held_out = split_off(source.counts, t.n_held_out)
    pool = source.read(held_out)[: t.n_held_out]
    n = normalisation(np.asarray(pool, np.float32), t.centre, t.scale)
    full = train[source.counts[train] > 0]
    drawn = source.read(full[spread_sequences(source.counts[full], _N_DRAWN)])[:_N_DRAWN]
    return SiteData(folder, read_manifest(folder), source, train, drawn, pool, n)


@dataclass(frozen=True, eq=False)
class CapturedSite(Data):
    """A captured site as the data of a cell.

    Attributes:
        site: ready for training.
        training: says how the site is read.
        which: the matrix that the init starts from, see :data:`SVD_INITS`, if there is one.
    """

    site: SiteData
    training: Training
    which: str | None = None

    @property
    def seeds(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.training.data_seed,)

    @cached_property
    def worlds(self) -> Window:
        rows = jnp.zeros(
            (1, self.training.batch_size, self.site.manifest.d), self.site.source.dtype
        )
        return self._window(rows, jnp.int32([0]))

    def identity(self) -> dict[str, Any]:
        m, t = self.site.manifest, self.training
        return {
            "weights": m.weights,
            "corpus": m.corpus,
            "capture": [m.site, m.first, m.dtype, m.centred],
            "svd": self.which,
            "reading": [t.centre, t.scale, t.buffer_rows, t.n_held_out],
        }

    def identity_of(self, i: int) -> dict[str, Any]:
        return {"data_seed": self.seeds[i]}

    def manifest(self) -> dict[str, Any]:
        m = self.site.manifest
        return {
            "kind": ACTIVATIONS, "site": m.site, "model": m.model, "weights": m.weights,
            "first": m.first, "centred": m.centred, "capture": str(self.site.folder.absolute()),
            "n_held_out": self.training.n_held_out,
        }  # fmt: skip

    @contextmanager
    def feeding(self, n_steps: int, batch_size: int) -> Iterator[SiteFeed]:
        t = self.training
        stream = Stream(self.site.source, self.site.train, t.data_seed, t.buffer_rows)
        feed = SiteFeed(stream, self._window, batch_size, n_steps)
        try:
            yield feed
        finally:
            feed.close()

    def _window(self, rows: Array, first: Array) -> Window:
        return Window(
            rows, first, **self.site.on_device, generating_matrix=self._matrix,
            name=self.site.manifest.site,
        )  # fmt: skip

    @cached_property
    def _matrix(self) -> Array:
        if self.which is None:
            return jnp.eye(self.site.manifest.d)[None]
        return jnp.asarray(matrix_axes(self.site.folder, self.which))[None]


@dataclass(frozen=True)
class TrainedSite:
    """Trained SAEs of a site.

    Attributes:
        results: of the run.
        table: the table of the results, one row an SAE, with the columns of
            :func:`toysae.lm.saes.seeds.shared_by_seeds`.
        mcs_seeds: the MCS of latents in the next seed, for each cell by name.
    """

    results: Results
    table: pd.DataFrame
    mcs_seeds: dict[str, np.ndarray]


def train_site(
    folder: Path,
    t: Training,
    out: Path,
    *,
    source: Source | None = None,
    options: Options = DEFAULTS,
) -> TrainedSite:
    """Trains on one site. SAEs that are finished in `out` are read, half trained ones go on.

    Args:
        folder: of the captured site.
        t: what to train.
        out: made if need be.
        source: of the activations, if it is open already.
        options: how to run, see :func:`toysae.runs.run.run`.

    Raises:
        ToysaeError: bad input, before anything trains.
        Stopped: Ctrl-C or SIGTERM; the same call goes on.
    """
    asked = asked_of_site(prepare_site(folder, t, source), t)
    results = run(asked.cells, out, options, settings=asked.settings, about=asked.about)
    return write_shared(asked.cells, results)


def asked_of_site(data: SiteData, t: Training) -> Asked:
    """The request of a training on a site to the engine.

    Raises:
        ToysaeError: see :func:`site_cells`.
    """
    m = {f.name: getattr(data.manifest, f.name) for f in fields(Manifest) if f.name != "shards"}
    settings = {"capture": str(data.folder.absolute()), "manifest": m, "training": asdict(t)}
    about = {"question": f"SAEs on {data.manifest.site} of {data.manifest.model}"}
    return Asked(site_cells(data, t), settings, about, keep_weights=True)


def write_shared(cells: Sequence[Cell], results: Results) -> TrainedSite:
    """Compares the seeds, and writes `seeds.csv` next to the table."""
    shared, mcs_seeds = shared_by_seeds(cells, results)
    results.directory.write({SEEDS: shared.to_csv(index=False).encode()})
    return TrainedSite(results, pd.concat([results.table, shared], axis=1), mcs_seeds)


def site_cells(data: SiteData, t: Training, prefix: str = "") -> list[Cell]:
    """Returns the cells of the SAEs to train.

    Args:
        data: of the site.
        t: what to train on it.
        prefix: of the cells' names, if a run has several sites.

    Raises:
        ToysaeError: an unknown recipe or init, less than one latent, a recipe without its number.
    """
    cells = []
    for recipe in dict.fromkeys(t.recipes):
        knob = recipe_row(recipe).knob()
        given = {"l1_coeff": t.l1_coeff, "k": t.k, "l0_target": t.l0_target}
        given = {name: tuple(dict.fromkeys(values)) for name, values in given.items()}
        require(given.get(knob, (1,)), f"recipe {recipe!r} needs --{knob.replace('_', '-')}")
        for init in dict.fromkeys(t.inits):
            for size in t.sizes:
                d_sae = round(size * data.manifest.d)
                require(d_sae >= 1, f"size {size:g} gives {d_sae} latents: give a larger one")
                spec = _spec(recipe, init, data.manifest.d, d_sae, t.arithmetic)
                rates = {"lr": t.lr, "lr_warmup": t.lr_warmup, "lr_decay": t.lr_decay}
                numbers = {**fallback(recipe, spec), **rates}
                numbers |= {name: values for name, values in given.items() if values}
                read = {**spec.hypers(), **rates}
                cells.append(
                    Cell(
                        name=f"{prefix}{recipe}-{init}-{d_sae}",
                        data=CapturedSite(data, t, SVD_INITS.get(init)),
                        spec=spec,
                        members=grid(**{n: value for n, value in numbers.items() if n in read}),
                        sae_seeds=tuple(range(t.seeds)),
                        n_steps=t.n_steps,
                        batch_size=t.batch_size,
                        measure=SiteScores(t.curve_points),
                        columns={"site": data.manifest.site, "recipe": recipe, "init": init},
                    )
                )
    return list({cell.name: cell for cell in cells}.values())  # sizes may round to one


def _spec(recipe: str, init: str, d_in: int, d_sae: int, arithmetic: str) -> SAESpec:
    require(init != "truth", "init 'truth': nobody knows the true features of a language model")
    known = ("recipe", *SVD_INITS, *(name for name in INITS if name not in ("truth", "svd")))
    if init not in known:
        raise unknown("init", init, known)
    name = "svd" if init in SVD_INITS else None if init == "recipe" else init
    return make_spec(recipe, d_in, d_sae, name, arithmetic=arithmetic)
