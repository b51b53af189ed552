"""Real shapes on two CPU devices with a cold cache: the run must end.

It did not while inits called LAPACK inside programs: its batched kernels waited for ever for the
threads that they stood on. Small shapes do not show it, kernels split a batch above a size only.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECOVERY = Path(__file__).parents[2] / "experiments" / "recovery.py"
LIMIT = 240  # seconds; it takes less than a fifth of it, or never ends
ARMS = {
    "inits": ["--recipes", "untied", "--inits", "orthogonal", "svd", "--ratios", "1", "4",
              "--n-steps", "300"],
    "codes and data": ["--recipes", "fista", "--inits", "svd-data", "--ratios", "4",
                       "--n-steps", "20"],
}  # fmt: skip


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("trial", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2))])
def test_it_ends(arm, trial, tmp_path):
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cold"),
        "PYTHONFAULTHANDLER": "1",
    }  # fmt: skip
    command = ["from toysae.cli import main; main()", "run", str(RECOVERY), *ARMS[arm],
               "--curve-points", "4", "--n-eval", "1024", "--figures", "mmcs_by_ratio",
               "--out", str(tmp_path / "out"), "--quiet"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", *command], env=environment, capture_output=True, text=True,
        timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "figures" / "mmcs_by_ratio.png").exists()
