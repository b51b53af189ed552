"""Scores against the truth: what was recovered, how surely, and what chance would score.

On device: :func:`cosines`, :func:`mcs` and their means, streaming :func:`add_batch` and
:func:`add_detections`, and the :func:`fista_oracle` ceiling. On the host: matching, the per-feature
and per-latent :class:`Records`, floors, intervals over seeds, comparisons of arms, verdicts by the
truth's own loss, selection of the coefficient, and steps to a threshold. Signed scores are primary;
see :mod:`.mcs`.
"""

from toysae.door import guard
from toysae.recovery.baselines import Dictionary, make_baseline
from toysae.recovery.comparison import paired, resolvable, seed_spread
from toysae.recovery.detections import Detections, add_detections, aurocs, empty_detections
from toysae.recovery.floor import cosine_cdf, random_floor
from toysae.recovery.intervals import (
    Interval,
    clopper_pearson,
    over_seeds,
    share_interval,
    student_t,
)
from toysae.recovery.limits import Limits, limits, phase_transition, sparsity_limit
from toysae.recovery.matching import distinct_matches, mcc, partners
from toysae.recovery.mcs import (
    cosines,
    enc_dec_cosines,
    fraction_above,
    mcs,
    mcs_latents,
    mmcs,
    mmcs_abs,
    mmcs_latents,
    polarisation,
)
from toysae.recovery.minima import bad_minima, verdicts
from toysae.recovery.oracle import fista_codes, fista_oracle
from toysae.recovery.probes import linear_probes
from toysae.recovery.records import (
    THRESHOLDS,
    Records,
    detection_scores,
    direction_scores,
    match,
    measure,
    no_detections,
)
from toysae.recovery.saelens_scores import NormRatio, add_ratio, empty_ratio, saelens_scores
from toysae.recovery.selection import best_coefficient
from toysae.recovery.steps import steps_to
from toysae.recovery.survival import steps_by_feature, survival
from toysae.recovery.totals import Totals, add_batch, empty_totals, summarise

__all__ = [
    "THRESHOLDS", "Detections", "Dictionary", "Interval", "Limits", "NormRatio", "Records",
    "Totals", "add_batch", "add_detections", "add_ratio", "aurocs", "bad_minima",
    "best_coefficient", "clopper_pearson", "cosine_cdf", "cosines", "detection_scores",
    "direction_scores", "distinct_matches", "empty_detections", "empty_ratio", "empty_totals",
    "enc_dec_cosines", "fista_codes", "fista_oracle", "fraction_above", "limits", "linear_probes",
    "make_baseline", "match", "mcc", "mcs", "mcs_latents", "measure", "mmcs", "mmcs_abs",
    "mmcs_latents", "no_detections", "over_seeds", "paired", "partners", "phase_transition",
    "polarisation", "random_floor", "resolvable", "saelens_scores", "seed_spread", "share_interval",
    "sparsity_limit", "steps_by_feature", "steps_to", "student_t", "summarise", "survival",
    "verdicts",
]  # fmt: skip

guard(globals())
