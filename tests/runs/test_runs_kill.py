"""SIGKILL, SIGINT and a second process: other processes are stopped, and the results stay."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from toysae import Experiment, run
from toysae.cli import main
from toysae.sweeps import load_experiment, status

ROOT = Path(__file__).parents[2]

CHILD = """
import os, signal, sys
out, n, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
count, events = 0, ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
def hook(event, args):
    global count
    if event in events and out in str(args[0]):
        count += 1
        if count == n:
            os.kill(os.getpid(), number)
sys.addaudithook(hook)
from toysae.cli import main
main([*sys.argv[4:], "--out", out, "--checkpoint-seconds", "0", "--quiet"])
print("events", count)
"""
"""A run that sends itself a signal just before it touches its directory for the n-th time."""


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    """Two cells of one program, since most of a child's time is compiling."""
    path = tmp_path_factory.mktemp("experiment") / "asks.py"
    path.write_text(
        "from toysae import Experiment, points\n"
        "experiment = Experiment(question='Does it last?', d_in=8, ratios=1, recipes='tied',\n"
        "    points=points.grid(l0=[1.5, 2.0]), ceiling=False, l1_coeff=(0.05, 0.2),\n"
        "    world_seeds=2, n_steps=40, batch_size=32, lr=3e-3, n_eval=256, curve_points=3,\n"
        "    figures=())\n"
    )
    return path


@pytest.fixture(scope="module")
def reference(tiny_file, tmp_path_factory):
    """The directory of the uninterrupted run."""
    experiment = load_experiment(tiny_file)
    assert isinstance(experiment, Experiment)
    return run(experiment, tmp_path_factory.mktemp("reference") / "out", quiet=True).path


