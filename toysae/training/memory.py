"""The memory that an ensemble takes, counted before any of its SAEs exists.

Its worlds and state are counted exactly, from shapes. The largest working set of the phases that
follow one another is added: start, steps and resampling, scores.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from ..disk import size
from ..errors import require
from ..machine import host_bytes
from ..sae import Hypers
from ..sae.inits import InitData
from ..worlds import Drawn
from . import Ensemble, Member, TrainState
from .devices import layout_of
from .loop import PROBE_SAMPLES
from .state import INIT_SAMPLES, init_member, member_key

_FLOAT = 4  # bytes


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
    starting = spec.init.working_floats(INIT_SAMPLES, spec.d_in, spec.d_sae)
    scored = max(PROBE_SAMPLES, ensemble.batch_size) * (3 * spec.d_sae + spec.d_in)
    cosines = ensemble.worlds.n_features * spec.d_sae
    others = ensemble.n_rows * max(starting, scored, cosines)
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

    def member(world: Drawn, world_seed: Array, sae_seed: Array, h: Hypers) -> Member:
        x = jnp.zeros((INIT_SAMPLES, ensemble.spec.d_in))
        data = InitData(x, world.generating_matrix, world.target)
        return init_member(ensemble.spec, member_key(world_seed, sae_seed), data, h)

    rows = (len(ensemble.world_seeds), len(ensemble.sae_seeds))
    of_one = (ensemble.worlds, ensemble.world_seeds, ensemble.sae_seeds, ensemble.hypers)
    members = jax.eval_shape(member, *jax.tree.map(_without_lead, of_one))
    members = jax.tree.map(lambda a: jax.ShapeDtypeStruct(rows + a.shape, a.dtype), members)
    firings = jax.ShapeDtypeStruct((rows[0], ensemble.worlds.n_features), jnp.int32)
    step, loss = (jax.ShapeDtypeStruct(n, t) for n, t in (((), jnp.int32), (rows, jnp.float32)))
    return TrainState(members, step, firings, loss)  # pyright: ignore[reportArgumentType]


def _without_lead(leaf: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


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
