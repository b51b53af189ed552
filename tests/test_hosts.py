"""Two processes on one machine that train as one: the same SAEs, kept by the first alone."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from toysae import Results, ToysaeError, hosts
from toysae.cli import main
from toysae.sweeps import status

ROOT = Path(__file__).parents[1]
FILE = """
from toysae import Experiment
experiment = Experiment(
    question="One or many?", d_in=8, ratios=(2,), l0=1.5, recipes=("tied", "topk"), ceiling=False,
    l1_coeff=(0.05, 0.2), k=(2, 3), world_seeds=3, n_steps=2_000, batch_size=32, lr=3e-3,
    n_eval=512, curve_points=3, figures=(),
)
"""
EXACT = ["row", "world_seed", "sae_seed", "n_steps", "sparsity"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "asks.py"
    path.write_text(FILE)
    return path


# Over many steps float32 drifts apart where sums are taken in another order, TopK soonest.
FEW_STEPS = ["--n-steps", "200"]
TIED = ["--recipes", "tied"]


def alone(file, out, *more):
    """The table of one process."""
    main(["run", str(file), "--out", str(out), "--quiet", *more])
    return pd.read_csv(out / "table.csv")


def two(file, out, *more, then=lambda processes: None):
    """Two processes with a device each, the second of which writes to a place of its own if it
    writes at all: what each said, and its exit status."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2",
    }  # fmt: skip
    code = "from toysae.cli import main; main()"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, "run", str(file), "--many-hosts", "--quiet",
             "--out", str(out if i == 0 else out.with_name("second")), *more],
            env=shared | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    then(processes)
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, said, strict=True)]


def assert_close(table, alone):
    assert table["cell"].tolist() == alone["cell"].tolist()
    for name in EXACT:
        np.testing.assert_array_equal(table[name], alone[name])
    for name in ("true_l0", "mmcs", "l0", "ev", "mcc"):
        np.testing.assert_allclose(table[name], alone[name], atol=1e-4)


@pytest.mark.parametrize(
    ("n_saes", "recipes"),
    [(6, ["--recipes", "topk"]), pytest.param(12, [], marks=pytest.mark.slow)],
)
def test_two_processes_give_the_scores_of_one(file, tmp_path, n_saes, recipes):
    out, asked = tmp_path / "first", [*FEW_STEPS, *recipes]
    first, second = two(file, out, *asked)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert f"{n_saes} SAEs in" in first[1] and "SAEs" not in second[1]
    assert_close(pd.read_csv(out / "table.csv"), alone(file, tmp_path / "alone", *asked))
    assert not out.with_name("second").exists()  # no shared disk is needed


def test_what_two_began_one_goes_on_with(file, tmp_path, capsys):
    """A signal to either stops both; the checkpoint does not know how many they were."""
    out = tmp_path / "first"

    def stop_the_second(processes):
        deadline = time.monotonic() + 240
        while not list(out.glob("checkpoints/*/[1-9]*.npz")) and time.monotonic() < deadline:
            time.sleep(0.02)
        processes[1].send_signal(signal.SIGTERM)

    ended = two(file, out, *TIED, "--checkpoint-seconds", "0", then=stop_the_second)
    assert [code for code, *_ in ended] == [128 + signal.SIGTERM] * 2, ended
    step = int(re.search(r"is at step ([\d,]+) of", ended[0][2])[1].replace(",", ""))
    assert 0 < step < 2_000 and f" at {step:,}/2,000" in status(out)[0]["begun"].iloc[0]
    main(["run", str(file), "--out", str(out), *TIED])
    assert f"goes on at step {step:,} of 2,000" in capsys.readouterr().err
    assert_close(Results.load(out).table, alone(file, tmp_path / "alone", *TIED))


def test_what_the_first_refuses_all_refuse(file, tmp_path):
    out = tmp_path / "first"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for code, _, err in two(file, out):
        assert code == 2 and "is not empty and not the directory of a run" in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "has no JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID"),
        ({"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a:1"},
         "JAX_NUM_PROCESSES 'two' is not a number"),
    ],
)  # fmt: skip
def test_an_environment_that_says_half_is_refused(given, said, monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ToysaeError, match=said):
        hosts.join()