def started(out, n, number, *command):
    """The process, when it has ended."""
    command = [sys.executable, "-c", CHILD, str(out), str(n), str(int(number)), *map(str, command)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        # As many devices as the reference had: with others, sums are taken in another order.
        "JAX_NUM_CPU_DEVICES": str(jax.local_device_count()),
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def child(tiny_file):
    """Runs it in another process: its status, and what it said."""

    def start(out, n=0, number=signal.SIGKILL):
        return started(out, n, number, "run", tiny_file)

    return start


@pytest.fixture(scope="module")
def n_events(tiny_file, tmp_path_factory, reference, assert_same):
    """How often an uninterrupted run touches its directory."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = started(out, 0, signal.SIGKILL, "run", tiny_file)
    assert done.returncode == 0, done.stderr
    assert_same(out, reference)
    return int(done.stdout.split("events ")[1])


def killed_until_done(child, out, points):
    """The processes that it took; each but the last was killed."""
    killed = 0
    for n in points:
        done = child(out, n)
        if done.returncode == 0:
            return killed
        assert done.returncode == -signal.SIGKILL and not done.stderr.count("Traceback")
        killed += 1
    assert child(out).returncode == 0
    return killed


def test_killed_at_random_points_and_run_again_gives_the_same_bits(
    child, n_events, tmp_path, reference, assert_same
):
    rng, out = random.Random(0), tmp_path / "out"
    points = [rng.randrange(n_events // 4, n_events // 2) for _ in range(2)]
    assert killed_until_done(child, out, points) >= 2
    assert_same(out, reference)
    assert not list(out.glob("checkpoints/*")) and not list(out.rglob("*tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_killed_anywhere(child, n_events, tmp_path, reference, assert_same, seed):
    rng, out = random.Random(seed), tmp_path / "out"
    assert killed_until_done(child, out, [rng.randrange(1, n_events) for _ in range(5)])
    assert_same(out, reference)


KILLS = 20
LM = ROOT / "tests" / "lm" / "golden" / "gpt-neox"
SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def commands(tiny_file, tmp_path_factory):
    """What starts the run of an experiment, of a study and of a captured site."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "text.txt").write_text(Path(__file__).read_text(encoding="utf-8"))
    main(["lm", "capture", str(LM), "--text", str(folder / "text.txt"), "--site", SITE, "--n-ctx",
          "16", "--tokens", "2000", "--out", str(folder / "acts"), "--quiet"])  # fmt: skip
    sizes = ["--n-steps", "60", "--batch-size", "16"]
    return {
        "experiment": ["run", tiny_file],
        "study": ["run", ROOT / "experiments" / "label_free_signals", "--smoke", *sizes],
        "site": ["lm", "train", folder / "acts", "--recipes", "untied", "topk", "--l1-coeff", "0.1",
                 "--k", "2", "--sizes", "1", "--seeds", "2", *sizes],
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["experiment", "study", "site"])
def test_killed_twenty_times_it_goes_on_to_the_same_bits(
    commands, tmp_path, assert_same, record_property, kind
):
    """At any touch of the directory; from the start again whenever a run has come to its end."""
    whole, rng, killed = tmp_path / "whole", random.Random(kind), 0
    done = started(whole, 0, signal.SIGKILL, *commands[kind])
    assert done.returncode == 0, done.stderr
    n_events = int(done.stdout.split("events ")[1])
    for trial in range(KILLS):
        out = tmp_path / f"{trial}"
        while killed < KILLS:
            done = started(out, rng.randrange(1, n_events), signal.SIGKILL, *commands[kind])
            if done.returncode == 0:
                break
            assert done.returncode == -signal.SIGKILL and "Traceback" not in done.stderr
            killed += 1
        done = started(out, 0, signal.SIGKILL, *commands[kind])
        assert done.returncode == 0, done.stderr
        assert_same(out, whole)
        assert not list(out.glob("checkpoints/*")) and not list(out.rglob("*tmp*"))
        if killed == KILLS:
            break
    record_property("kills", killed)
    assert killed == KILLS


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_asked_to_stop_it_says_how_to_go_on(
    child, n_events, tmp_path, reference, assert_same, number, monkeypatch
):
    out = tmp_path / "out"
    done = child(out, n_events // 4, number)
    assert done.returncode == 128 + number
    asked, stopped = done.stderr.splitlines()[-2:]
    assert "stopping at the end of this chunk" in asked
    assert "of 8 SAEs are finished" in stopped and "of 40; all of it is kept in" in stopped
    assert str(out) in stopped
    assert status(out)[0]["begun"].tolist()[0].endswith("/40"), "no snapshot was kept"
    monkeypatch.setenv("COLUMNS", "160")
    again = stopped.split("Go on with: toysae ")[1].split()
    main(again)
    assert_same(out, reference)


DRAWN = ["--figures", "mmcs_by_ratio", "learning_curves"]


def run_with_figures(out, tiny_file):
    command = [sys.executable, "-m", "toysae", "run", str(tiny_file), *DRAWN, "--out", str(out),
               "--checkpoint-seconds", "0", "--quiet"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_at_any_moment_from_the_first_also_while_figures_are_drawn(
    tiny_file, tmp_path, number, record_property
):
    """On two devices: 15 moments of each signal, over the whole of a run, the last ones while it
    draws; then the run goes on to the same table and the same figures."""
    whole = tmp_path / "whole"
    begun = time.monotonic()
    assert run_with_figures(whole, tiny_file).wait() == 0
    seconds, rng, hit = time.monotonic() - begun, random.Random(int(number)), 0
    moments = [0.001, 0.05, *(rng.uniform(0, seconds) for _ in range(8))]
    moments += [rng.uniform(0.8, 1) * seconds for _ in range(5)]
    for i, moment in enumerate(moments):
        out = tmp_path / f"{i}"
        process = run_with_figures(out, tiny_file)
        time.sleep(moment)
        process.send_signal(number)
        said, status_ = process.communicate(timeout=60)[1], process.returncode
        # Before toysae's first file runs a signal is Python's own.
        assert "Traceback" not in said or "toysae/" not in said, (moment, said)
        assert status_ in (0, -number, 128 + number, 1), (moment, status_, said)
        hit += status_ != 0
        assert run_with_figures(out, tiny_file).wait() == 0
        for file in (out / "table.csv", *sorted((out / "figures").iterdir())):
            other = whole / file.relative_to(out)
            assert file.read_bytes() == other.read_bytes(), (moment, file)
        assert not list(out.rglob("*tmp*")) and not list(out.glob("checkpoints/*"))
    record_property("signals", hit)
    assert hit > 5
