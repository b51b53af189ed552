"""toysae: does my sparse autoencoder find the true features?

Worlds whose features are known, SAEs trained on them as vmapped ensembles, scores of recovery.
The names below load on first use, so that ``import toysae`` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import ToysaeError

if TYPE_CHECKING:
    from .devices import use_all_cores as use_all_cores
    from .sae import SAE as SAE
    from .sae import SAESpec as SAESpec
    from .sae import make_spec as make_spec
    from .sweeps import Experiment as Experiment
    from .sweeps import Results as Results
    from .sweeps import axes as axes
    from .sweeps import run as run
    from .sweeps import train as train
    from .worlds import World as World
    from .worlds import make_world as make_world

_HOME = {
    "SAE": "sae", "SAESpec": "sae", "make_spec": "sae",
    "Experiment": "sweeps", "Results": "sweeps", "axes": "sweeps", "run": "sweeps",
    "train": "sweeps",
    "World": "worlds", "make_world": "worlds", "use_all_cores": "devices",
}  # fmt: skip

__version__ = "0.1.0"
__all__ = [
    "SAE", "Experiment", "Results", "SAESpec", "ToysaeError", "World", "axes", "make_spec",
    "make_world", "run", "train", "use_all_cores",
]  # fmt: skip


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
