"""Scores against the truth: what was recovered, how surely, and what chance would score.

On device: :func:`cosines`, :func:`mcs` and their means, streaming :func:`add_batch`, and the
:func:`fista_oracle` ceiling. On the host: matching, floors, intervals over seeds, selection of
the coefficient, and steps to a threshold. Signed scores are primary; see :mod:`.mcs`.
"""

from toysae.recovery.baselines import Dictionary, make_baseline
from toysae.recovery.evaluate import Totals, add_batch, empty_totals, summarise
from toysae.recovery.floor import cosine_cdf, random_floor
from toysae.recovery.intervals import Interval, over_seeds, student_t
from toysae.recovery.matching import distinct_matches, mcc
from toysae.recovery.mcs import (
    cosines,
    fraction_above,
    mcs,
    mcs_latents,
    mmcs,
    mmcs_abs,
    mmcs_latents,
)
from toysae.recovery.oracle import fista_codes, fista_oracle
from toysae.recovery.selection import best_coefficient
from toysae.recovery.steps import steps_to

__all__ = [
    "Dictionary",
    "Interval",
    "Totals",
    "add_batch",
    "best_coefficient",
    "cosine_cdf",
    "cosines",
    "distinct_matches",
    "empty_totals",
    "fista_codes",
    "fista_oracle",
    "fraction_above",
    "make_baseline",
    "mcc",
    "mcs",
    "mcs_latents",
    "mmcs",
    "mmcs_abs",
    "mmcs_latents",
    "over_seeds",
    "random_floor",
    "steps_to",
    "student_t",
    "summarise",
]
