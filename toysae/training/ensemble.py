"""What one compiled program trains: worlds x members of one shape, and how devices split them."""

from dataclasses import replace
from typing import Any

from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from .. import pytree
from ..sae import Hypers, SAESpec
from ..worlds import Drawn
from .devices import ROWS, UNSPLIT, Layout, Split
from .optimiser import declared
from .state import TrainState


@pytree.dataclass
class Ensemble:
    """What one compiled program trains: worlds x members of one shape.

    Attributes:
        worlds: stacked worlds, or what stands in for them, leading axis `[n_worlds]`.
        world_seeds: `[n_worlds]`.
        hypers: each `[n_members]`.
        sae_seeds: `[n_members]`.
        spec: of every member.
        batch_size: samples a step, the same for all.
        split: of each SAE among several devices.
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
        """SAEs in the ensemble: worlds x members."""
        return self.world_seeds.shape[0] * self.sae_seeds.shape[0]

    def once_started(self) -> "Ensemble":
        """The ensemble as its steps see it: without what only the init reads."""
        spec = self.spec.once_started()
        read = declared(spec, self.hypers)
        hypers = {name: value for name, value in self.hypers.items() if name in read}
        return replace(self, spec=spec, hypers=hypers)


def specs_of(ensemble: Ensemble) -> Ensemble:
    """How an ensemble is split: an ensemble of the specs."""
    worlds, members = P("world"), P("member")
    return replace(ensemble, worlds=worlds, world_seeds=worlds, hypers=members, sae_seeds=members)  # pyright: ignore[reportArgumentType]


STATE: Any = TrainState(ROWS, P(), P("world"), ROWS)  # pyright: ignore[reportArgumentType]
"""How the state is split: a state of the specs."""


def spread_ensemble(ensemble: Ensemble, layout: Layout | None) -> Ensemble:
    """An ensemble on the devices of a layout."""
    return ensemble if layout is None else layout.spread(ensemble, specs_of(ensemble))
