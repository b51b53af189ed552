"""The engine: runs cells and keeps results on disk; whatever was stopped goes on."""

from ..door import guard
from .cell import Cell, Data
from .options import Options
from .results import Results, open_results
from .run import Unfinished, run
from .worlds import Worlds

__all__ = ["Cell", "Data", "Options", "Results", "Unfinished", "Worlds", "open_results", "run"]

guard(globals())
