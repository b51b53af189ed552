"""SAEs on the activations of a site: the same loop, recipes and ensembles as on a world.

OUT/table.csv                      one row an SAE
OUT/groups/<recipe>-<init>-.../    the SAEs of one compiled program: table, arrays, saes/<name>
OUT/checkpoints/                   what is half trained
OUT/toysae-run.json                which files are its own, see :mod:`toysae.runs.directory`
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from ..axes import grid
from ..digests import digest
from ..errors import require, unknown
from ..runs.checkpoints import Checkpoints
from ..runs.directory import Directory
from ..runs.lock import locked
from ..runs.mark import check_ours
from ..runs.progress import Progress, say
from ..runs.provenance import provenance
from ..sae import INITS, SAESpec, make_spec, recipe_row
from ..sae.files import encode
from ..training import Group, Snapshot, start, train_group
from ..training import trained as start_of
from ..training.members import fallback, make_group
from ..watch import Request, Stopped, about, stop_requests
from .feed import Feed, Window, Windows
from .groups import TABLE, finished_groups, load_table, save_group
from .normalise import Normalisation, normalisation
from .scores import curve_probe, score_members
from .shards import Manifest, read_manifest
from .sources import axes_of, open_site
from .stream import BUFFER_ROWS, HELD_OUT, Source, Stream, split_off, spread

FORMAT = 4
"""Counted up by hand when the same settings come to give other numbers."""

SVD_INITS = {"svd-write": "writes", "svd-read": "reads"}
"""Left singular vectors of the matrix that writes the site, or of those that read it."""

_N_DRAWN = 16_384  # rows that inits and resampling draw from


@dataclass(frozen=True)
class Training:
    """What is trained on a site: every recipe with every init and size, and of each every
    combination of numbers and seeds as one ensemble.

    Attributes:
        recipes: rows of :data:`toysae.sae.RECIPES`.
        inits: "recipe" for its own, "svd-write", "svd-read", or rows of :data:`toysae.sae.INITS`.
        sizes: d_sae as multiples of d_in.
        l1: L1 coefficients, for recipes that read one, on inputs of unit variance a dimension.
        k: latents a sample, for recipes that read it.
        l0_target: for recipes that are driven to one.
        seeds: SAEs of each kind.
        n_steps: Adam steps.
        batch_size: activations a step.
        lr: Adam's.
        lr_warmup, lr_decay: fractions of training over which it rises and falls.
        centre: the mean of the activations is taken off.
        scale: what is scaled to sqrt(d_in): "rms", "mean-norm", or "none".
        data_seed: of the order of the activations.
        buffer_rows: activations shuffled, and held in memory, at a time.
        n_held_out: activations that are never trained on, for scores.
        curve_points: about how many points the learning curves have.
        arithmetic: "float32", or "bfloat16" in the large products.
    """

    recipes: tuple[str, ...] = ("untied",)
    inits: tuple[str, ...] = ("recipe",)
    sizes: tuple[float, ...] = (4.0,)
    l1: tuple[float, ...] = ()
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


@dataclass(frozen=True)
class _Part:
    """One compiled program."""

    recipe: str
    init: str
    spec: SAESpec
    hypers: dict[str, float | Sequence[float]]
    key: str

    @property
    def name(self) -> str:
        return f"{self.recipe}-{self.init}-{self.spec.d_sae}-{self.key[:8]}"


@dataclass(frozen=True)
class SiteData:
    """A site made ready for training.

    Attributes:
        folder: of the site.
        manifest: what it holds.
        source: of the activations.
        train: sequences to train on.
        drawn: `[n, d_in]` activations trained on, from all over the text.
        pool: `[n, d_in]` activations held out.
        normalisation: of the inputs.
    """

    folder: Path
    manifest: Manifest
    source: Source
    train: np.ndarray
    drawn: np.ndarray
    pool: np.ndarray
    normalisation: Normalisation


def prepare(folder: Path, t: Training, source: Source | None = None) -> SiteData:
    """Opens a site, splits off what is held out and measures the normalisation on it.

    Raises:
        ToysaeError: see :func:`toysae.lm.sources.open_site`; too few activations.
    """
    source = open_site(folder) if source is None else source
    train, held_out = split_off(source.counts, t.n_held_out)
    pool = source.read(held_out)[: t.n_held_out]
    n = normalisation(np.asarray(pool, np.float32), t.centre, t.scale)
    full = train[source.counts[train] > 0]
    drawn = source.read(full[spread(source.counts[full], _N_DRAWN)])[:_N_DRAWN]
    return SiteData(folder, read_manifest(folder), source, train, drawn, pool, n)


def train_site(
    folder: Path,
    t: Training,
    out: Path,
    *,
    source: Source | None = None,
    quiet: bool = False,
    checkpoint_seconds: float = 60.0,
) -> pd.DataFrame:
    """Trains on one site; what is finished in `out` is read, what is half trained goes on.

    Args:
        folder: of the captured site.
        t: what to train.
        out: made if need be.
        source: of the activations, where it is at hand.
        quiet: no progress bar.
        checkpoint_seconds: about how often what is half trained is written.

    Returns:
        One row an SAE, as in `table.csv`: `folder`, what it is, and the scores of
        :func:`toysae.lm.scores.score_members` on the activations held out.

    Raises:
        ToysaeError: bad input, before anything trains.
        Stopped: Ctrl-C or SIGTERM; the same call goes on.
    """
    data = prepare(folder, t, source)
    parts = plan(data, t)
    # What cannot be is refused before anything trains; each group holds a copy of the pool.
    n_rows = {part.name: _group(data, t, part, _window(data, part)).n_rows for part in parts}
    check_ours(out)
    with locked(out), stop_requests() as request:
        directory = Directory.claim(out)
        directory.check_reachable()
        directory.tidy()
        done = finished_groups(directory)
        cost = {p.name: t.n_steps * n_rows[p.name] * t.batch_size for p in parts}
        left = [p for p in parts if p.name not in done]
        directory.remove([TABLE])  # of another training, perhaps
        directory.write({"config.json": json.dumps(_config(data, t), indent=1).encode()})
        with Progress({p.name: cost[p.name] for p in left}, quiet or not left) as progress:
            for part in left:
                with about(part.name):
                    _train(data, t, part, directory, progress, request, checkpoint_seconds)
        table = pd.concat([load_table(directory, p.name) for p in parts], ignore_index=True)
        directory.write({TABLE: table.to_csv(index=False).encode()})
    return table


def plan(data: SiteData, t: Training) -> list[_Part]:
    """The programs to train.

    Raises:
        ToysaeError: an unknown recipe or init, a size that is none, a recipe without its number.
    """
    parts = []
    for recipe in dict.fromkeys(t.recipes):
        knob = recipe_row(recipe).knob()
        given = {"l1_coeff": t.l1, "k": t.k, "l0_target": t.l0_target}
        given = {name: tuple(dict.fromkeys(values)) for name, values in given.items()}
        require(
            given.get(knob, (1,)),
            f"recipe {recipe!r} needs --{ {'l1_coeff': 'l1'}.get(knob, knob).replace('_', '-') }",
        )
        for init in dict.fromkeys(t.inits):
            for size in t.sizes:
                d_sae = round(size * data.manifest.d)
                require(d_sae >= 1, f"size {size:g} gives {d_sae} latents: give a larger one")
                spec = _spec(recipe, init, data.manifest.d, d_sae, t.arithmetic)
                own = {"lr": t.lr, "lr_warmup": t.lr_warmup, "lr_decay": t.lr_decay}
                numbers = {**fallback(recipe, spec), **own, **{k: v for k, v in given.items() if v}}
                read = {**spec.hypers(), **own}
                hypers = {name: value for name, value in numbers.items() if name in read}
                key = _key(data, t, init, spec, hypers)
                parts.append(_Part(recipe, init, spec, hypers, key))
    return list({part.name: part for part in parts}.values())  # sizes may round to one


def _spec(recipe: str, init: str, d_in: int, d_sae: int, arithmetic: str) -> SAESpec:
    require(init != "truth", "init 'truth': nobody knows the true features of a language model")
    known = ("recipe", *SVD_INITS, *(name for name in INITS if name not in ("truth", "svd")))
    if init not in known:
        raise unknown("init", init, known)
    name = "svd" if init in SVD_INITS else None if init == "recipe" else init
    return make_spec(recipe, d_in, d_sae, name, arithmetic=arithmetic)


def _key(data: SiteData, t: Training, init: str, spec: SAESpec, hypers: dict[str, Any]) -> str:
    """A hash of all that decides the numbers of these SAEs."""
    m = data.manifest
    what = {
        "format": FORMAT,
        "weights": m.weights,
        "corpus": m.corpus,
        "capture": [m.site, m.first, m.dtype, m.centred],
        "spec": encode(spec, "spec"),
        "svd": SVD_INITS.get(init),
        "hypers": hypers,
        "training": [t.seeds, t.n_steps, t.batch_size, t.centre, t.scale, t.data_seed,
                     t.buffer_rows, t.n_held_out, t.curve_points],
    }  # fmt: skip
    return digest(json.dumps(what, sort_keys=True))


def _group(data: SiteData, t: Training, part: _Part, window: Windows) -> Group:
    rows = jnp.zeros((1, t.batch_size, data.manifest.d), data.source.dtype)
    points = grid(**part.hypers)
    return make_group(
        window(rows, jnp.int32([0])), [t.data_seed], part.spec, points, range(t.seeds), t.batch_size
    )


def _window(data: SiteData, part: _Part) -> Windows:
    which = SVD_INITS.get(part.init)
    d = data.manifest.d
    matrix = np.eye(d, dtype=np.float32) if which is None else axes_of(data.folder, which)
    fixed = {
        "drawn": jnp.asarray(data.drawn)[None],
        "pool": jnp.asarray(data.pool)[None],
        "mean": jnp.asarray(data.normalisation.mean)[None],
        "scale": jnp.float32([data.normalisation.scale]),
        "generating_matrix": jnp.asarray(matrix)[None],
    }

    def window(rows, first) -> Window:
        return Window(rows, first, **fixed, name=data.manifest.site)

    return window


def _train(
    data: SiteData, t: Training, part: _Part, directory: Directory, progress: Progress,
    request: Request, checkpoint_seconds: float,
) -> None:  # fmt: skip
    checkpoints = Checkpoints(directory, part.name)
    checkpoints.begin(np.array([[part.key]]), t.n_steps)
    stream = Stream(data.source, data.train, t.data_seed, t.buffer_rows)
    window = _window(data, part)
    feed, group = Feed(stream, window, t.batch_size, t.n_steps), _group(data, t, part, window)
    at_start = np.asarray(start_of(start(group), group).W_dec[0])
    resume, saved, began = checkpoints.latest(group), time.monotonic(), time.monotonic()
    if resume is not None:
        say(f"{part.name} goes on at step {resume.step:,} of {t.n_steps:,}")

    def on_chunk(snapshot: Snapshot) -> None:
        nonlocal saved
        progress.update(part.name, snapshot.step * group.n_rows * t.batch_size)
        if request.number or time.monotonic() - saved >= checkpoint_seconds:
            checkpoints.save(snapshot)
            saved = time.monotonic()
        if request.number:
            where = f"{part.name} is at step {snapshot.step:,} of {t.n_steps:,}"
            raise Stopped(f"stopped: {where}; it is kept in {directory.path}", request.number)

    try:
        trained = train_group(
            group, t.n_steps, curve_probe, t.curve_points, on_chunk=on_chunk, resume=resume,
            feed=feed,
        )  # fmt: skip
    finally:
        feed.close()
    took = time.monotonic() - began
    table, arrays = score_members(group, trained, at_start)
    done = {"key": part.key, "seconds": took, "waited_for_data": feed.waited, **provenance()}
    n, about = data.normalisation, _about(data, t, part)
    save_group(directory, part.name, trained.saes, n, about, table, arrays, done)
    checkpoints.remove()


def _about(data: SiteData, t: Training, part: _Part) -> dict[str, Any]:
    m = data.manifest
    return {
        "site": m.site, "model": m.model, "weights": m.weights, "first": m.first,
        "centred": m.centred, "recipe": part.recipe, "init": part.init,
        "n_tokens": t.n_steps * t.batch_size,
    }  # fmt: skip


def _config(data: SiteData, t: Training) -> dict[str, Any]:
    m = {f.name: getattr(data.manifest, f.name) for f in fields(Manifest) if f.name != "shards"}
    return {
        "capture": str(data.folder.absolute()),
        "manifest": m,
        "training": asdict(t),
        **provenance(),
    }
