"""What scoring costs, compared with the training of the same SAEs."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..evaluation.score import score_sae
from ..evaluation.scoring import score_ensemble
from ..recovery.probe import recovery_probe
from ..training import train_ensemble
from .presets import Preset, preset_ensemble
from .timing import median, seconds_of
from .training import Trainer

_N_STEPS = 20_000
"""Of the training that scoring is compared with, at the preset's batch size."""


@dataclass(frozen=True)
class Scoring:
    """Scoring `shape`'s SAEs on `n_samples`: all at once as a sweep does, or one with records."""

    shape: Preset
    n_samples: int = 100_000
    records: bool = False


_SHAPE = ("untied", 256, 512, 1024)
SCORING_PRESETS = {
    "score-sweep": Scoring(Preset(*_SHAPE, n_members=4)),
    "score-records": Scoring(Preset(*_SHAPE, n_members=1), records=True),
}


def time_scoring(name: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Returns a row: seconds of scoring an SAE, and their share of its training, in turns."""
    p = SCORING_PRESETS[name]
    ensemble = preset_ensemble(p.shape)
    trained = train_ensemble(ensemble, 1, recovery_probe, 1)

    def score() -> float:
        """Seconds an SAE."""
        if p.records:
            sae = jax.tree.map(lambda leaf: leaf[0, 0], trained.saes)
            world = jax.tree.map(lambda leaf: leaf[0], ensemble.worlds)
            return seconds_of(lambda: score_sae(sae, world, p.n_samples).table)
        all_saes = seconds_of(lambda: score_ensemble(ensemble, trained, 1, p.n_samples)[1])
        return all_saes / p.shape.n_members

    compile_s = score()
    trainer = Trainer(p.shape, seconds)
    samples = _N_STEPS * p.shape.batch_size
    timed = [(samples / trainer.rate(), score()) for _ in range(rounds)]
    train_s, score_s = np.array(timed).T
    return {
        "preset": name,
        "shape": p.shape.shape,
        "SAEs": p.shape.n_members,
        "samples": p.n_samples,
        "score s/SAE": median(score_s),
        f"train {_N_STEPS // 1000}k steps, s/SAE": median(train_s, 1),
        "share of training": median(score_s / train_s, 4),
        "compile s": round(compile_s * p.shape.n_members, 2),
        "rounds": {"train s/SAE": train_s.tolist(), "score s/SAE": score_s.tolist()},
    }
