"""The check that no arithmetic costs recovery, and that every row of a bench holds its rounds."""

import ast
from pathlib import Path

import numpy as np
import pytest

import toysae.bench
from toysae.bench.checking import RecoveryCheck
from toysae.bench.presets import Preset
from toysae.bench.training import time_preset
from toysae.recovery.intervals import student_t


@pytest.fixture(scope="module")
def check():
    return RecoveryCheck(Preset("untied", 16, 16, 32, 3, 64, l0=2.0), l1_coeff=0.1, n_steps=60)


def test_what_an_arithmetic_adds_is_paired_over_seeds(check):
    row = check.time(1.0, 1)
    plain, rounded = (np.array(row["rounds"][name]) for name in ("float32", "bfloat16"))
    assert len(plain) == 3 and row["mmcs float32"] == round(plain.mean(), 4)
    more = student_t(rounded - plain)
    assert row["bfloat16 adds"] == f"{more:.4f}"
    assert row["bfloat16 unharmed"] == (more.mean - more.half_width > -check.margin)
    assert row["float32 s"] > 0 and "fused s" not in row  # on a CPU it is interpreted


def test_harm_is_called_so(check, monkeypatch):
    found = {"float32": np.array([0.9, 0.8, 0.7]), "bfloat16": np.array([0.7, 0.61, 0.5])}
    monkeypatch.setattr(RecoveryCheck, "trained", lambda self, name: (found[name], 1.0))
    row = check.time(1.0, 1)
    assert row["bfloat16 unharmed"] is False and row["bfloat16 adds"].startswith("-0.19")


def test_what_a_cpu_does_not_time_is_said():
    assert "interpreter" in time_preset("small-512-fused", 0.01, 1)["not timed"]


def test_every_timer_keeps_its_rounds():
    """Whatever returns a row that names its compile time or its rates."""
    folder = Path(toysae.bench.__file__).parent
    rows = 0
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("time_"):
                rows += 1
                text = ast.unparse(node)
                assert "'rounds':" in text or ".time(" in text, (file.name, node.name)
    assert rows >= 7
