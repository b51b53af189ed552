"""Ensembles: worlds x members that one compiled program trains, and how devices split them."""

from dataclasses import replace
from typing import Any

from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from .. import pytree
from ..sae import Hypers, SAESpec
from ..worlds import Drawn
from .devices import ROWS, UNSPLIT, Layout, Split
from .optimiser import declared
from .state import TrainState, member_latent_axes


@pytree.dataclass
class Ensemble:
    """Worlds x members of one shape, which one compiled program trains.

    Attributes:
        worlds: stacked worlds, or what stands in for them, leading axis `[n_worlds]`.
        world_seeds: `[n_worlds]`.
        hypers: each `[n_members]`.
        sae_seeds: `[n_members]`.
        spec: of every member.
        batch_size: samples a step, the same for all.
        split: how each SAE is split among several devices.
    """

    worlds: Drawn
    world_seeds: Int[Array, " n_worlds"]
    hypers: Hypers
    sae_seeds: Int[Array, " n_members"]
    spec: SAESpec = pytree.field(pytree_node=False)
    batch_size: int = pytree.field(pytree_node=False, default=256)
    split: Split = pytree.field(pytree_node=False, default=UNSPLIT)

    @property
    def n_rows(self) -> int:
        """The number of SAEs in the ensemble: worlds x members."""
        return self.world_seeds.shape[0] * self.sae_seeds.shape[0]

    def once_started(self) -> "Ensemble":
        """The ensemble without what only the init reads, as the steps see it."""
        spec = self.spec.once_started()
        read = declared(spec, self.hypers)
        hypers = {name: value for name, value in self.hypers.items() if name in read}
        return replace(self, spec=spec, hypers=hypers)


def specs_of(ensemble: Ensemble) -> Ensemble:
    """How each array of an ensemble is split, as an ensemble of specs."""
    worlds, members = P("world"), P("member")
    return replace(ensemble, worlds=worlds, world_seeds=worlds, hypers=members, sae_seeds=members)  # pyright: ignore[reportArgumentType]


STATE: Any = TrainState(ROWS, P(), P("world"), ROWS)  # pyright: ignore[reportArgumentType]
"""How each array of the state is split, as a state of specs."""


def spread_ensemble(ensemble: Ensemble, layout: Layout | None) -> Ensemble:
    """Puts an ensemble on the devices of a layout, if there is one."""
    return ensemble if layout is None else layout.spread(ensemble, specs_of(ensemble))


def pinned(state: TrainState, spec: SAESpec, layout: Layout | None) -> TrainState:
    """The state held split among the devices of a layout, if there is one."""
    if layout is None:
        return state
    axes = member_latent_axes(spec, state.members)
    return replace(state, members=layout.pinned(state.members, axes))
