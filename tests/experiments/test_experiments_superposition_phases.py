"""The superposition study refuses sizes that it cannot run, before it trains anything."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from toysae.errors import ToysaeError
from toysae.sweeps import load_experiment
from toysae.sweeps.study import Study

STUDY = load_experiment(Path(__file__).parents[2] / "experiments" / "superposition_phases.py")
assert isinstance(STUDY, Study)
COUNTS = [option for option, value in asdict(STUDY.options).items() if isinstance(value, int)]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((count, 0) for count in COUNTS),
        ("max_sparsity", 0.5),
        ("max_sparsity", float("nan")),
        ("curve_density", 0.0),
        ("curve_density", 1.5),
    ],
)
def test_impossible_sizes_are_refused(option, value, tmp_path):
    with pytest.raises(ToysaeError, match=f"{option} {value} must be"):
        STUDY.run(replace(STUDY.options, **{option: value}), tmp_path, tmp_path)
