"""Options of a run, none of which changes its numbers."""

from dataclasses import dataclass

from .. import checked
from ..training.devices import UNSPLIT, Split
from .claims import LEASE_SECONDS


@dataclass(frozen=True)
class Options:
    """How a run is done. No option changes a number, but for the order of sums.

    Attributes:
        fresh: discard what runs have written there and begin again; other files are left.
        quiet: no progress bar, and only lines about what went wrong.
        checkpoint_seconds: how often a block's training is saved; 0 for every chunk.
        split: how each SAE is split among several devices.
        keep_weights: keep the SAEs' weights.
        wait: for blocks that other processes train; otherwise return when none is left to take.
        other_versions: also help processes that have another version of toysae or jax.
        lease_seconds: after which others take over from a process that stands still; the same in
            all processes of a directory.
    """

    fresh: bool = False
    quiet: bool = False
    checkpoint_seconds: float = 60.0
    split: Split = UNSPLIT
    keep_weights: bool = True
    wait: bool = True
    other_versions: bool = False
    lease_seconds: float = LEASE_SECONDS

    def __post_init__(self) -> None:
        checked.number("checkpoint_seconds", self.checkpoint_seconds, low=0)
        checked.number("lease_seconds", self.lease_seconds, above=0)


DEFAULTS = Options()
"""The defaults."""
