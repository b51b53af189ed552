"""The memory that a group takes, counted before any of its SAEs exists.

What is held, worlds and state, is counted exactly, from shapes. On top comes the largest working
set of the phases that follow one another: start, steps and resampling, scores.
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


def check_memory(group: Ensemble) -> None:
    """Refuses a group that cannot fit on the device.

    Raises:
        ToysaeError: saying how much is needed and how much there is.
    """
    available, needed = device_bytes(), bytes_needed(group)
    require(
        needed <= available,
        f"d_sae {group.spec.d_sae} x {group.n_rows} SAEs needs about {size(needed)} and the device "
        f"has {size(available)}: use a smaller d_sae, batch_size, grid or fewer "
        "seeds",
    )


def fits(group: Ensemble) -> bool:
    """Whether a group can train on the device as one."""
    return bytes_needed(group) <= device_bytes()


def bytes_needed(group: Ensemble) -> int:
    """About the most memory that a group takes at once, from its start to its scores, in bytes, of
    the device that has the most of it; on a CPU all devices share one memory."""
    layout = None
    if jax.default_backend() != "cpu":
        layout = layout_of(len(group.world_seeds), len(group.sae_seeds), group.split)
    if layout is None:
        return _bytes_needed(group)
    rows = layout.rows_of_busiest / group.n_rows
    # Worlds may be on several devices, and what is not a product may be whole on each.
    return math.ceil(_bytes_needed(group) * rows / group.split.latent) + bytes_of(group)


def _bytes_needed(group: Ensemble) -> int:
    spec, state = group.spec, state_shapes(group)
    starting = spec.init.working_floats(INIT_SAMPLES, spec.d_in, spec.d_sae)
    scored = max(PROBE_SAMPLES, group.batch_size) * (3 * spec.d_sae + spec.d_in)
    cosines = group.worlds.n_features * spec.d_sae
    others = group.n_rows * max(starting, scored, cosines)
    return max(training_bytes(group), bytes_of((group, state)) + _FLOAT * others)


def training_bytes(group: Ensemble) -> int:
    """About what the program of the steps takes, its arguments included, in bytes.

    Within a quarter of what XLA allots on a CPU. It may allot less where it fuses a product into
    what reads it, as it does for many inputs at once.
    """
    spec, batch, state = group.spec, group.batch_size, state_shapes(group)
    drawn = len(group.world_seeds) * batch * (spec.d_in + group.worlds.n_features)
    step = drawn + group.n_rows * spec.working_floats(batch)
    resampling = 0
    if spec.resample is not None:  # one member at a time
        resampling = spec.resample.working_floats(batch, spec.d_in, spec.d_sae)
    gradient = bytes_of(state.members.params)
    return bytes_of((group, state)) + gradient + _FLOAT * max(step, resampling)


def state_shapes(group: Ensemble) -> TrainState:
    """The shapes of the group's state: one member is traced, and no data are drawn. Which init it
    is makes no difference to them."""
    group = group.once_started()

    def member(world: Drawn, world_seed: Array, sae_seed: Array, h: Hypers) -> Member:
        x = jnp.zeros((INIT_SAMPLES, group.spec.d_in))
        data = InitData(x, world.generating_matrix, world.target)
        return init_member(group.spec, member_key(world_seed, sae_seed), data, h)

    rows = (len(group.world_seeds), len(group.sae_seeds))
    of_one = (group.worlds, group.world_seeds, group.sae_seeds, group.hypers)
    members = jax.eval_shape(member, *jax.tree.map(_without_lead, of_one))
    members = jax.tree.map(lambda a: jax.ShapeDtypeStruct(rows + a.shape, a.dtype), members)
    firings = jax.ShapeDtypeStruct((rows[0], group.worlds.n_features), jnp.int32)
    step, loss = (jax.ShapeDtypeStruct(n, t) for n, t in (((), jnp.int32), (rows, jnp.float32)))
    return TrainState(members, step, firings, loss)  # pyright: ignore[reportArgumentType]


def _without_lead(leaf: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


def bytes_of(tree: object) -> int:
    """Of all arrays of a pytree, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes() -> int:
    """What a device has, as jax may use it; of a CPU, what is left to this process, see
    :func:`toysae.machine.host_bytes`."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return host_bytes()
