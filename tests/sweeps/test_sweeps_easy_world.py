"""Every recipe, with the toy settings of its row, finds the features of an easy world."""

import pytest

from toysae.evaluation.scoring import score_ensemble
from toysae.recovery.probe import recovery_probe
from toysae.sae import RECIPES, make_spec
from toysae.training import train_ensemble
from toysae.training.members import make_ensemble
from toysae.worlds import make_world

D, RATIO, L0, N_STEPS, SEEDS = 32, 1.5, 3.0, 7000, range(5)


def same_run(name):
    row = RECIPES[name]
    spec = make_spec(name, D, 48)
    return spec.once_started(), spec.init, row.easy, row.signed, tuple(sorted(row.toy.items()))


# Rows that differ in the paper's settings alone are one run.
ROWS = list({same_run(name): name for name in reversed(RECIPES)}.values())[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_most_seeds_recover(name, record_property):
    row = RECIPES[name]
    n_features = D if row.easy == "orthogonal" else round(RATIO * D)
    worlds = [make_world(row.easy, seed, d_in=D, n_features=n_features, l0=L0) for seed in SEEDS]
    cell = make_ensemble(worlds, SEEDS, make_spec(name, D, n_features), row.toy, [0], 256)
    table, _ = score_ensemble(
        cell, train_ensemble(cell, N_STEPS, recovery_probe, 4), N_STEPS, 16_384
    )
    scores = table["mcc" if row.signed else "mcc_abs"]
    failed = f"{int((scores <= 0.95).sum())} of {len(SEEDS)} seeds at or below .95"
    print(f"{name}: mcc {scores.mean():.3f}, {failed}, L0 {table['l0'].mean():.2f}, "
          f"EV {table['ev'].mean():.3f}, dead {table['dead_latents'].mean():.1f}")  # fmt: skip
    record_property("failed", failed)
    assert not table["diverged"].any()
    assert (scores > 0.95).sum() >= 3, f"{failed}: {scores.round(3).tolist()}"
