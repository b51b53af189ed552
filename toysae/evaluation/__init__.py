"""Scores of a trained ensemble or of one SAE, streamed over samples of its worlds."""

from ..door import guard
from .ceilings import at_l0, ceilings
from .score import Scored, score_sae
from .summary import summarise_minima, summarise_runs

__all__ = ["Scored", "at_l0", "ceilings", "score_sae", "summarise_minima", "summarise_runs"]

guard(globals())
