"""Many devices: the worlds and members of an ensemble are split among them.

The mesh has four axes. "world" and "member" split an ensemble: every device runs the same program
on its share of the rows, draws the samples it needs itself, and nothing is sent while it trains.
"batch" and "latent" split the samples and the latents of each SAE that is too large or too slow
for one device; there XLA adds up what the devices hold. Either way the data are the same, and the
scores too, up to the order of sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from .. import hosts
from ..errors import require

MESH_AXES = ("world", "member", "batch", "latent")
ROWS = P("world", "member")
"""How an array `[n_worlds, n_members, ...]` is split."""


@dataclass(frozen=True)
class Split:
    """The numbers of devices among which a step's samples and the latents of each SAE are split."""

    batch: int = 1
    latent: int = 1

    def __post_init__(self) -> None:
        for name in ("batch", "latent"):
            value = getattr(self, name)
            require(value >= 1, f"split {name} {value} must be at least 1")


UNSPLIT = Split()


@dataclass(frozen=True)
class Layout:
    """How the rows of an ensemble are split among devices.

    If the worlds or members are not a multiple of their mesh axis, the last one is repeated to fill
    it up, and the repeated rows are left out of the results.

    Attributes:
        n_worlds: worlds of the ensemble.
        n_members: SAEs on each world.
        mesh: with the axes :data:`AXES`.
    """

    n_worlds: int
    n_members: int
    mesh: Mesh

    @property
    def rows_of_busiest(self) -> int:
        """The number of SAEs on the device that has the most."""
        worlds, members = self.mesh.shape["world"], self.mesh.shape["member"]
        return -(-self.n_worlds // worlds) * -(-self.n_members // members)

    def spread(self, tree: Any, specs: Any) -> Any:
        """Puts a pytree on the devices, split as the specs of its branches say and filled up."""

        def place(spec: P, leaf: Any) -> jax.Array:
            for axis, (name, n) in enumerate(self._lengths(spec)):
                share = self.mesh.shape[name]
                filled = -(-n // share) * share
                if filled > n:
                    leaf = np.take(np.asarray(leaf), np.minimum(np.arange(filled), n - 1), axis)
            return hosts.placed(leaf, NamedSharding(self.mesh, spec))

        return _by_branch(place, specs, tree)

    def gather(self, tree: Any, specs: Any) -> Any:
        """Leaves out the rows with which :meth:`spread` filled up."""
        rows = {"world": self.n_worlds, "member": self.n_members}
        if not any(n % self.mesh.shape[name] for name, n in rows.items()):
            return tree
        on_host = jax.default_backend() == "cpu" and jax.process_count() == 1
        return _by_branch(self._cut_on_host, specs, tree) if on_host else _cut(tree, self, specs)

    def _cut_on_host(self, spec: P, leaf: jax.Array) -> jax.Array:
        """Without a program, which would take longer to compile than the copy."""
        return jax.device_put(np.asarray(leaf)[tuple(slice(n) for _, n in self._lengths(spec))])

    def pinned(self, tree: Any, axes: Any) -> Any:
        """Arrays `[n_worlds, n_members, ...]` held split by rows, and by latents along the axis
        that `axes` gives for each, counted from the end; 0 for none."""
        if self.mesh.shape["latent"] == 1:
            return tree

        def pin(leaf: jax.Array, axis: int) -> jax.Array:
            spec = ["latent" if i == axis else None for i in range(2 - leaf.ndim, 0)]
            sharding = NamedSharding(self.mesh, P("world", "member", *spec))
            return jax.lax.with_sharding_constraint(leaf, sharding)

        return jax.tree.map(pin, tree, axes)

    def _lengths(self, spec: P) -> list[tuple[str, int]]:
        rows = {"world": self.n_worlds, "member": self.n_members}
        return [(name, rows[name]) for name in spec]


@partial(jax.jit, static_argnums=(1, 2))
def _cut(tree: Any, layout: Layout, specs: Any) -> Any:
    """Cuts all leaves in one program: slices outside of it would each be compiled by themselves."""

    def cut(spec: P, leaf: jax.Array) -> jax.Array:
        return leaf[tuple(slice(n) for _, n in layout._lengths(spec))]

    return _by_branch(cut, specs, tree)


def _by_branch(function: Callable[[P, Any], Any], specs: Any, tree: Any) -> Any:
    """Applies `function(spec, leaf)` to every leaf of a tree; `specs` has one for each branch."""
    return jax.tree.map(
        lambda spec, branch: jax.tree.map(lambda leaf: function(spec, leaf), branch),
        specs, tree, is_leaf=lambda node: isinstance(node, P),
    )  # fmt: skip


def over_rows(
    function: Callable[..., Any], layout: Layout | None, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """Returns `function` as it runs on each device's share of the rows; unchanged without a
    layout."""
    if layout is None:
        return function
    split = layout.mesh.shape["batch"] * layout.mesh.shape["latent"] > 1
    manual = {"world", "member"} if split else set(MESH_AXES)
    return jax.shard_map(
        function, mesh=layout.mesh, in_specs=in_specs, out_specs=out_specs, axis_names=manual,
        check_vma=False,
    )  # fmt: skip


def by_batch(x: Float[Array, "batch d_in"]) -> Float[Array, "batch d_in"]:
    """Splits samples along the batch axis of the mesh, inside :func:`over_rows`."""
    if jax.sharding.get_abstract_mesh().shape.get("batch", 1) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, P("batch", None))


def layout_of(
    n_worlds: int,
    n_members: int,
    split: Split = UNSPLIT,
    devices: Sequence[Any] | None = None,
) -> Layout | None:
    """The layout in which the busiest device has the fewest rows; None if one device is enough.

    Worlds are split first, so that no two devices draw the same samples.

    Args:
        n_worlds: worlds of the ensemble.
        n_members: SAEs on each world.
        split: among how many devices the samples and latents of each SAE are split.
        devices: all that jax sees, if not given.

    Raises:
        ToysaeError: there are fewer devices than one SAE is split among.
    """
    devices = jax.devices() if devices is None else devices
    each = split.batch * split.latent
    require(
        each <= len(devices),
        f"batch {split.batch} x latent {split.latent} needs {each} devices and jax sees "
        f"{len(devices)}: lower one",
    )
    all_of_them = jax.process_count() > 1  # each process must hold some rows
    require(
        not all_of_them or len(devices) % each == 0,
        f"batch {split.batch} x latent {split.latent} = {each} does not divide the {len(devices)} "
        "devices of all processes",
    )
    worlds, members = shares(n_worlds, n_members, len(devices) // each, all_of_them)
    if worlds * members * each == 1:
        return None
    shape = (worlds, members, split.batch, split.latent)
    chosen = np.array(devices[: worlds * members * each]).reshape(shape)
    return Layout(n_worlds, n_members, Mesh(chosen, MESH_AXES))


def shares(
    n_worlds: int, n_members: int, n_devices: int, all_of_them: bool = False
) -> tuple[int, int]:
    """Returns into how many shares worlds and members are cut: so that the busiest device has the
    fewest rows, with as few devices as that needs unless `all_of_them` must be used, and cutting
    worlds first."""

    def cost(cut: tuple[int, int]) -> tuple[int, int, int]:
        worlds, members = cut
        busiest = -(-n_worlds // worlds) * -(-n_members // members)
        return busiest, worlds * members, -worlds

    cuts = [(w, m) for w in range(1, n_devices + 1) for m in range(1, n_devices // w + 1)]
    cuts = [cut for cut in cuts if not all_of_them or cut[0] * cut[1] == n_devices]
    return min(cuts, key=cost)
