"""toysae: does my sparse autoencoder find the true features?

Worlds whose features are known, SAEs trained on them as vmapped ensembles, scores of recovery.
The names below load on first use, so that ``import toysae`` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import ToysaeError

if TYPE_CHECKING:
    from . import evaluation as evaluation
    from . import interop as interop
    from . import lm as lm
    from . import plotting as plotting
    from . import points as points
    from . import recovery as recovery
    from . import runs as runs
    from . import sae as sae
    from . import sweeps as sweeps
    from . import worlds as worlds
    from .devices import use_all_cores as use_all_cores
    from .interop import load_any as load_any
    from .runs import open_results as open_results
    from .sae import SAE as SAE
    from .sae import SAESpec as SAESpec
    from .sae import load_sae as load_sae
    from .sae import make_spec as make_spec
    from .sae import save_sae as save_sae
    from .sweeps import Experiment as Experiment
    from .sweeps import Results as Results
    from .sweeps import run as run
    from .sweeps import train as train
    from .worlds import World as World
    from .worlds import load_world as load_world
    from .worlds import make_world as make_world
    from .worlds import save_world as save_world

_HOME = {
    "SAE": "sae", "SAESpec": "sae", "load_sae": "sae", "make_spec": "sae", "save_sae": "sae",
    "Experiment": "sweeps", "Results": "sweeps", "run": "sweeps", "train": "sweeps",
    "World": "worlds", "load_world": "worlds", "make_world": "worlds", "save_world": "worlds",
    "load_any": "interop", "use_all_cores": "devices", "open_results": "runs",
}  # fmt: skip
_MODULES = (
    "evaluation", "interop", "lm", "plotting", "points", "recovery", "runs", "sae", "sweeps",
    "worlds",
)  # fmt: skip
_PACKAGES = {name: name for name in _MODULES} | {"plot": "plotting", "axes": "axes"}

__version__ = "0.1.0"
__all__ = [
    "SAE", "Experiment", "Results", "SAESpec", "ToysaeError", "World", "evaluation", "interop",
    "lm", "load_any", "load_sae", "load_world", "make_spec", "make_world", "open_results",
    "plotting", "points", "recovery", "run", "runs", "sae", "save_sae", "save_world", "sweeps",
    "train", "use_all_cores", "worlds",
]  # fmt: skip


def __getattr__(name: str):
    if name in _PACKAGES or name in _HOME:
        from .machine import check_addresses

        check_addresses()
    if name in _PACKAGES:
        return import_module(f"{__name__}.{_PACKAGES[name]}")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES} - {"axes"})
