"""The memory that an ensemble takes, counted before any of its SAEs exists.

Its worlds and state are counted exactly, from shapes. The largest working set of the phases that
follow one another is added: start, steps and resampling, scores.
"""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
from jax import Array

from ..disk import size
from ..errors import require
from ..machine import host_bytes
from ..sae import Hypers, SAESpec
from ..sae.forward import params_from
from . import Ensemble, Member, TrainState
from .devices import layout_of
from .loop import PROBE_SAMPLES
from .starting import INIT_SAMPLES, reads_samples
from .state import member_from, member_key

_FLOAT = 4  # bytes
_like = jax.ShapeDtypeStruct


def check_memory(ensemble: Ensemble) -> None:
    """Refuses an ensemble that cannot fit on the device.

    Raises:
        ToysaeError: with the bytes that are needed and those that there are.
    """
    available, needed = device_bytes(), bytes_needed(ensemble)
    require(
        needed <= available,
        f"d_sae {ensemble.spec.d_sae} x {ensemble.n_rows} SAEs needs about {size(needed)} and the "
        f"device has {size(available)}: use a smaller d_sae, batch_size, grid or fewer seeds",
    )


def fits(ensemble: Ensemble) -> bool:
    """Whether an ensemble can train on the device as one."""
    return bytes_needed(ensemble) <= device_bytes()


def bytes_needed(ensemble: Ensemble) -> int:
    """About the most bytes that an ensemble takes at once, from its start to its scores, on the
    device that has the most of it; the devices of a CPU share one memory."""
    layout = None
    if jax.default_backend() != "cpu":
        layout = layout_of(len(ensemble.world_seeds), len(ensemble.sae_seeds), ensemble.split)
    if layout is None:
        return _bytes_needed(ensemble)
    rows = layout.rows_of_busiest / ensemble.n_rows
    # Worlds may be on several devices, and what is not a product may be whole on each.
    return math.ceil(_bytes_needed(ensemble) * rows / ensemble.split.latent) + bytes_of(ensemble)


def _bytes_needed(ensemble: Ensemble) -> int:
    spec, state = ensemble.spec, state_shapes(ensemble)
    samples = len(ensemble.world_seeds) * INIT_SAMPLES * spec.d_in if reads_samples(spec) else 0
    starting = spec.init.working_floats(INIT_SAMPLES, spec.d_in, spec.d_sae)
    scored = max(PROBE_SAMPLES, ensemble.batch_size) * (3 * spec.d_sae + spec.d_in)
    cosines = ensemble.worlds.n_features * spec.d_sae
    others = max(samples + ensemble.n_rows * starting, ensemble.n_rows * max(scored, cosines))
    return max(training_bytes(ensemble), bytes_of((ensemble, state)) + _FLOAT * others)


def training_bytes(ensemble: Ensemble) -> int:
    """About the bytes that the program of the steps takes, with its arguments.

    This is within a quarter of what XLA allots on a CPU. It may allot less if it fuses a product
    into what reads it, as it does for many inputs at once.
    """
    spec, batch, state = ensemble.spec, ensemble.batch_size, state_shapes(ensemble)
    drawn = len(ensemble.world_seeds) * batch * (spec.d_in + ensemble.worlds.n_features)
    step = drawn + ensemble.n_rows * spec.working_floats(batch)
    resampling = spec.resample.working_floats(batch, spec.d_in, spec.d_sae)  # of one member
    gradient = bytes_of(state.members.params)
    return bytes_of((ensemble, state)) + gradient + _FLOAT * max(step, resampling)


def state_shapes(ensemble: Ensemble) -> TrainState:
    """The shapes of the ensemble's state, found by tracing one member; no data are drawn. They do
    not depend on the init."""
    ensemble = ensemble.once_started()
    rows = (len(ensemble.world_seeds), len(ensemble.sae_seeds))
    member = _member_shapes(ensemble.spec, tuple(sorted(ensemble.hypers)))
    members = jax.tree.map(lambda a: _like(rows + a.shape, a.dtype), member)
    firings = _like((rows[0], ensemble.worlds.n_features), jnp.int32)
    step, loss = (_like(n, t) for n, t in (((), jnp.int32), (rows, jnp.float32)))
    return TrainState(members, step, firings, loss)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=1024)
def _member_shapes(spec: SAESpec, numbers: tuple[str, ...]) -> Member:
    """The shapes of one member, given the names of its numbers."""

    def member(seed: Array, rows: Array, bias: Array, h: Hypers) -> Member:
        key = member_key(seed, seed)
        return member_from(spec, params_from(spec, key, (rows, rows), bias, h), h)

    shapes = (spec.d_sae, spec.d_in), (spec.d_in,)
    rows, bias = (_like(shape, jnp.float32) for shape in shapes)
    h = {name: _like((), jnp.float32) for name in numbers}
    return jax.eval_shape(member, _like((), jnp.int32), rows, bias, h)


def bytes_of(tree: object) -> int:
    """The bytes of all arrays of a pytree, or of arrays with the shapes in it."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes() -> int:
    """The bytes of a device that jax may use; on a CPU those left to this process, see
    :func:`toysae.machine.host_bytes`."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return host_bytes()
