"""Workers that are started through submitit: on this machine, and what would go to Slurm."""

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import submitit  # noqa: F401  (it configures logging when it is imported)

from toysae import Results, ToysaeError
from toysae.cli import main
from toysae.runs import launch
from toysae.runs.launch import Local, Slurm, Work, launcher, work_command

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("local:2", Local(2)),
        ("slurm:", Slurm()),
        ("slurm:partition=gpu,gpus=1,jobs=32,time=4h",
         Slurm(jobs=32, time=240, gpus=1, partition="gpu")),
        ("slurm:time=90,cpus=8,memory=32G,account=mine,exclude=a[1-2]",
         Slurm(time=90, cpus=8, memory="32G", more=(("account", "mine"), ("exclude", "a[1-2]")))),
    ],
)  # fmt: skip
def test_launchers_are_named_in_a_word(text, wanted):
    assert launcher(text) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slrum:jobs=2", "unknown launcher 'slrum': did you mean 'slurm'"),
        ("local", "'' is not a whole number, as in local:2"),
        ("local:0", "local: 0"),
        ("local:two", "'two' is not a whole number"),
        ("slurm:jobs=0", "give at least 1"),
        ("slurm:gpus", "'gpus' is not NAME=VALUE"),
        ("slurm:time=soon", "time=soon: give minutes"),
        ("slurm:Par tition=x", "'Par tition' is not the name of an option"),
    ],
)
def test_a_launcher_that_cannot_be_is_refused_before_anything_is_written(
    tiny_file, tmp_path, capsys, text, words
):
    with pytest.raises(ToysaeError, match=words.replace("(", r"\(")):
        launcher(text)
    with pytest.raises(SystemExit):
        main(["run", str(tiny_file), "--out", str(tmp_path / "out"), "--launcher", text])
    assert words.split("'")[-1].strip() in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_local_workers_do_it_all(tiny_file, tmp_path, reference):
    out = tmp_path / "out"
    (tmp_path / "json.py").write_text("open('read', 'w')")  # no process takes it for json
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "toysae", "run", str(tiny_file), "--out", str(out),
         "--launcher", "local:2"], env=environment, capture_output=True, text=True, timeout=240,
        cwd=tmp_path,
    )  # fmt: skip
    assert not (tmp_path / "read").exists()
    assert done.returncode == 0, done.stderr
    assert "2 workers started" in done.stderr and "Traceback" not in done.stderr
    assert "100%" in done.stderr, "the bar is followed to its end"
    table, wanted = Results.load(out).table, Results.load(reference).table
    assert table[["cell", "world_seed", "sparsity"]].equals(
        wanted[["cell", "world_seed", "sparsity"]]
    )
    assert (abs(table["mmcs"] - wanted["mmcs"]) < 1e-3).all()  # on another number of devices
    assert not (out / "claims").exists()


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_and_the_same_command_goes_on(tmp_path):
    file, out = tmp_path / "long.py", tmp_path / "out"
    file.write_text(
        "from toysae import Experiment\n"
        "experiment = Experiment('Long?', d_in=16, ratios=(1, 2), l0=1.5, recipes=('tied',),\n"
        "    ceiling=False, l1_coeff=(0.05, 0.2), world_seeds=2, n_steps=20_000, batch_size=256,\n"
        "    n_eval=256, curve_points=3, figures=())\n"
    )
    command = [sys.executable, "-m", "toysae", "run", str(file), "--out", str(out), "--launcher",
               "local:2", "--quiet"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("checkpoints/*")) and first.poll() is None:
        time.sleep(0.2)
    time.sleep(3)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=30)
    assert first.returncode == 130 and "stopped" in said
    until = time.monotonic() + 20
    while subprocess.run(["pgrep", "-f", f"toysae work {out}"], stdout=-1).returncode == 0:
        assert time.monotonic() < until, "a worker was left"
        time.sleep(0.5)
    subprocess.run(command, env=environment, check=True, timeout=300)
    assert len(Results.load(out).table) == 8


def test_workers_that_fail_are_told_of_by_their_own_words(tiny_file, tmp_path, monkeypatch, capsys):
    failing = [sys.executable, "-c", "import sys; sys.exit('toysae: there is no such thing')"]
    monkeypatch.setattr(import_module("toysae.runs.run"), "work_command", lambda out: failing)
    with pytest.raises(SystemExit):
        main(["run", str(tiny_file), "--out", str(tmp_path / "out"), "--launcher", "local:2",
              "--quiet"])  # fmt: skip
    line = capsys.readouterr().err.splitlines()[-1]
    assert "all workers ended and SAEs are left in" in line and "there is no such thing" in line


def test_what_would_go_to_slurm(tmp_path, monkeypatch):
    """The script that submitit writes, with a sbatch that only keeps it."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, body in {
        "sbatch": f'cp "$1" {tmp_path}/submitted.sh; echo "Submitted batch job 77"',
        "squeue": "true", "sacct": "true", "scancel": "true", "srun": "true",
    }.items():  # fmt: skip
        (bin_ / name).write_text(f"#!/bin/sh\n{body}\n")
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    how = launcher("slurm:partition=gpu,gpus=1,jobs=3,time=4h,cpus=8,memory=32G,account=mine")
    executor = how.executor(tmp_path / "workers")
    with executor.batch():
        jobs = [executor.submit(how.work(work_command(tmp_path), "stop", i)) for i in range(3)]
    assert [job.job_id for job in jobs] == ["77_0", "77_1", "77_2"]
    lines = (tmp_path / "submitted.sh").read_text().splitlines()
    asked = dict(line.removeprefix("#SBATCH --").split("=", 1) for line in lines if "=" in line
                 and line.startswith("#SBATCH"))  # fmt: skip
    wanted = {"partition": "gpu", "gpus-per-node": "1", "array": "0-2%3", "time": "240",
              "cpus-per-task": "8", "mem": "32G", "account": "mine",
              "job-name": "toysae"}  # fmt: skip
    assert wanted.items() <= asked.items()
    assert "signal" in asked  # of the end of the time, which queues the job again


def test_without_slurm_or_submitit_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToysaeError, match="launcher slurm: Could not detect .srun."):
        Slurm().executor(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ToysaeError, match=r"pip install 'toysae\[slurm\]', or start `toysae work"):
        Local(2).executor(tmp_path)


def test_a_job_whose_time_is_over_ends_its_worker_and_is_queued_again(monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(launch, "_children", [child])
    work = Work(("toysae", "work", "out"), "stop")
    again = work.checkpoint()
    assert child.poll() == -signal.SIGTERM
    assert again.function == work


def test_local_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4}, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    made = [Local(2).work(["toysae"], "stop", i) for i in range(2)]
    assert [work.cores for work in made] == [(0, 2, 4), (1, 3)]
    told = [(w.environment["JAX_NUM_CPU_DEVICES"], w.environment["CUDA_VISIBLE_DEVICES"])
            for w in made]  # fmt: skip
    assert told == [("3", "2"), ("2", "5")]
